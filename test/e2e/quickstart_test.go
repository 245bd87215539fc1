package e2e

import (
	"testing"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// TestQuickStart: README's five commands lead from a clone to a revoked token that
// a real Envoy denies. The identity provider is a test's; `make test-live-idp` runs the
// same with a certified OpenID Provider.
func TestQuickStart(t *testing.T) {
	t.Parallel()
	iss := authztest.NewIssuer()
	t.Cleanup(iss.Close)
	harness.QuickStart(t, iss.Name, "api", iss.Mint(map[string]any{"aud": "api", "jti": "quick-start"}), harness.Port(t))
}
