package authztest

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"
)

// Minting changes one aspect of the valid token that Mint makes by default.
type Minting func(*draft)

type draft struct {
	alg       string
	key       *Key
	header    map[string]any
	rawHeader []byte
	payload   []byte
	lifetime  time.Duration
	sign      func(input []byte) []byte
	edit      func(token string) string
}

// Alg signs with the issuer's key for alg.
func Alg(alg string) Minting { return func(d *draft) { d.alg = alg } }

// With signs with k, which need not be a key of the issuer.
func With(k *Key) Minting { return func(d *draft) { d.key = k } }

// Header sets a member of the JOSE header; a nil value omits it.
func Header(name string, value any) Minting {
	return func(d *draft) { d.header[name] = value }
}

// RawHeader replaces the JOSE header by these bytes.
func RawHeader(b []byte) Minting { return func(d *draft) { d.rawHeader = b } }

// RawPayload replaces the claims by these bytes.
func RawPayload(b []byte) Minting { return func(d *draft) { d.payload = b } }

// Lifetime sets exp to the current time plus d; the default is 5 minutes.
func Lifetime(d time.Duration) Minting { return func(m *draft) { m.lifetime = d } }

// Signature replaces the signing function, which receives "header.payload".
func Signature(sign func(input []byte) []byte) Minting { return func(d *draft) { d.sign = sign } }

// Tampered flips a bit in the middle of the signature.
func Tampered() Minting {
	return func(d *draft) {
		d.edit = func(token string) string {
			b := []byte(token)
			at := strings.LastIndexByte(token, '.') + 8
			if b[at] == 'A' {
				b[at] = 'B'
			} else {
				b[at] = 'A'
			}
			return string(b)
		}
	}
}

// Mint signs a token. Its default claims are iss, sub ("user-1"), aud ("api"),
// iat, exp and a random jti. claims are added or replace the defaults; a nil
// value omits a claim (json.RawMessage("null") makes a JSON null). Mint panics
// on claims that cannot be encoded as JSON.
func (i *Issuer) Mint(claims map[string]any, options ...Minting) string {
	d := draft{header: map[string]any{}, lifetime: 5 * time.Minute}
	for _, o := range options {
		o(&d)
	}
	if d.key == nil {
		d.key = i.Key(d.alg)
	}
	if d.alg == "" {
		d.alg = d.key.Alg
	}
	header := map[string]any{"alg": d.alg, "typ": "JWT"}
	if d.key.ID != "" {
		header["kid"] = d.key.ID
	}
	merge(header, d.header)
	head := d.rawHeader
	if head == nil {
		head = encode(header)
	}
	body := d.payload
	if body == nil {
		now := i.now()
		all := map[string]any{
			"iss": i.Name, "sub": "user-1", "aud": "api", "jti": randomID(),
			"iat": now.Unix(), "exp": now.Add(d.lifetime).Unix(),
		}
		merge(all, claims)
		body = encode(all)
	}
	input := b64(head) + "." + b64(body)
	if d.sign == nil {
		d.sign = func(input []byte) []byte { return d.key.Sign(d.alg, input) }
	}
	token := input + "." + b64(d.sign([]byte(input)))
	if d.edit != nil {
		token = d.edit(token)
	}
	return token
}

func merge(into, from map[string]any) {
	maps.Copy(into, from)
	maps.DeleteFunc(into, func(_ string, v any) bool { return v == nil })
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("authztest: cannot encode: %v", err))
	}
	return b
}
