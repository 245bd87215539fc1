package httpapi

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestResourceMetadata(t *testing.T) {
	t.Parallel()
	const path = "/.well-known/oauth-protected-resource/v1"
	assert.Equal(t, 404, newBench(t, nil).do("GET", path, "").Code, "not configured")
	var broken error
	b := newBench(t, func(o *Options) {
		o.Resource = &Resource{Path: path, Document: func() ([]byte, error) { return []byte(`{"resource":"x"}`), broken }}
	})
	w := b.do("GET", path, "", "Origin", "https://app.example", "Sec-Fetch-Site", "cross-site")
	assert.Equal(t, 200, w.Code)
	assert.JSONEq(t, `{"resource":"x"}`, w.Body.String())
	assert.Equal(t, "application/json", w.Header().Get("Content-Type"))
	assert.Equal(t, "*", w.Header().Get("Access-Control-Allow-Origin"))
	assert.Equal(t, 405, b.do("POST", path, "").Code)
	assert.Equal(t, 404, b.do("GET", path+"/", "").Code)
	broken = errors.New("x")
	assert.Equal(t, 500, b.do("GET", path, "").Code)
}
