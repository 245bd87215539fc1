//go:build idp

package idp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// provider is the running identity provider.
type provider struct {
	issuer string
	log    *output
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func startProvider(t *testing.T, port int, logoutURI string) *provider {
	t.Helper()
	p := &provider{issuer: fmt.Sprint("http://127.0.0.1:", port), log: &output{}}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "node", "provider.mjs", fmt.Sprint(port), logoutURI)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	require.NoError(t, cmd.Start(), "Node.js is needed")
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log("identity provider:\n" + p.log.String())
		}
	})
	harness.Eventually(t, 60*time.Second, "the identity provider listens", func(context.Context) error {
		if !strings.Contains(p.log.String(), "listening") {
			return errors.New(p.log.String())
		}
		return nil
	})
	return p
}

// browser is a user's browser at the provider.
type browser struct {
	t      *testing.T
	client *http.Client
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &browser{t, &http.Client{Jar: jar, Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(r *http.Request, _ []*http.Request) error {
			if r.URL.Path == "/callback" {
				return http.ErrUseLastResponse
			}
			return nil
		}}}
}

// fetch returns the page's address and text, and the target of a redirect to the
// client.
func (b *browser) fetch(method, address string, form url.Values) (*url.URL, string, *url.URL) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, address, strings.NewReader(form.Encode()))
	require.NoError(b.t, err)
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := b.client.Do(req)
	require.NoError(b.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(b.t, err)
	require.Lessf(b.t, resp.StatusCode, 400, "%s %s: %s %s", method, address, resp.Status, text)
	location, _ := resp.Location()
	return resp.Request.URL, string(text), location
}

var (
	action = regexp.MustCompile(`action="([^"]+)"`)
	prompt = regexp.MustCompile(`name="prompt" value="([^"]+)"`)
	xsrf   = regexp.MustCompile(`name="xsrf" value="([^"]+)"`)
)

// signIn completes login and consent and returns the access token.
func (b *browser) signIn(issuer, user string) string {
	b.t.Helper()
	const verifier = "a-code-verifier-of-at-least-forty-three-characters"
	sum := sha256.Sum256([]byte(verifier))
	challenge := base64.RawURLEncoding.EncodeToString(sum[:])
	at, text, back := b.fetch("GET", issuer+"/auth?"+url.Values{
		"client_id": {"shop"}, "response_type": {"code"}, "scope": {"openid read"}, "resource": {"urn:api"}, "redirect_uri": {"http://127.0.0.1/callback"},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"}}.Encode(), nil)
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
	require.NotNil(b.t, back, "no code")
	require.NotEmptyf(b.t, back.Query().Get("code"), "no code: %s", back)
	_, text, _ = b.fetch("POST", issuer+"/token", url.Values{"grant_type": {"authorization_code"}, "code": {back.Query().Get("code")}, "code_verifier": {verifier},
		"redirect_uri": {"http://127.0.0.1/callback"}, "client_id": {"shop"}, "client_secret": {"a-secret-of-the-test"}, "resource": {"urn:api"}})
	var tokens struct {
		AccessToken string `json:"access_token"`
	}
	err := json.Unmarshal([]byte(text), &tokens)
	require.NoErrorf(b.t, err, "no JWT access token: %s", text)
	require.Equalf(b.t, 2, strings.Count(tokens.AccessToken, "."), "no JWT access token: %v %s", err, text)
	return tokens.AccessToken
}

func (b *browser) signOut(issuer string) {
	b.t.Helper()
	_, text, _ := b.fetch("GET", issuer+"/session/end", nil)
	token := xsrf.FindStringSubmatch(text)
	require.NotNilf(b.t, token, "no form:\n%s", text)
	b.fetch("POST", issuer+"/session/end/confirm", url.Values{"xsrf": {token[1]}, "logout": {"yes"}})
}

// TestQuickStartAtARealProvider: README's commands, with the configuration that
// init writes for a certified OpenID Provider, deny a revoked token at Envoy. With
// that configuration, Envoy allows a user who has signed in at the provider, denies
// the user after signing out there, and allows the user again after signing in.
func TestQuickStartAtARealProvider(t *testing.T) {
	sidecar := harness.Port(t)
	p := startProvider(t, harness.Port(t), fmt.Sprintf("http://127.0.0.1:%d/oidc/backchannel-logout", sidecar))
	front := harness.QuickStart(t, p.issuer, "api", newBrowser(t).signIn(p.issuer, "carol"), sidecar, "--client", "shop")

	alice, bob := newBrowser(t), newBrowser(t)
	first, other := alice.signIn(p.issuer, "alice"), bob.signIn(p.issuer, "bob")
	for _, token := range []string{first, other} {
		r := front.Bearer(t, token)
		require.Equalf(t, 200, r.Status, "signed in: %s", r.Header.Get("Www-Authenticate"))
	}
	alice.signOut(p.issuer)
	harness.Eventually(t, 10*time.Second, "the token is denied", func(ctx context.Context) error {
		r, err := front.Do(ctx, http.MethodGet, "/", "Authorization", "Bearer "+first)
		if err == nil && r.Status != 401 {
			err = errors.New(http.StatusText(r.Status))
		}
		return err
	})
	assert.Containsf(t, p.log.String(), "backchannel.success", "the provider's log:\n%s", p.log)
	assert.NotContainsf(t, p.log.String(), "error", "the provider's log:\n%s", p.log)
	assert.Equal(t, 200, front.Bearer(t, other).Status, "another user")
	harness.Eventually(t, 10*time.Second, "signing in again works", func(ctx context.Context) error {
		r, err := front.Do(ctx, http.MethodGet, "/", "Authorization", "Bearer "+newBrowser(t).signIn(p.issuer, "alice"))
		if err == nil && r.Status != 200 {
			err = errors.New(http.StatusText(r.Status))
		}
		return err
	})
}
