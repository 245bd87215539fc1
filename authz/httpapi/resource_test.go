package httpapi_test

import (
	"errors"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/httpapitest"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestResourceMetadata(t *testing.T) {
	t.Parallel()
	const path = "/.well-known/oauth-protected-resource/v1"
	assert.Equal(t, 404, httpapitest.New(t, nil).Do("GET", path, "").Code, "not configured")
	var broken error
	b := httpapitest.New(t, func(o *httpapitest.Setup) {
		o.Resource = &httpapi.Resource{Path: path, Document: func() ([]byte, error) { return []byte(`{"resource":"x"}`), broken }}
	})
	w := b.Do("GET", path, "", "Origin", "https://app.example", "Sec-Fetch-Site", "cross-site")
	assert.Equal(t, 200, w.Code)
	assert.JSONEq(t, `{"resource":"x"}`, w.Body.String())
	assert.Equal(t, "application/json", w.Header().Get("Content-Type"))
	assert.Equal(t, "*", w.Header().Get("Access-Control-Allow-Origin"))
	assert.Equal(t, 405, b.Do("POST", path, "").Code)
	assert.Equal(t, 404, b.Do("GET", path+"/", "").Code)
	broken = errors.New("x")
	assert.Equal(t, 500, b.Do("GET", path, "").Code)
}
