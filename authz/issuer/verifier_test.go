package issuer_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/issuer"
	"jwtbouncer/authz/policy"
)

func TestVerifyEveryAlgorithm(t *testing.T) {
	t.Parallel()
	algs := []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	iss := authztest.StartIssuer(t, authztest.Algorithms(algs...))
	v := authztest.NewVerifier(t, iss)
	for _, alg := range algs {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			good := iss.Mint(map[string]any{"scope": "read write", "sid": "s1"}, authztest.Alg(alg))
			token, err := v.Verify(t.Context(), good)
			require.NoError(t, err)
			require.Equal(t, good, token.Raw)
			require.Equal(t, iss.Name, token.Issuer)
			require.Equal(t, "user-1", token.Subject)
			require.Equal(t, "s1", token.Session)
			require.Equal(t, iss.Key(alg).ID, token.KeyID)
			require.Equal(t, "jwt", token.Type)
			require.Equal(t, []string{"api"}, token.Audience)
			require.Equal(t, []string{"read", "write"}, token.Scopes)
			require.True(t, token.Accepted)
			require.Len(t, token.Keys, 7)
			require.True(t, v.Current(token, time.Now().Unix()))
			require.False(t, v.Current(token, token.Expires))
			require.True(t, v.Current(token, token.Expires-1))
			require.True(t, v.Expired(token, token.Expires))
			require.False(t, v.Expired(token, token.Expires-1))
			require.False(t, v.Expired(&authz.Token{Expires: token.Expires}, token.Expires), "it was verified by others")

			_, err = v.Verify(t.Context(), iss.Mint(nil, authztest.Alg(alg), authztest.Tampered()))
			require.Equal(t, authz.ReasonBadSignature, authztest.ReasonOf(err), "%v", err)
		})
	}
}

func TestVerifyOverDiscovery(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	v := authztest.NewVerifier(t, iss, func(c *issuer.Config) { c.JWKS = "" })
	_, err := v.Verify(t.Context(), iss.Mint(nil))
	require.NoError(t, err)
	require.NoError(t, v.Ready())
}

// A forger of an invalid token learns only that the signature is wrong.
func TestSignatureIsJudgedBeforeClaims(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	v := authztest.NewVerifier(t, iss)
	for name, claims := range map[string]map[string]any{
		"expired": {"exp": 1000}, "no exp": {"exp": nil}, "bad sub": {"sub": 1}, "future": {"nbf": time.Now().Add(time.Hour).Unix()},
	} {
		_, err := v.Verify(t.Context(), iss.Mint(claims, authztest.Tampered()))
		require.Equal(t, authz.ReasonBadSignature, authztest.ReasonOf(err), name)
	}
}

func TestUnconfiguredIssuer(t *testing.T) {
	t.Parallel()
	iss, other := authztest.StartIssuer(t), authztest.StartIssuer(t)
	v := authztest.NewVerifier(t, iss)
	_, err := authztest.Verify(t, v, other.Mint(nil))
	require.Equal(t, authz.ReasonUnknownIssuer, authztest.ReasonOf(err))
	_, err = authztest.Verify(t, v, other.Mint(map[string]any{"iss": iss.Name}))
	require.Equal(t, authz.ReasonUnknownKey, authztest.ReasonOf(err))
}

// An unreachable issuer does not delay Start or affect the tokens of others. Its
// own tokens are answered with ReasonKeysUnavailable.
func TestUnreachableIssuer(t *testing.T) {
	t.Parallel()
	good, away := authztest.StartIssuer(t), authztest.StartIssuer(t)
	away.FailJWKS(&authztest.Fault{Status: 500})
	v, err := issuer.NewVerifier([]issuer.Config{
		{Issuer: away.Name, Audiences: []string{"api"}, JWKS: away.JWKSURL()},
		{Issuer: good.Name, Audiences: []string{"api"}, JWKS: good.JWKSURL()},
	}, issuer.VerifierOptions{})
	require.NoError(t, err)
	defer v.Close()
	require.Error(t, v.Ready())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	v.Start(ctx)
	require.Eventually(t, func() bool { return v.Ready() == nil }, 5*time.Second, time.Millisecond)
	_, err = v.Verify(ctx, good.Mint(nil))
	require.NoError(t, err)
	_, err = v.Verify(ctx, away.Mint(nil))
	require.Equal(t, authz.ReasonKeysUnavailable, authztest.ReasonOf(err))
}

