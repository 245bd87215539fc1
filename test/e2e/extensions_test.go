package e2e

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/envoy"
	"jwtbouncer/test/harness"
)

// Context extensions from Envoy's route configuration select a route. A client
// cannot set them.
func TestContextExtensions(t *testing.T) {
	t.Parallel()
	r := harness.NewRig(t, harness.RigOptions{NoFront: true, Config: `
routes:
  - {name: open, public: true, match: {context_extensions: {policy: open}}}
  - name: operators
    match: {context_extensions: {policy: operators}}
    scopes: [operate]
    allow: ["'operators' in token.groups && request.extensions.policy == 'operators'"]
  - {name: rest}
`})
	front := func(extensions map[string]string) *harness.Front {
		t.Helper()
		text, err := envoy.SampleConfig(envoy.Sample{Listen: "127.0.0.1:0", Service: r.Bouncer.GRPC, Upstream: r.Upstream.Addr, Extensions: extensions})
		require.NoError(t, err)
		return harness.FrontOf(t, harness.Envoy(t, text), "ingress")
	}
	open, operators := front(map[string]string{"policy": "open"}), front(map[string]string{"policy": "operators"})
	operator := r.Token(map[string]any{"scope": "operate", "groups": []string{"operators"}})
	for name, c := range map[string]struct {
		front  *harness.Front
		header []string
		want   int
	}{
		"open":                       {open, nil, 200},
		"open, with a bad token":     {open, []string{"Authorization", "Bearer x"}, 200},
		"operators, anonymous":       {operators, nil, 401},
		"operators, spoofed":         {operators, []string{"policy", "open", "x-context-extensions", "policy=open"}, 401},
		"operators, plain token":     {operators, []string{"Authorization", "Bearer " + r.Token(nil)}, 403},
		"operators, not in the list": {operators, []string{"Authorization", "Bearer " + r.Token(map[string]any{"scope": "operate"})}, 403},
		"operators":                  {operators, []string{"Authorization", "Bearer " + operator}, 200},
	} {
		reply, err := c.front.Do(t.Context(), "GET", "/x", c.header...)
		require.NoError(t, err)
		assert.Equalf(t, c.want, reply.Status, "%s: %s", name, reply.Body)
	}
}
