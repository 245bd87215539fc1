package idp

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/crypto"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// signingKey is a key of the provider.
type signingKey struct {
	id  string
	key *rsa.PrivateKey
}

func (k signingKey) ID() string                                  { return k.id }
func (k signingKey) Algorithm() jose.SignatureAlgorithm          { return jose.RS256 }
func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k signingKey) Use() string                                 { return "sig" }
func (k signingKey) Key() any                                    { return k.key }

// publicKey is what the provider publishes of a signingKey.
type publicKey struct{ signingKey }

func (k publicKey) Key() any { return k.key.Public() }

// jwtClient is a client whose access tokens are JWTs.
type jwtClient struct{ op.Client }

func (jwtClient) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }

// zitadelStorage is the library's example of a storage, with keys that rotate. The
// library leaves sending a logout token to the storage: it says what the token holds,
// and when a session ends.
type zitadelStorage struct {
	*storage.Storage
	issuer string

	mu        sync.Mutex
	keys      []signingKey // the first one signs
	logoutURI string
}

func (s *zitadelStorage) SigningKey(context.Context) (op.SigningKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[0], nil
}

func (s *zitadelStorage) KeySet(context.Context) (keys []op.Key, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.keys {
		keys = append(keys, publicKey{k})
	}
	return keys, nil
}

func (s *zitadelStorage) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	c, err := s.Storage.GetClientByClientID(ctx, id)
	return jwtClient{c}, err
}

func (s *zitadelStorage) TerminateSession(ctx context.Context, userID, clientID string) error {
	if err := s.Storage.TerminateSession(ctx, userID, clientID); err != nil {
		return err
	}
	s.mu.Lock()
	key, uri := s.keys[0], s.logoutURI
	s.mu.Unlock()
	signer, err := op.SignerFromKey(key)
	if err != nil {
		return err
	}
	token, err := crypto.Sign(oidc.NewLogoutTokenClaims(s.issuer, userID, oidc.Audience{clientID}, time.Now().Add(2*time.Minute), rand.Text(), "", 0), signer)
	if err != nil {
		return err
	}
	return tellLogout(ctx, uri, token)
}

// rotate puts a new key before the others, of which it keeps as many as keep says.
func (s *zitadelStorage) rotate(t *testing.T, keep int) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = append([]signingKey{{rand.Text(), key}}, s.keys[:min(keep, len(s.keys))]...)
}

// tellLogout sends a logout token (OpenID Connect Back-Channel Logout 1.0, section
// 2.5).
func tellLogout(ctx context.Context, uri, token string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, uri, strings.NewReader(url.Values{"logout_token": {token}}.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", uri, resp.Status)
	}
	return nil
}

func startZitadel(t *testing.T) *zitadelStorage {
	t.Helper()
	storage.RegisterClients(storage.WebClient("shop", "a-secret-of-the-test", "http://127.0.0.1/callback"))
	var handler http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	s := &zitadelStorage{Storage: storage.NewStorage(storage.NewUserStore(server.URL)), issuer: server.URL}
	s.rotate(t, 0)
	handler = exampleop.SetupServer(server.URL, s, nil, false)
	return s
}

var formID = regexp.MustCompile(`name="id" value="([^"]+)"`)

// signInAt signs in at the library's example and returns the access token and the ID
// token.
func (b *browser) signInAt(issuer, user string) (access, id string) {
	b.t.Helper()
	_, page, _ := b.fetch("GET", authorize(issuer, "openid"), nil)
	request := formID.FindStringSubmatch(page)
	require.NotNilf(b.t, request, "no form:\n%s", page)
	_, _, back := b.fetch("POST", issuer+"/login/username", url.Values{"id": {html.UnescapeString(request[1])}, "username": {user}, "password": {"verysecure"}})
	return b.redeem(issuer+"/oauth/token", back, nil)
}

// TestZitadelLibrary runs the configuration that init writes for an OpenID Provider
// built with Zitadel's library.
func TestZitadelLibrary(t *testing.T) {
	s := startZitadel(t)
	i := install(t, initialized(t, "an OpenID Provider", s.issuer, "shop", "shop"))
	s.logoutURI = i.sidecar.HTTP + "/oidc/backchannel-logout"
	i.awaitReady()
	const user, other = "test-user@127.0.0.1", "test-user2"

	alice := newBrowser(t)
	first, idToken := alice.signInAt(s.issuer, user)
	bob, _ := newBrowser(t).signInAt(s.issuer, other)
	i.allowed("alice", first)
	i.allowed("bob", bob)
	r := i.front.Bearer(t, idToken)
	assert.Equal(t, 401, r.Status, "an ID token is no access token")

	alice.fetch("GET", s.issuer+"/end_session?"+url.Values{"id_token_hint": {idToken}}.Encode(), nil)
	i.soon("alice has signed out", first, 401)
	i.allowed("another user", bob)

	signIn := func() string {
		token, _ := newBrowser(t).signInAt(s.issuer, other)
		return token
	}
	i.rotated(bob, func() { s.rotate(t, 1) }, signIn, func() { s.rotate(t, 0) })
	i.allowedAgain("alice has signed in again", func() string {
		token, _ := newBrowser(t).signInAt(s.issuer, user)
		return token
	})
}
