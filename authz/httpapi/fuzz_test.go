package httpapi_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/httpapitest"
)

// Any body is either refused with an error that contains no token, or becomes
// revocations that the ledger accepts: of a configured issuer, normalized, and
// without a token. A whole issuer is revoked only by "all".
func FuzzRequests(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `[]`, `[{"jti":"x"}]`, `{"jti":"x","not_before":1767323045,"expires_at":"2999-01-01T00:00:00Z","reason":"r"}`,
		`{"iss":"` + httpapitest.IssuerA + `"}`, `{"iss":"` + httpapitest.IssuerA + `","all":true}`, `{"all":true}`, `{"sub":"","sid":null}`, `{"jti":"x","jti":"y"}`,
		`{"token":"` + httpapitest.UnsignedJWT(`{"iss":"`+httpapitest.IssuerA+`","exp":4102444800}`) + `"}`, `{"token":"` + strings.Repeat("0a", 32) + `"}`, `{"not_before":1e400,"sub":"a"}`, "[[[[",
		`{"reason":"` + httpapitest.UnsignedJWT(`{}`) + `","kid":"k"}`, "{\"jti\":\"\xff\"}", `{"jti":"\u0000"}`,
	} {
		f.Add([]byte(seed))
	}
	issuers := []string{httpapitest.IssuerA, httpapitest.IssuerB}
	now := time.Now()
	f.Fuzz(func(t *testing.T, body []byte) {
		found, err := decodeAndNormalize(body, authz.Issuers{Verified: issuers}, now)
		if err != nil {
			require.Nilf(t, found, "%v with %v", found, err)
			require.Falsef(t, authz.HoldsToken(err.Error()), "%v with %v", found, err)
			return
		}
		require.NotEmpty(t, found, "revocations")
		require.LessOrEqual(t, len(found), httpapi.MaxBatch, "revocations")
		for _, r := range found {
			assert.NoError(t, r.Normalize(now), "accepted, but")
			assert.Containsf(t, issuers, r.Issuer, "accepted: %+v", r)
			assert.Falsef(t, authz.HoldsToken(r.Value), "accepted: %+v", r)
			assert.Falsef(t, authz.HoldsToken(r.Reason), "accepted: %+v", r)
			assert.Falsef(t, r.Kind == authz.KindIss && !strings.Contains(string(body), `al`) && !strings.Contains(string(body), `\u`), "a whole issuer by %q", body)
		}
	})
}

func decodeAndNormalize(body []byte, issuers authz.Issuers, now time.Time) ([]authz.Revocation, error) {
	requests, _, err := httpapi.DecodeRequests(body)
	if err != nil {
		if requests != nil {
			return []authz.Revocation{}, err // the fuzz target refuses this
		}
		return nil, err
	}
	var out []authz.Revocation
	for i := range requests {
		revocations, err := requests[i].Normalize(issuers, now)
		if err != nil {
			return revocations, err
		}
		out = append(out, revocations...)
	}
	return out, nil
}
