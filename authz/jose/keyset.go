package jose

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"jwtbouncer/authz"
)

// maxSetKeys bounds how many keys of one set are looked at; further ones are
// refused. Real issuers publish a handful.
const maxSetKeys = 256

// KeySet is the usable part of a JWK set. It is immutable.
type KeySet struct {
	keys    []*PublicKey
	byID    map[string][]*PublicKey // several of one kid only where no algorithm fits two
	refused []RefusedKey
}

// RefusedKey is a member of a set that is not used, and why.
type RefusedKey struct {
	Index  int    // position in "keys", from 0
	Reason string // never holds key material
}

// Len is the number of usable keys.
func (s *KeySet) Len() int { return len(s.keys) }

// Refused returns the members that are not used. A set of none but refused
// members is a set all the same: the issuer has withdrawn its good keys.
func (s *KeySet) Refused() []RefusedKey { return s.refused }

// ParseJWKS reads a JWK set (RFC 7517, section 5). Each member stands for
// itself: an unfit one is refused and the others live. An error means that the
// document is no JWK set, and that nothing follows from it.
func ParseJWKS(document []byte) (*KeySet, error) {
	members, err := splitSet(document)
	if err != nil {
		return nil, fmt.Errorf("not a JWK set: %w", err)
	}
	s := &KeySet{byID: map[string][]*PublicKey{}}
	refuse := func(i int, reason string) { s.refused = append(s.refused, RefusedKey{Index: i, Reason: reason}) }
	var found []*PublicKey
	var index []int
	for i, text := range members {
		if i >= maxSetKeys {
			refuse(i, fmt.Sprintf("beyond the first %d members", maxSetKeys))
			continue
		}
		k, err := parseJWK(string(text))
		if err != nil {
			refuse(i, err.Error())
			continue
		}
		found, index = append(found, k), append(index, i)
	}
	for i, k := range found {
		switch clash(found, i) {
		case sameKey:
			refuse(index[i], "the same key again")
		case otherKey:
			refuse(index[i], "another key of this kid is for the same algorithm: which one is meant cannot be known")
		default:
			s.keys = append(s.keys, k)
			s.byID[k.Kid] = append(s.byID[k.Kid], k)
		}
	}
	for _, k := range s.keys {
		k.Others = otherNames(found, k)
	}
	return s, nil
}

// otherNames returns the other kids under which keys hold the same key as k,
// usable by them or not.
func otherNames(keys []*PublicKey, k *PublicKey) []string {
	var names []string
	for _, o := range keys {
		if o.digest == k.digest && o.Kid != k.Kid && o.Kid != "" {
			names = append(names, o.Kid)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

const (
	sameKey = iota + 1
	otherKey
)

// clash compares keys[i] with the others of its kid. Keys without a kid do
// not clash: a token that names none must fit exactly one key anyway.
func clash(keys []*PublicKey, i int) (found int) {
	for j, o := range keys {
		k := keys[i]
		switch {
		case j == i || o.Kid != k.Kid:
		case o.digest == k.digest && o.alg == k.alg:
			if j < i && found == 0 {
				found = sameKey
			}
		case k.Kid != "" && overlap(k, o):
			found = otherKey
		}
	}
	return found
}

func overlap(a, b *PublicKey) bool {
	for alg := range Algorithms {
		if a.fits(alg) && b.fits(alg) {
			return a.digest != b.digest
		}
	}
	return false
}

// splitSet takes the members out of the document without looking into them,
// so that one that is not even strict JSON does not cost the others.
func splitSet(document []byte) ([]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(document))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	var members []json.RawMessage
	seen := false
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, errors.New("not valid JSON")
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, errors.New("not valid JSON")
		}
		if name != "keys" {
			continue
		}
		if seen {
			return nil, errors.New("keys occurs twice")
		}
		seen = true
		if err := json.Unmarshal(value, &members); err != nil || members == nil {
			return nil, errors.New("keys is not an array")
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, errors.New("not valid JSON")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text after the object")
	}
	if !seen {
		return nil, errors.New("no keys member")
	}
	return members, nil
}

// find returns the key for a token's kid and alg. known: the set has the kid,
// whatever it is for, so that fetching again is no use.
func (s *KeySet) Find(h Header) (key *PublicKey, known bool) {
	if h.Keyed {
		list := s.byID[h.Kid]
		for _, k := range list {
			if k.fits(h.Alg) {
				return k, true
			}
		}
		return nil, len(list) > 0
	}
	for _, k := range s.keys { // no kid: RFC 7515, section 4.1.4, leaves it optional
		if k.fits(h.Alg) {
			if key != nil {
				return nil, true // which one is meant cannot be known
			}
			key = k
		}
	}
	return key, true
}

// VerifyJWS checks the form and the signature of a JWS whose payload is
// opaque, and returns the payload. It says nothing about issuer, audience or
// time: no bearer token is judged by it. Errors wrap a *Failure.
func (s *KeySet) VerifyJWS(raw string) ([]byte, error) {
	c, fail := ParseCompact(raw, DefaultMaxTokenBytes)
	if fail != nil {
		return nil, fail
	}
	k, _ := s.Find(c.Header)
	if k == nil {
		return nil, &authz.Failure{Reason: authz.ReasonUnknownKey, Detail: "no key of the set is for kid and alg"}
	}
	if !Algorithms[c.Header.Alg].Verify(k.Key, c.Input, c.Signature) {
		return nil, &authz.Failure{Reason: authz.ReasonBadSignature, Detail: "the signature does not verify"}
	}
	return c.Payload, nil
}

// keeps reports whether every key of old is in s as it was, under the same
// names: a remembered token must know them all, should one of them be revoked.
func (s *KeySet) Keeps(old *KeySet) bool {
	for _, k := range old.keys {
		kept := false
		for _, n := range s.byID[k.Kid] {
			kept = kept || (n.digest == k.digest && n.alg == k.alg && slices.Equal(n.Others, k.Others))
		}
		if !kept {
			return false
		}
	}
	return true
}