// The holder of a key whose kid has been revoked can omit the kid from the
// header, or use another kid under which the key is published.
func TestRevokedKeyUnderEveryKID(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		others   []string // further kids under which the key is published; empty: without one
		clashing bool     // another key is published under its kid
		mint     func(k *authztest.Key) authztest.Minting
	}{
		"named":           {nil, false, authztest.With},
		"without kid":     {nil, false, func(*authztest.Key) authztest.Minting { return authztest.Header("kid", nil) }},
		"second kid":      {[]string{"second"}, false, func(k *authztest.Key) authztest.Minting { return authztest.With(k.Named("second")) }},
		"third kid":       {[]string{"second", "third"}, false, func(k *authztest.Key) authztest.Minting { return authztest.With(k.Named("third")) }},
		"nameless twin":   {[]string{""}, false, authztest.With},
		"kid of two keys": {[]string{"second"}, true, func(k *authztest.Key) authztest.Minting { return authztest.With(k.Named("second")) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			iss := authztest.StartIssuer(t, authztest.Algorithms("ES256"))
			key := iss.Key("")
			published := []*authztest.Key{key}
			for _, kid := range tt.others {
				published = append(published, key.Named(kid))
			}
			if tt.clashing {
				published = append(published, authztest.NewKey("ES256").Named(key.ID))
			}
			iss.Publish(authztest.KeySet(published...))
			raw := iss.Mint(nil, tt.mint(key))
			v := authztest.NewVerifier(t, iss)
			token, err := v.Verify(t.Context(), raw)
			require.NoError(t, err)
			revoked := authz.RevocationKey(authz.KindKID, iss.Name, key.ID)
			require.Contains(t, token.Keys, revoked)
			require.Equal(t, token.Query().TokenKey, token.Keys[len(token.Keys)-1])
			// The explanation agrees with the decision.
			p, err := policy.Compile(nil, policy.Options{})
			require.NoError(t, err)
			req := &authz.Request{Method: "GET", Path: "/", Headers: []authz.Header{{Name: "authorization", Value: "Bearer " + raw}}}
			tier := authztest.KeyTier{revoked: true}
			require.Equal(t, authz.ReasonRevoked, authz.NewAuthorizer(v, nil, authz.NewChain(nil, tier), p, authz.SystemClock{}).Authorize(t.Context(), req).Reason)
			x := authztest.NewExplainer(p, v, tier).Explain(t.Context(), req)
			steps := x.Steps
			last := steps[len(steps)-1]
			require.Equal(t, authz.ReasonRevoked, last.Reason, "%+v", steps)
			require.Contains(t, last.Detail, "by its kid "+strconv.Quote(key.ID))
			var named []authz.Key
			for _, k := range x.Keys {
				require.Equal(t, k.Kind == authz.KindKID && k.Value == key.ID, k.Revokes, k.Value)
				issuer, value := iss.Name, k.Value
				switch k.Kind {
				case authz.KindIss:
					value = ""
				case authz.KindAll:
					issuer = ""
				}
				named = append(named, authz.RevocationKey(k.Kind, issuer, value))
			}
			require.ElementsMatch(t, token.Keys, named, "every revocation key has a name")
		})
	}
}

// types: [at+jwt] enforces RFC 9068, section 4.
func TestTypePolicy(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	v := authztest.NewVerifier(t, iss, func(c *issuer.Config) { c.Types = []string{"at+jwt"} })
	for typ, accepted := range map[any]bool{
		"at+jwt": true, "AT+JWT": true, "application/at+jwt": true, "JWT": false, "jwt": false, nil: false, "id+jwt": false,
	} {
		_, err := v.Verify(t.Context(), iss.Mint(nil, authztest.Header("typ", typ)))
		require.Equal(t, accepted, err == nil, "%v: %v", typ, err)
		if !accepted {
			require.Equal(t, authz.ReasonUnsupportedToken, authztest.ReasonOf(err))
		}
	}
}
