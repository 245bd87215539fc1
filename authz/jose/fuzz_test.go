package jose

import (
	"encoding/base64"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"jwtbouncer/authz"
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
		iss, skimmed := SkimIssuer(text)
		m, err := ParseObject(text)
		if err != nil {
			if m != nil {
				t.Fatalf("a value beside an error: %v", m)
			}
			return
		}
		var claim IssuerClaim
		_, claim.Present = m["iss"]
		claim.Name, claim.Text = m["iss"].(string)
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
		again, err := ParseObject(string(b))
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
		c, fail := ParseCompact(raw, limit)
		if fail != nil {
			if c != nil || (fail.Reason != authz.ReasonMalformedToken && fail.Reason != authz.ReasonUnsupportedToken) {
				t.Fatalf("%v beside %v", c, fail)
			}
			if strings.ContainsFunc(fail.Detail, func(r rune) bool { return r != '…' && (r < ' ' || r > '~') }) {
				t.Fatalf("detail not fit for a log: %q", fail.Detail)
			}
			return
		}
		if len(raw) > limit || !slices.Contains(SupportedAlgorithms, c.Header.Alg) || len(c.Signature) == 0 {
			t.Fatalf("admitted %+v", c)
		}
		parts := strings.Split(raw, ".")
		e := base64.RawURLEncoding.EncodeToString
		if len(parts) != 3 || c.Input+"."+e(c.Signature) != raw || parts[1] != e(c.Payload) {
			t.Fatalf("%q has another text", raw)
		}
		if signed, ok := authz.SignedPart(raw); !ok || signed != c.Input {
			t.Fatalf("%q would be revoked as %q", raw, signed)
		}
		head, err := base64.RawURLEncoding.DecodeString(parts[0])
		if err != nil || e(head) != parts[0] {
			t.Fatalf("header of %q: %v", raw, err)
		}
		var h map[string]any
		if err := json.Unmarshal(head, &h); err != nil || h["alg"] != c.Header.Alg {
			t.Fatalf("header %q read as %+v (%v)", head, c.Header, err)
		}
		for _, name := range refusedParameters {
			if _, present := h[name]; present {
				t.Fatalf("header with %s admitted", name)
			}
		}
		if kid, present := h["kid"]; present != c.Header.Keyed || (present && kid != c.Header.Kid) {
			t.Fatalf("kid %v read as %q", kid, c.Header.Kid)
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
			for name, a := range Algorithms {
				if !k.fits(name) {
					continue
				}
				fits++
				if a.Verify(k.Key, "input", make([]byte, 64)) || a.Verify(k.Key, "input", nil) {
					t.Fatalf("%+v verifies anything", k)
				}
			}
			if fits == 0 {
				t.Fatalf("%+v is for nothing", k)
			}
		}
	})
}
