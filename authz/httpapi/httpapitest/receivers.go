package httpapitest

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/policy"
)

// Receivers is a Bench with two issuers, a verifier of their tokens, and every
// endpoint configured.
type Receivers struct {
	*Bench
	A, B     *authztest.Issuer
	Verifier *issuer.Verifier
	keys     []string // files
}

// Claims are the claims of a token.
type Claims = map[string]any

// NewReceivers returns Receivers, after change (nil: none).
func NewReceivers(t *testing.T, change func(*Setup)) *Receivers {
	t.Helper()
	d := &Receivers{
		A: authztest.NewIssuer(authztest.Offline(), authztest.Named(IssuerA)),
		B: authztest.NewIssuer(authztest.Offline(), authztest.Named(IssuerB)),
	}
	var configs []issuer.Config
	for _, iss := range []*authztest.Issuer{d.A, d.B} {
		path := filepath.Join(t.TempDir(), "jwks.json")
		require.NoError(t, os.WriteFile(path, iss.JWKS(), 0o600))
		configs = append(configs, issuer.Config{Issuer: iss.Name, Audiences: []string{"api"}, JWKS: path})
		d.keys = append(d.keys, path)
	}
	var err error
	d.Verifier, err = issuer.NewVerifier(configs, issuer.VerifierOptions{RevocableClaims: revocableClaims})
	require.NoError(t, err)
	t.Cleanup(d.Verifier.Close)
	require.NoError(t, d.Verifier.Refresh(t.Context()))
	d.Bench = New(t, func(s *Setup) {
		s.Issuers.Verified, s.Issuers.Claims = []string{IssuerA, IssuerB}, revocableClaims
		s.Verifier = d.Verifier
		s.Config.Logout.Audiences = []string{"shop"}
		s.Config.Events.Audiences = []string{"https://bouncer.example/ssf"}
		s.Config.Keycloak = httpapi.KeycloakConfig{Issuer: IssuerA, Clients: []string{"shop-backend"}}
		s.Config.Global.Audiences = []string{GlobalEndpoint}
		s.Resource = metadata()
		if change != nil {
			change(s)
		}
	})
	return d
}

// revocableClaims are the claims by which tokens can be revoked.
var revocableClaims = []string{"email", "phone", "uid", "tenant"}

// metadata is the document of a resource with every member, as the product
// makes it.
func metadata() *httpapi.Resource {
	c := policy.ResourceConfig{
		Resource: "https://api.example", AuthorizationServers: []string{IssuerA}, ScopesSupported: []string{"read"}, Name: "Shop",
		Documentation: "https://api.example/docs", Policy: "https://api.example/policy", TermsOfService: "https://api.example/terms",
	}
	document := func() ([]byte, error) { return policy.ResourceMetadata(c, policy.New(), nil) }
	return &httpapi.Resource{Path: policy.ResourceMetadataPath(c), Document: document}
}

// Revokes reports whether the ledger revokes the token.
func (d *Receivers) Revokes(token string) bool {
	d.t.Helper()
	t, err := d.Verifier.Verify(d.t.Context(), token)
	require.NoError(d.t, err)
	return slices.ContainsFunc(d.Ledger.All(), func(r authz.Revocation) bool {
		e := r.Entry()
		return slices.Contains(t.Keys, e.Key) && e.Revokes(t.IssuedAt) && e.Expires > t.Expires
	})
}

// RemoveKeys makes the issuers' keys unavailable. Keys that have been fetched
// stay in use.
func (d *Receivers) RemoveKeys() {
	d.t.Helper()
	for _, path := range d.keys {
		require.NoError(d.t, os.Remove(path))
	}
}

// LogoutToken returns a logout token of issuer A for subject bob, session s-1.
func (d *Receivers) LogoutToken(change Claims, how ...authztest.Minting) string {
	all := Claims{"aud": "shop", "sub": "bob", "sid": "s-1", "events": Claims{"http://schemas.openid.net/event/backchannel-logout": Claims{}}}
	maps.Copy(all, change)
	return d.A.Mint(all, append([]authztest.Minting{authztest.Header("typ", "logout+jwt"), authztest.Lifetime(2 * time.Minute)}, how...)...)
}

// EventToken returns a security event token of issuer A: session-revoked for
// subject bob.
func (d *Receivers) EventToken(change Claims, how ...authztest.Minting) string {
	all := Claims{"aud": "https://bouncer.example/ssf", "sub": nil, "exp": nil,
		"sub_id": Claims{"format": "iss_sub", "iss": d.A.Name, "sub": "bob"},
		"events": Claims{"https://schemas.openid.net/secevent/caep/event-type/session-revoked": Claims{}}}
	maps.Copy(all, change)
	return d.A.Mint(all, append([]authztest.Minting{authztest.Header("typ", "secevent+jwt")}, how...)...)
}

// GlobalEndpoint is the audience of GlobalJWT.
const GlobalEndpoint = "https://bouncer.example/oauth2/global-token-revocation"

// GlobalJWT returns a JWT with which issuer A authenticates a request for global
// token revocation, as Okta makes it.
func (d *Receivers) GlobalJWT(change Claims, how ...authztest.Minting) string {
	all := Claims{"aud": GlobalEndpoint, "sub": "client-id-of-the-application", "nbf": Ago(5 * time.Minute)}
	maps.Copy(all, change)
	return d.A.Mint(all, append([]authztest.Minting{authztest.Header("typ", "global-token-revocation+jwt"), authztest.Lifetime(5 * time.Minute)}, how...)...)
}

// AdminAction returns an admin action of Keycloak, issuer A: LOGOUT of session
// s-1.
func (d *Receivers) AdminAction(change Claims, how ...authztest.Minting) string {
	all := Claims{"iss": nil, "sub": nil, "aud": nil, "iat": nil, "exp": nil, "jti": nil,
		"id": "7a793249-1569530018915", "expiration": time.Now().Add(30 * time.Second).Unix(), "resource": "shop-backend",
		"action": "LOGOUT", "adapterSessionIds": []string{"01kMTLenWUextmhG1n61qn7hNd"}, "notBefore": 0,
		"keycloakSessionIds": []string{"s-1"}}
	maps.Copy(all, change)
	return d.A.Mint(all, how...)
}
