package authz

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// What parseObject accepts, the standard library accepts as well and reads as
// the same value; and it is the same again when written and read once more. The
// issuer that is read before a signature is verified is the one read after.
func FuzzParseObject(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":[1,-0.5e+3,true,null,"\u00e9\ud83d\ude00"]}`, `{"a":1,"a":2}`, `{"a":"\ud800"}`, `{"a":{"b":{}}} x`, "{\"\xff\":1}"} {
		f.Add(s)
	}
	f.Add(`{"iss":"a","x":["\n",{"y":[{}]}],"\u0069ss":"b"}`)
	f.Add(`{"x":1e400,"\u0069ss":"b\n"}`)
	f.Fuzz(func(t *testing.T, text string) {
		iss, skimmed := skimIssuer(text)
		m, err := parseObject(text)
		if err != nil {
			if m != nil {
				t.Fatalf("a value beside an error: %v", m)
			}
			return
		}
		var claim issuerClaim
		_, claim.present = m["iss"]
		claim.name, claim.text = m["iss"].(string)
		if skimmed != nil || iss != claim {
			t.Fatalf("skimmed %+v (%v) of %v", iss, skimmed, m)
		}
		var want map[string]any
		dec := json.NewDecoder(strings.NewReader(text))
		dec.UseNumber()
		if err := dec.Decode(&want); err != nil {
			t.Fatalf("the standard library refuses %q: %v", text, err)
		}
		if !reflect.DeepEqual(m, want) {
			t.Fatalf("read %v where the standard library reads %v", m, want)
		}
		if !utf8.ValidString(text) || !json.Valid([]byte(text)) {
			t.Fatalf("accepted %q", text)
		}
		if names := countNames(t, text); names != countMembers(m) {
			t.Fatalf("%d names in the text, %d members read: a duplicate got through", names, countMembers(m))
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseObject(string(b))
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Fatalf("%v written and read again is %v (%v)", m, again, err)
		}
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

// What the gate admits has exactly one text: encoding its parts gives the
// input back.
func FuzzGate(f *testing.F) {
	f.Add("eyJhbGciOiJFUzI1NiJ9.e30.AAAA")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("a.b.c.d.e")
	f.Add("eyJhbGciOiJFUzI1NiIsImNyaXQiOltdfQ.e30.AAAA")
	f.Add("eyJhbGciOiJFUzI1NiJ9.e3\n0.AAAA")
	f.Fuzz(func(t *testing.T, raw string) {
		const limit = 4096
		c, fail := parseCompact(raw, limit)
		if fail != nil {
			if c != nil || (fail.Reason != ReasonMalformedToken && fail.Reason != ReasonUnsupportedToken) {
				t.Fatalf("%v beside %v", c, fail)
			}
			if strings.ContainsFunc(fail.Detail, func(r rune) bool { return r != '…' && (r < ' ' || r > '~') }) {
				t.Fatalf("detail not fit for a log: %q", fail.Detail)
			}
			return
		}
		if len(raw) > limit || !slices.Contains(supportedAlgorithms, c.header.alg) || len(c.signature) == 0 {
			t.Fatalf("admitted %+v", c)
		}
		parts := strings.Split(raw, ".")
		e := base64.RawURLEncoding.EncodeToString
		if len(parts) != 3 || c.input+"."+e(c.signature) != raw || parts[1] != e(c.payload) {
			t.Fatalf("%q has another text", raw)
		}
		if signed, ok := signedPart(raw); !ok || signed != c.input {
			t.Fatalf("%q would be revoked as %q", raw, signed)
		}
		head, err := base64.RawURLEncoding.DecodeString(parts[0])
		if err != nil || e(head) != parts[0] {
			t.Fatalf("header of %q: %v", raw, err)
		}
		var h map[string]any
		if err := json.Unmarshal(head, &h); err != nil || h["alg"] != c.header.alg {
			t.Fatalf("header %q read as %+v (%v)", head, c.header, err)
		}
		for _, name := range refusedParameters {
			if _, present := h[name]; present {
				t.Fatalf("header with %s admitted", name)
			}
		}
		if kid, present := h["kid"]; present != c.header.keyed || (present && kid != c.header.kid) {
			t.Fatalf("kid %v read as %q", kid, c.header.kid)
		}
	})
}

// Claims that are accepted mean to the standard library what the Token says,
// and the token is valid now.
func FuzzClaims(f *testing.F) {
	f.Add(`{"exp":1893456300}`, int64(1893456000))
	f.Add(`{"exp":1893456300.5,"iat":1893455000.5,"nbf":1.8934e9,"aud":["a","b"],"sub":"s","scope":"a b"}`, int64(1893456000))
	f.Add(`{"exp":"1","iat":-1,"aud":{},"jti":null,"scp":[1]}`, int64(0))
	f.Add(`{"exp":1e300,"nbf":1e-300}`, int64(1))
	f.Fuzz(func(t *testing.T, text string, now int64) {
		now &= 1<<40 - 1
		claims, err := parseObject(text)
		if err != nil {
			return
		}
		const leeway, ttl = 30, 86400
		v := &JWTVerifier{clock: fixedClock(now), maxTTL: ttl}
		token := &Token{}
		if fail := token.readClaims(claims, true); fail != nil {
			if fail.Reason != ReasonBadClaim {
				t.Fatalf("%v", fail)
			}
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
		if err != nil {
			t.Fatal(err)
		}
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.UseNumber()
		if err := dec.Decode(&std); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if std.Issuer != token.Issuer || std.Subject != token.Subject || std.ID != token.ID || std.Session != token.Session {
			t.Fatalf("%s read as %+v", b, token)
		}
		exp, err := std.Expires.Float64()
		if err != nil || exp+leeway+1 < float64(now) || float64(token.Expires) < exp-1 || float64(token.Expires) > exp+1 {
			t.Fatalf("exp %v read as %d at %d", std.Expires, token.Expires, now)
		}
		from := float64(now)
		if std.IssuedAt != "" {
			iat, err := std.IssuedAt.Float64()
			if err != nil || iat > float64(now)+leeway+1 {
				t.Fatalf("iat %v at %d", std.IssuedAt, now)
			}
			from = iat
		}
		if exp-from > ttl+1 {
			t.Fatalf("lifetime of %v accepted", exp-from)
		}
	})
}

// A key set never panics, every member is either used or refused, and what is
// used can be used.
func FuzzParseJWKS(f *testing.F) {
	f.Add([]byte(`{"keys":[]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","kid":"1","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},{"kty":"OKP","crv":"Ed25519","x":"AA"},null]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"oct","k":"AA"}]}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		s, err := ParseJWKS(document)
		if err != nil {
			if s != nil {
				t.Fatal("a set beside an error")
			}
			return
		}
		var std struct {
			Keys []json.RawMessage `json:"keys"`
		}
		if err := json.Unmarshal(document, &std); err != nil {
			t.Fatalf("the standard library refuses it: %v", err)
		}
		for _, k := range s.keys {
			fits := 0
			for name, a := range algorithms {
				if !k.fits(name) {
					continue
				}
				fits++
				if a.verify(k.key, "input", make([]byte, 64)) || a.verify(k.key, "input", nil) {
					t.Fatalf("%+v verifies anything", k)
				}
			}
			if fits == 0 {
				t.Fatalf("%+v is for nothing", k)
			}
		}
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
			if !ok || got != want[i] {
				t.Errorf("%s up=%v: %d, %v", text, up, got, ok)
			}
		}
	}
	for _, v := range []any{json.Number("9223372036854775808"), json.Number("1e100"), json.Number("1e-100"), "1", nil, true, 1.0} {
		if got, ok := numericDate(v, false); ok {
			t.Errorf("%v: %d", v, got)
		}
	}
}

func TestQuoteShort(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a":                           `"a"`,
		"a\r\nb\x00\x1b[0m\u202e":     `"a\r\nb\x00\x1b[0m\u202e"`,
		strings.Repeat("é", 40):       fmt.Sprintf(`"%s"…`, strings.Repeat(`\u00e9`, 32)),
		strings.Repeat("x", 63) + "é": `"` + strings.Repeat("x", 63) + `"…`,
		strings.Repeat("\xff", 100):   `"` + strings.Repeat(`\xff`, 64) + `"…`,
	} {
		if got := quoteShort(text); got != want {
			t.Errorf("%q: %s, not %s", text, got, want)
		}
	}
}
