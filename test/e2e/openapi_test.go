package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

// TestGeneratedRequests has Schemathesis derive requests from the OpenAPI document
// that the product serves, both such that fit it and such that do not. Every
// response must be one that the document describes, requests that fit must be
// accepted, and others refused. testdata/schemathesis.toml has the settings, and
// schemathesis.py what a schema cannot express.
func TestGeneratedRequests(t *testing.T) {
	t.Parallel()
	harness.NeedsProcess(t)
	hooks, err := filepath.Abs("testdata/schemathesis.py")
	require.NoError(t, err)
	python := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "python3", args...)
		cmd.Dir = harness.Dir(t)
		cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "SCHEMATHESIS_HOOKS="+hooks,
			"PYTHONPATH="+filepath.Join(harness.Root(), ".tools", "schemathesis")) // before the system's own
		return cmd
	}
	out, err := python("-c", "import schemathesis").CombinedOutput()
	require.NoError(t, err, "Schemathesis is not installed for this python3: run `make tools`\n%s", out)
	iss := authztest.NewIssuer()
	t.Cleanup(iss.Close)
	b, _ := harness.BouncerAndFront(t, endpointsConfig(t, iss, "sqlite://"+harness.Dir(t)+"/revocations.db",
		"resource: {resource: https://api.example}\n"), "127.0.0.1:9")
	signer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(messageFor(iss, r.URL.Path)))
	}))
	t.Cleanup(signer.Close)
	cmd := python("-c", "from schemathesis.cli import schemathesis; schemathesis()",
		"--config-file", filepath.Join(filepath.Dir(hooks), "schemathesis.toml"),
		"run", b.HTTP+"/openapi.json", "--url", b.HTTP, "--header", "Authorization: "+apiToken,
		"--no-color", "--continue-on-failure")
	cmd.Env = append(cmd.Env, "ISSUER="+iss.Name, "SIGNER="+signer.URL)
	out, err = cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	tested := regexp.MustCompile(`Selected: (\d+)/(\d+)\s+Tested: (\d+)`).FindSubmatch(out)
	require.NotNil(t, tested, "%s", out)
	assert.Equal(t, tested[2], tested[1], "every operation is selected")
	assert.Equal(t, tested[2], tested[3], "every operation is tested")
	t.Logf("%s of CPU time", cmd.ProcessState.UserTime())
}

// messageFor signs a message that the endpoint at path accepts.
func messageFor(iss *authztest.Issuer, path string) string {
	action := func(kind string, more map[string]any) string {
		claims := map[string]any{"iss": nil, "sub": nil, "aud": nil, "iat": nil, "exp": nil, "jti": nil,
			"id": "1", "expiration": time.Now().Add(30 * time.Second).Unix(), "resource": "shop", "action": kind}
		for k, v := range more {
			claims[k] = v
		}
		return iss.Mint(claims)
	}
	switch path {
	case "/oidc/backchannel-logout":
		return iss.Mint(map[string]any{"aud": "shop", "events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}},
			authztest.Header("typ", "logout+jwt"))
	case "/ssf/events":
		return iss.Mint(map[string]any{"aud": "https://bouncer.example/ssf", "sub": nil, "exp": nil,
			"sub_id": map[string]any{"format": "iss_sub", "iss": iss.Name, "sub": "bob"},
			"events": map[string]any{"https://schemas.openid.net/secevent/caep/event-type/session-revoked": map[string]any{}}},
			authztest.Header("typ", "secevent+jwt"))
	case "/keycloak/k_push_not_before":
		return action("PUSH_NOT_BEFORE", map[string]any{"notBefore": time.Now().Add(-time.Hour).Unix()})
	case "/keycloak/k_logout":
		return action("LOGOUT", map[string]any{"keycloakSessionIds": []string{"s-1"}})
	case "/keycloak/k_test_available":
		return action("TEST_AVAILABILITY", nil)
	case "/oauth2/revoke", "/v1/revocations":
		return iss.Mint(nil)
	}
	panic(fmt.Sprintf("no message is defined for %s", path))
}
