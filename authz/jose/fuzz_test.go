package jose

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

// The standard library reads every text that ParseObject accepts as the same
// value, and so does ParseObject when the value is written and read again.
// SkimIssuer finds the issuer that ParseObject finds.
func FuzzParseObject(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":[1,-0.5e+3,true,null,"\u00e9\ud83d\ude00"]}`, `{"a":1,"a":2}`, `{"a":"\ud800"}`, `{"a":{"b":{}}} x`, "{\"\xff\":1}"} {
		f.Add(s)
	}
	f.Add(`{"iss":"a","x":["\n",{"y":[{}]}],"\u0069ss":"b"}`)
	f.Add(`{"x":1e400,"\u0069ss":"b\n"}`)
	f.Fuzz(func(t *testing.T, text string) {
		iss, skimmed := SkimIssuer(text, DefaultMaxValues)
		m, err := ParseObject(text)
		if err != nil {
			require.Nil(t, m, "a value with an error")
			return
		}
		var claim IssuerClaim
		_, claim.Present = m["iss"]
		claim.Name, _ = m["iss"].(string)
		require.NoErrorf(t, skimmed, "skimmed %+v of %v", iss, m)
		require.Equalf(t, claim, iss, "skimmed %+v (%v) of %v", iss, skimmed, m)
		var want map[string]any
		dec := json.NewDecoder(strings.NewReader(text))
		dec.UseNumber()
		require.NoErrorf(t, dec.Decode(&want), "the standard library refuses %q", text)
		require.Equalf(t, want, m, "read %v where the standard library reads %v", m, want)
		require.Falsef(t, !utf8.ValidString(text) || !json.Valid([]byte(text)), "accepted %q", text)
		names := countNames(t, text)
		require.Equalf(t, countMembers(m), names, "%d names in the text: a duplicate was accepted", names)
		b, err := json.Marshal(m)
		require.NoError(t, err)
		again, err := ParseObject(string(b))
		require.NoErrorf(t, err, "%v written and read again is %v", m, again)
		require.Equalf(t, again, m, "%v written and read again (%v)", m, err)
	})
}

// countNames counts the member names a token reader sees, duplicates included.
func countNames(t *testing.T, text string) (names int) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	type level struct{ object, name bool }
	var stack []level
	for {
		tok, err := dec.Token()
		if err != nil {
			return names
		}
		top := len(stack) - 1
		if d, ok := tok.(json.Delim); ok && (d == '}' || d == ']') {
			stack = stack[:top]
			continue
		}
		if top >= 0 && stack[top].object {
			stack[top].name = !stack[top].name
			if stack[top].name {
				names++
				continue
			}
		}
		if d, ok := tok.(json.Delim); ok {
			stack = append(stack, level{object: d == '{'})
		}
	}
}

func countMembers(v any) (n int) {
	switch v := v.(type) {
	case map[string]any:
		n = len(v)
		for _, e := range v {
			n += countMembers(e)
		}
	case []any:
		for _, e := range v {
			n += countMembers(e)
		}
	}
	return n
}

// A token that ParseCompact accepts has exactly one text: encoding its parts
// yields the input.
func FuzzParseCompact(f *testing.F) {
	f.Add("eyJhbGciOiJFUzI1NiJ9.e30.AAAA")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("a.b.c.d.e")
	f.Add("eyJhbGciOiJFUzI1NiIsImNyaXQiOltdfQ.e30.AAAA")
	f.Add("eyJhbGciOiJFUzI1NiJ9.e3\n0.AAAA")
	f.Fuzz(func(t *testing.T, raw string) {
		const limit = 4096
		c, fail := ParseCompact(raw, limit)
		if fail != nil {
			require.Nilf(t, c, "%v with %v", c, fail)
			require.Falsef(t, fail.Reason != authz.ReasonMalformedToken && fail.Reason != authz.ReasonUnsupportedToken, "%v with %v", c, fail)
			require.Falsef(t, strings.ContainsFunc(fail.Detail, func(r rune) bool { return r != '…' && (r < ' ' || r > '~') }), "unprintable detail: %q", fail.Detail)
			return
		}
		require.LessOrEqualf(t, len(raw), limit, "accepted %+v", c)
		require.Containsf(t, SupportedAlgorithms, c.Header.Alg, "accepted %+v", c)
		require.NotEmptyf(t, c.signature, "accepted %+v", c)
		parts := strings.Split(raw, ".")
		e := base64.RawURLEncoding.EncodeToString
		require.Lenf(t, parts, 3, "another text of %q is accepted", raw)
		require.Equalf(t, raw, c.input+"."+e(c.signature), "another text of %q is accepted", raw)
		require.Equalf(t, e([]byte(c.Payload)), parts[1], "another text of %q is accepted", raw)
		signed, ok := authz.SignedPart(raw)
		require.Truef(t, ok, "the revocation key of %q is of %q", raw, signed)
		require.Equalf(t, c.input, signed, "the revocation key of %q is of %q", raw, signed)
		head, err := base64.RawURLEncoding.DecodeString(parts[0])
		require.NoErrorf(t, err, "header of %q", raw)
		require.Equalf(t, parts[0], e(head), "header of %q: %v", raw, err)
		var h map[string]any
		err = json.Unmarshal(head, &h)
		require.NoErrorf(t, err, "header %q read as %+v", head, c.Header)
		require.Truef(t, h["alg"] == c.Header.Alg, "header %q read as %+v (%v)", head, c.Header, err)
		require.Emptyf(t, CriticalParameter(h), "header %q accepted", head)
		kid, _ := h["kid"].(string)
		require.Equalf(t, kid, c.Header.Kid, "kid of %q", head)
		require.Truef(t, c.Header.Kid == "" || c.Header.X5T+c.Header.X5TS256 == "", "kid and x5t of %q", head)
	})
}

// ParseJWKS never panics, and every usable key fits an algorithm.
func FuzzParseJWKS(f *testing.F) {
	f.Add([]byte(`{"keys":[]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","kid":"1","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},{"kty":"OKP","crv":"Ed25519","x":"AA"},null]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"oct","k":"AA"}]}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		s, err := ParseJWKS(document, SetRules{})
		if err != nil {
			require.Nil(t, s, "a set with an error")
			return
		}
		var std struct {
			Keys []json.RawMessage `json:"keys"`
		}
		require.NoError(t, json.Unmarshal(document, &std), "the standard library refuses it")
		for _, k := range s.keys {
			fits := 0
			for _, alg := range SupportedAlgorithms {
				if !k.fits(alg) {
					continue
				}
				fits++
				require.Falsef(t, VerifySignature(alg, k.public, "input", make([]byte, 64)) || VerifySignature(alg, k.public, "input", nil), "%+v verifies any signature", k)
			}
			require.NotZerof(t, fits, "%+v fits no algorithm", k)
		}
	})
}
