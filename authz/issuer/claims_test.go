package issuer

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/jose"
)

// The standard library reads accepted claims as the Token does, and the token is
// valid now.
func FuzzClaims(f *testing.F) {
	f.Add(`{"exp":1893456300}`, int64(1893456000))
	f.Add(`{"exp":1893456300.5,"iat":1893455000.5,"nbf":1.8934e9,"aud":["a","b"],"sub":"s","scope":"a b"}`, int64(1893456000))
	f.Add(`{"exp":"1","iat":-1,"aud":{},"jti":null,"scp":[1]}`, int64(0))
	f.Add(`{"exp":1e300,"nbf":1e-300}`, int64(1))
	f.Fuzz(func(t *testing.T, text string, now int64) {
		now &= 1<<40 - 1
		claims, err := jose.ParseObject(text)
		if err != nil {
			return
		}
		const leeway, ttl = 30, 86400
		v := &Verifier{clock: fixedClock(now), maxTTL: ttl}
		token := &authz.Token{}
		if fail := ReadClaims(token, claims, true); fail != nil {
			require.Equalf(t, authz.ReasonBadClaim, fail.Reason, "%v", fail)
			return
		}
		if v.checkTimes(token, leeway, false) != nil {
			return
		}
		var std struct {
			Issuer   string      `json:"iss"`
			Subject  string      `json:"sub"`
			ID       string      `json:"jti"`
			Session  string      `json:"sid"`
			Expires  json.Number `json:"exp"`
			IssuedAt json.Number `json:"iat"`
		}
		// The library matches names regardless of case; only exact ones count.
		exact := map[string]any{}
		for _, name := range []string{"iss", "sub", "jti", "sid", "exp", "iat"} {
			if c, ok := claims[name]; ok {
				exact[name] = c
			}
		}
		b, err := json.Marshal(exact)
		require.NoError(t, err)
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.UseNumber()
		require.NoErrorf(t, dec.Decode(&std), "%s", b)
		require.Equalf(t, token.Issuer, std.Issuer, "%s read as %+v", b, token)
		require.Equalf(t, token.Subject, std.Subject, "%s read as %+v", b, token)
		require.Equalf(t, token.ID, std.ID, "%s read as %+v", b, token)
		require.Equalf(t, token.Session, std.Session, "%s read as %+v", b, token)
		exp, err := std.Expires.Float64()
		require.NoErrorf(t, err, "exp %v read as %d at %d", std.Expires, token.Expires, now)
		require.GreaterOrEqualf(t, exp+leeway+1, float64(now), "exp %v read as %d at %d", std.Expires, token.Expires, now)
		require.GreaterOrEqualf(t, float64(token.Expires), exp-1, "exp %v read as %d at %d", std.Expires, token.Expires, now)
		require.LessOrEqualf(t, float64(token.Expires), exp+1, "exp %v read as %d at %d", std.Expires, token.Expires, now)
		from := float64(now)
		if std.IssuedAt != "" {
			iat, err := std.IssuedAt.Float64()
			require.NoErrorf(t, err, "iat %v at %d", std.IssuedAt, now)
			require.LessOrEqualf(t, iat, float64(now)+leeway+1, "iat %v at %d", std.IssuedAt, now)
			from = iat
		}
		require.LessOrEqualf(t, exp-from, float64(ttl+1), "lifetime of %v accepted", exp-from)
	})
}

type fixedClock int64

func (c fixedClock) Now() time.Time    { return time.Unix(int64(c), 0) }
func (fixedClock) Boot() time.Duration { return 0 }

// numericDate is exact where floating point is not.
func TestNumericDate(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]int64{
		"1893456000": {1893456000, 1893456000}, "0": {0, 0}, "-0": {0, 0}, "0.1": {0, 1}, "-0.1": {-1, 0}, "1.0": {1, 1},
		"1893456000.00000000000000000001": {1893456000, 1893456001}, "1.893456e9": {1893456000, 1893456000},
		"189345600000e-2": {1893456000, 1893456000}, "1E-9": {0, 1}, "9223372036854775807": {1<<63 - 1, 1<<63 - 1},
	} {
		for i, up := range []bool{false, true} {
			got, ok := numericDate(json.Number(text), up)
			if assert.Truef(t, ok, "%s up=%v: %d, %v", text, up, got, ok) {
				assert.Equalf(t, want[i], got, "%s up=%v, %v", text, up, ok)
			}
		}
	}
	for _, v := range []any{json.Number("9223372036854775808"), json.Number("1e100"), json.Number("1e-100"), "1", nil, true, 1.0} {
		got, ok := numericDate(v, false)
		assert.Falsef(t, ok, "%v: %d", v, got)
	}
}
