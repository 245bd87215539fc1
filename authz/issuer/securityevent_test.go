package issuer_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
)

// Security event tokens and access tokens are not accepted as each other (RFC
// 8725, sections 2.8 and 3.12).
func TestSecurityEventTokensAreNoCredentials(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	v := authztest.NewVerifier(t, iss)
	event := map[string]any{"https://schemas.openid.net/secevent/caep/event-type/session-revoked": map[string]any{}}
	set := authz.SecurityEventRules{Types: []string{"secevent+jwt"}, Audiences: []string{"receiver"}, ExpOptional: true}
	good := iss.Mint(map[string]any{"aud": "receiver", "exp": nil, "events": event}, authztest.Header("typ", "secevent+jwt"))
	token, err := v.VerifySecurityEvent(t.Context(), good, set)
	require.NoError(t, err)
	require.Zero(t, token.Expires)
	_, err = v.Verify(t.Context(), good)
	require.Equal(t, authz.ReasonUnsupportedToken, authztest.ReasonOf(err), "its typ is not accepted")

	for name, test := range map[string]struct {
		raw    string
		reason authz.Reason
	}{
		"access token":  {iss.Mint(map[string]any{"aud": "receiver"}), authz.ReasonUnsupportedToken},
		"other aud":     {iss.Mint(map[string]any{"aud": "api"}, authztest.Header("typ", "secevent+jwt")), authz.ReasonWrongAudience},
		"no aud":        {iss.Mint(map[string]any{"aud": nil}, authztest.Header("typ", "secevent+jwt")), authz.ReasonWrongAudience},
		"forged":        {iss.Mint(map[string]any{"aud": "receiver"}, authztest.Header("typ", "secevent+jwt"), authztest.Tampered()), authz.ReasonBadSignature},
		"expired":       {iss.Mint(map[string]any{"aud": "receiver", "exp": 1000}, authztest.Header("typ", "secevent+jwt")), authz.ReasonExpired},
		"old":           {iss.Mint(map[string]any{"aud": "receiver", "exp": nil, "iat": time.Now().Add(-25 * time.Hour).Unix()}, authztest.Header("typ", "secevent+jwt")), authz.ReasonLifetimeTooLong},
		"without times": {iss.Mint(map[string]any{"aud": "receiver", "exp": nil, "iat": nil}, authztest.Header("typ", "secevent+jwt")), authz.ReasonBadClaim},
	} {
		_, err := v.VerifySecurityEvent(t.Context(), test.raw, set)
		require.Equal(t, test.reason, authztest.ReasonOf(err), name)
	}
	nulls := iss.Mint(nil, authztest.Header("typ", "secevent+jwt"), authztest.RawPayload(fmt.Appendf(nil,
		`{"iss":%q,"aud":"receiver","iat":%d,"sub":"user-1","sid":null,"exp":null,"nbf":null,"jti":"","events":{"e":{}}}`, iss.Name, time.Now().Unix())))
	token, err = v.VerifySecurityEvent(t.Context(), nulls, set)
	require.NoError(t, err, "members that say nothing")
	require.NotContains(t, token.Claims, "sid")
	_, err = v.VerifySecurityEvent(t.Context(), good, authz.SecurityEventRules{})
	require.Equal(t, authz.ReasonInternal, authztest.ReasonOf(err), "without expected types nothing is accepted")
	_, err = v.VerifySecurityEvent(t.Context(), iss.Mint(map[string]any{"aud": "receiver", "exp": nil}, authztest.Header("typ", "secevent+jwt")),
		authz.SecurityEventRules{Types: []string{"secevent+jwt"}, Audiences: []string{"receiver"}})
	require.Equal(t, authz.ReasonBadClaim, authztest.ReasonOf(err), "exp is needed unless it is optional")
}
