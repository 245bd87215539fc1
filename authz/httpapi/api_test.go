package httpapi_test

import (
	"context"
	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi/httpapitest"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestUnknownResources(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, nil)
	for _, path := range []string{"/v1", "/v1/revocations/", "/v1//revocations", "/V1/revocations", "/../livez", "/debug/pprof/"} {
		assert.Equal(t, 404, b.Do("GET", path, "").Code, path)
	}
}

// A method that a path does not have is answered 405, with the methods that it has.
// A path with GET has HEAD, as in net/http; OPTIONS is a method like any other.
func TestMethods(t *testing.T) {
	t.Parallel()
	d := httpapitest.NewReceivers(t, func(o *httpapitest.Setup) {
		o.Config.TokenFile = httpapitest.SecretFile(t, httpapitest.APIToken) // adds the endpoints of signing in
	})
	methods := map[string][]string{}
	for _, e := range d.API.Endpoints() {
		methods[e.Path] = append(methods[e.Path], e.Method)
		if e.Method == http.MethodGet {
			methods[e.Path] = append(methods[e.Path], http.MethodHead)
		}
	}
	assert.Greater(t, len(methods), 15)
	for path, have := range methods {
		slices.Sort(have)
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "QUERY"} {
			w := d.Do(method, path, "")
			if slices.Contains(have, method) {
				assert.NotEqual(t, 405, w.Code, "%s %s", method, path)
				continue
			}
			assert.Equal(t, 405, w.Code, "%s %s", method, path)
			assert.Equal(t, strings.Join(have, ", "), w.Header().Get("Allow"), "%s %s", method, path)
		}
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
