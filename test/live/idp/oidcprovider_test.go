package idp

import (
	"context"
	"fmt"
	"html"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// startProvider starts panva's oidc-provider, which tells logouts to logoutURI.
func startProvider(t *testing.T, port int, logoutURI string) *harness.Process {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	issuer := fmt.Sprint("http://127.0.0.1:", port)
	return harness.Server(t, harness.ServerOptions{
		Name: "oidc-provider", Path: "node", Args: []string{filepath.Join(dir, "provider.mjs"), fmt.Sprint(port), logoutURI}, Self: true, Within: 60 * time.Second,
		Ready: func(ctx context.Context) error {
			_, err := harness.Get(ctx, issuer+"/.well-known/openid-configuration")
			return err
		},
	})
}

var (
	action = regexp.MustCompile(`action="([^"]+)"`)
	prompt = regexp.MustCompile(`name="prompt" value="([^"]+)"`)
	xsrf   = regexp.MustCompile(`name="xsrf" value="([^"]+)"`)
)

// signIn completes login and consent and returns the access token.
func (b *browser) signIn(issuer, user string) string {
	b.t.Helper()
	at, text, back := b.fetch("GET", authorize(issuer, "openid read")+"&resource=urn:api", nil)
	for range 4 {
		if back != nil {
			break
		}
		where, kind := action.FindStringSubmatch(text), prompt.FindStringSubmatch(text)
		require.NotNilf(b.t, where, "no form at %s:\n%s", at, text)
		require.NotNilf(b.t, kind, "no form at %s:\n%s", at, text)
		target, err := at.Parse(html.UnescapeString(where[1]))
		require.NoError(b.t, err)
		at, text, back = b.fetch("POST", target.String(), url.Values{"prompt": {kind[1]}, "login": {user}, "password": {"x"}})
	}
	access, _ := b.redeem(issuer+"/token", back, url.Values{"resource": {"urn:api"}})
	return access
}

func (b *browser) signOut(issuer string) {
	b.t.Helper()
	_, text, _ := b.fetch("GET", issuer+"/session/end", nil)
	token := xsrf.FindStringSubmatch(text)
	require.NotNilf(b.t, token, "no form:\n%s", text)
	b.fetch("POST", issuer+"/session/end/confirm", url.Values{"xsrf": {token[1]}, "logout": {"yes"}})
}

// TestOIDCProvider: README's commands, with the configuration that init writes for a
// certified OpenID Provider, deny a revoked token at Envoy. With that configuration,
// Envoy allows a user who has signed in at the provider, denies the user after signing
// out there, and allows the user again after signing in. A provider that is started
// again has another key; the tokens of the first are denied.
func TestOIDCProvider(t *testing.T) {
	sidecar, port := harness.Port(t), harness.Port(t)
	logoutURI, issuer := fmt.Sprintf("http://127.0.0.1:%d/oidc/backchannel-logout", sidecar), fmt.Sprint("http://127.0.0.1:", port)
	p := startProvider(t, port, logoutURI)
	front := harness.QuickStart(t, issuer, "api", newBrowser(t).signIn(issuer, "carol"), sidecar, "--client", "shop")
	i := &installation{t: t, front: front}

	alice, bob := newBrowser(t), newBrowser(t)
	first, other := alice.signIn(issuer, "alice"), bob.signIn(issuer, "bob")
	i.allowed("alice", first)
	i.allowed("bob", other)
	alice.signOut(issuer)
	i.soon("alice has signed out", first, 401)
	assert.Containsf(t, p.Log(), "backchannel.success", "the provider's log:\n%s", p.Log())
	assert.NotContainsf(t, p.Log(), "error", "the provider's log:\n%s", p.Log())
	i.allowed("another user", other)
	i.allowedAgain("alice has signed in again", func() string { return newBrowser(t).signIn(issuer, "alice") })

	p.Stop(syscall.SIGTERM, 10*time.Second)
	startProvider(t, port, logoutURI)
	next := newBrowser(t).signIn(issuer, "bob")
	require.NotEqual(t, keyID(t, other), keyID(t, next))
	i.soon("the new key is accepted", next, 200)
	i.soon("the first key is gone", other, 401)
}
