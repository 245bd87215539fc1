package idp

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

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

const codeVerifier = "a-code-verifier-of-at-least-forty-three-characters"

// authorize returns the address at which the client shop sends a user to sign in.
func authorize(issuer, scope string) string {
	sum := sha256.Sum256([]byte(codeVerifier))
	return issuer + "/auth?" + url.Values{
		"client_id": {"shop"}, "response_type": {"code"}, "scope": {scope}, "redirect_uri": {"http://127.0.0.1/callback"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}}.Encode()
}

// redeem exchanges the code in the redirect to the client for an access token, which
// must be a JWT, and an ID token.
func (b *browser) redeem(endpoint string, back *url.URL, more url.Values) (access, id string) {
	b.t.Helper()
	require.NotNil(b.t, back, "no code")
	require.NotEmptyf(b.t, back.Query().Get("code"), "no code: %s", back)
	form := url.Values{"grant_type": {"authorization_code"}, "code": {back.Query().Get("code")}, "code_verifier": {codeVerifier},
		"redirect_uri": {"http://127.0.0.1/callback"}, "client_id": {"shop"}, "client_secret": {"a-secret-of-the-test"}}
	for name, values := range more {
		form[name] = values
	}
	_, text, _ := b.fetch("POST", endpoint, form)
	var tokens struct {
		AccessToken string `json:"access_token"`
		IDToken     string `json:"id_token"`
	}
	require.NoErrorf(b.t, json.Unmarshal([]byte(text), &tokens), "no tokens: %s", text)
	require.Equalf(b.t, 2, strings.Count(tokens.AccessToken, "."), "no JWT access token: %s", text)
	return tokens.AccessToken, tokens.IDToken
}
