package httpapi_test

import (
	"errors"
	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/httpapitest"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	draining := make(chan struct{})
	var keys error
	parts := []httpapi.ReadinessCheck{{"keys", func() error { return keys }}, {"follower", func() error { return nil }}}
	b := httpapitest.New(t, func(o *httpapitest.Setup) { o.Checks, o.Draining = parts, draining })
	guarded := httpapitest.New(t, func(o *httpapitest.Setup) {
		o.Checks = parts
		httpapitest.WithToken(httpapitest.SecretFile(t, httpapitest.APIToken))(o)
	})

	assert.Equal(t, 200, b.Do("GET", "/readyz", "").Code)
	keys = errors.New("dial tcp 10.9.8.7:443: refused")
	w := b.Do("GET", "/readyz", "")
	require.Equal(t, 503, w.Code)
	var out httpapi.Readiness
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &out))
	assert.Equal(t, httpapi.Readiness{Status: "not_ready", Checks: []httpapi.CheckResult{{"keys", false, keys.Error()}, {"follower", true, ""}}}, out)
	assert.Equal(t, "not_ready\n- keys dial tcp 10.9.8.7:443: refused\n+ follower\n", b.Do("GET", "/readyz", "", "Accept", "text/plain").Body.String())

	w = guarded.Do("GET", "/readyz", "")
	assert.Equal(t, 503, w.Code)
	assert.NotContains(t, w.Body.String(), "10.9.8.7", "strangers see names only")
	assert.Contains(t, guarded.Do("GET", "/readyz", "", "Authorization", "Bearer "+httpapitest.APIToken).Body.String(), "10.9.8.7")

	keys = nil
	close(draining)
	assert.Contains(t, b.Do("GET", "/readyz", "").Body.String(), `"draining"`)
	assert.Equal(t, 503, b.Do("GET", "/readyz", "").Code)
	assert.Equal(t, 200, b.Do("GET", "/livez", "").Code)
	b.Ledger.SetFail(authz.ErrUnavailable)
	assert.Equal(t, 200, b.Do("GET", "/livez", "", "Host", "pod.cluster.local").Code)
	assert.Contains(t, b.Do("GET", "/metrics", "").Body.String(), `jwt_bouncer_http_requests_total{code="503",source="health"} `)
}
