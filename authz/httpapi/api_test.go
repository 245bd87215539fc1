package httpapi_test

import (
	"context"
	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi/httpapitest"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestUnknownResources(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, nil)
	for _, path := range []string{"/v1", "/v1/revocations/", "/v1//revocations", "/V1/revocations", "/../livez", "/debug/pprof/"} {
		assert.Equal(t, 404, b.Do("GET", path, "").Code, path)
	}
	for _, method := range []string{"PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"} {
		w := b.Do(method, "/v1/revocations", "")
		assert.Equal(t, 405, w.Code, method)
		assert.Equal(t, "GET, POST", w.Header().Get("Allow"))
	}
}

func TestPanicIsAnswered(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, func(o *httpapitest.Setup) { o.Lister = nilLister{} })
	w := b.Do("GET", "/v1/revocations", "")
	assert.Equal(t, 500, w.Code)
	assert.Contains(t, b.Log.String(), "panic in an HTTP handler")
	assert.NotContains(t, b.Log.String(), "secret detail")
}

type nilLister struct{}

func (nilLister) List(context.Context, authz.Filter) ([]authz.Revocation, string, error) {
	panic("secret detail")
}
