package httpapi_test

import (
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/httpapitest"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	draining := make(chan struct{})
	keys := httpapi.Condition{Part: "keys", State: httpapi.StateOK, Age: time.Second}
	revocations := httpapi.Condition{Part: "revocations", State: httpapi.StateOK, Age: -1}
	conditions := func() []httpapi.Condition { return []httpapi.Condition{keys, revocations} }
	b := httpapitest.New(t, func(o *httpapitest.Setup) { o.Conditions, o.Draining = conditions, draining })
	guarded := httpapitest.New(t, func(o *httpapitest.Setup) {
		o.Conditions = conditions
		httpapitest.WithToken(httpapitest.SecretFile(t, httpapitest.APIToken))(o)
	})
	read := func(b *httpapitest.Bench, code int, header ...string) httpapi.Readiness {
		w := b.Do("GET", "/readyz", "", header...)
		require.Equal(t, code, w.Code)
		var out httpapi.Readiness
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &out))
		return out
	}
	one := 1.0
	good := httpapi.PartResult{Name: "keys", Ready: true, State: "ok", Age: &one}
	unloaded := httpapi.PartResult{Name: "revocations", Ready: true, State: "ok"}
	assert.Equal(t, httpapi.Readiness{Status: "ready", Parts: []httpapi.PartResult{good, unloaded}}, read(b, 200))

	// Degraded is ready: a probe must not take every sidecar out of service at once.
	revocations = httpapi.Condition{Part: "revocations", State: httpapi.StateDegraded, Reason: "denying tokens (503)", Detail: "dial tcp 10.9.8.7:5432: refused", Age: 44 * time.Second, Bound: 30 * time.Second}
	age := 44.0
	degraded := httpapi.PartResult{Name: "revocations", Ready: true, State: "degraded", Reason: "denying tokens (503): dial tcp 10.9.8.7:5432: refused", Age: &age, Bound: 30}
	assert.Equal(t, httpapi.Readiness{Status: "degraded", Parts: []httpapi.PartResult{good, degraded}}, read(b, 200))
	assert.Equal(t, "degraded", b.API.Status())
	assert.Equal(t, "degraded\n+ keys\n~ revocations denying tokens (503): dial tcp 10.9.8.7:5432: refused\n", b.Do("GET", "/readyz", "", "Accept", "text/plain").Body.String())
	stranger := degraded
	stranger.Reason = "denying tokens (503)"
	assert.Equal(t, []httpapi.PartResult{good, stranger}, read(guarded, 200).Parts, "strangers see no error")
	assert.Equal(t, degraded, read(guarded, 200, "Authorization", "Bearer "+httpapitest.APIToken).Parts[1])

	keys = httpapi.Condition{Part: "keys", State: httpapi.StateNotReady, Detail: "10.9.8.7", Age: -1}
	out := read(b, 503)
	assert.Equal(t, "not_ready", out.Status)
	assert.Equal(t, httpapi.PartResult{Name: "keys", State: "not_ready", Reason: "10.9.8.7"}, out.Parts[0])
	assert.NotContains(t, guarded.Do("GET", "/readyz", "", "Accept", "text/plain").Body.String(), "10.9.8.7")
	assert.Contains(t, b.Do("GET", "/readyz", "", "Accept", "text/plain").Body.String(), "- keys 10.9.8.7\n")

	keys = httpapi.Condition{Part: "keys", State: httpapi.StateOK}
	close(draining)
	assert.Equal(t, "draining", read(b, 503).Status)
	assert.Equal(t, 200, b.Do("GET", "/livez", "").Code)
	b.Ledger.SetFail(authz.ErrUnavailable)
	assert.Equal(t, 200, b.Do("GET", "/livez", "", "Host", "pod.cluster.local").Code)
	assert.Contains(t, b.Do("GET", "/metrics", "").Body.String(), `jwt_bouncer_http_requests_total{code="503",source="health"} `)
}
