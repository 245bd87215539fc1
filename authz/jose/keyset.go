package jose

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// DefaultMaxSetKeys bounds the members of a set that are parsed; further ones are
// refused. Real issuers publish a handful.
const DefaultMaxSetKeys = 256

// SetRules are the rules for the members of a key set. The zero value is usable.
type SetRules struct {
	Uses    []string // values of "use" that a member may have; nil: sig
	MaxKeys int      // members that are parsed; 0: DefaultMaxSetKeys
}

// KeySet contains the usable keys of a JWK set. It is immutable.
type KeySet struct {
	keys    []*PublicKey
	byKid   map[string][]*PublicKey
	refused []RefusedKey
}

// RefusedKey is an unusable member of a set.
type RefusedKey struct {
	Index  int    // position in "keys", from 0
	Reason string // never contains key material
}

// Len returns the number of usable keys.
func (s *KeySet) Len() int { return len(s.keys) }

// Algorithms returns the algorithms that members of the set declare with alg,
// sorted.
func (s *KeySet) Algorithms() []string {
	var algs []string
	for _, k := range s.keys {
		if k.alg != "" {
			algs = append(algs, k.alg)
		}
	}
	slices.Sort(algs)
	return slices.Compact(algs)
}

// Refused returns the unusable members. A set without usable keys is valid: the
// issuer has withdrawn them.
func (s *KeySet) Refused() []RefusedKey { return s.refused }

// ParseJWKS parses a JWK set (RFC 7517, section 5). It refuses unusable members
// one by one and keeps the others. It returns an error if the document is no
// JWK set, which says nothing about the issuer's keys.
func ParseJWKS(document []byte, rules SetRules) (*KeySet, error) {
	rules.MaxKeys = cmp.Or(rules.MaxKeys, DefaultMaxSetKeys)
	if rules.Uses == nil {
		rules.Uses = []string{"sig"}
	}
	members, err := splitSet(document)
	if err != nil {
		return nil, err
	}
	s := &KeySet{byKid: map[string][]*PublicKey{}}
	refuse := func(i int, reason string) { s.refused = append(s.refused, RefusedKey{Index: i, Reason: reason}) }
	var parsed []*PublicKey
	var index []int
	for i, text := range members {
		if i >= rules.MaxKeys {
			refuse(i, fmt.Sprintf("beyond the first %d members", rules.MaxKeys))
			continue
		}
		k, err := parseJWK(string(text), rules.Uses)
		if err != nil {
			refuse(i, err.Error())
			continue
		}
		parsed, index = append(parsed, k), append(index, i)
	}
	for i, k := range parsed {
		if conflict := conflict(parsed, i); conflict != "" {
			refuse(index[i], conflict)
			continue
		}
		k.OtherKids = otherKids(parsed, k)
		s.keys = append(s.keys, k)
		s.byKid[k.Kid] = append(s.byKid[k.Kid], k)
	}
	return s, nil
}

// otherKids returns the other kids of k among all parsed keys, refused ones
// included.
func otherKids(parsed []*PublicKey, k *PublicKey) []string {
	var kids []string
	for _, o := range parsed {
		if o.digest == k.digest && o.Kid != k.Kid && o.Kid != "" {
			kids = append(kids, o.Kid)
		}
	}
	slices.Sort(kids)
	return slices.Compact(kids)
}

// conflict returns why parsed[i] is unusable beside the other keys of its kid,
// or "". Different keys without a kid do not conflict: a token without a kid
// must fit exactly one key anyway.
func conflict(parsed []*PublicKey, i int) (reason string) {
	k := parsed[i]
	for j, o := range parsed {
		switch {
		case j == i || o.Kid != k.Kid:
		case o.digest == k.digest && o.alg == k.alg:
			if j < i {
				reason = "duplicate key"
			}
		case k.Kid != "" && ambiguous(k, o):
			return "ambiguous: another key has the same kid and algorithm"
		}
	}
	return reason
}

// ambiguous reports whether a and b are different keys for the same algorithm.
func ambiguous(a, b *PublicKey) bool {
	return a.digest != b.digest && slices.ContainsFunc(SupportedAlgorithms, func(alg string) bool { return a.fits(alg) && b.fits(alg) })
}

// splitSet returns the members of the document as text, so that a member that
// is not strict JSON does not affect the others.
func splitSet(document []byte) (members []json.RawMessage, err error) {
	document = bytes.TrimPrefix(document, byteOrderMark)
	if !json.Valid(document) {
		return nil, errors.New("not valid JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(document))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		if name != "keys" {
			continue
		}
		if members != nil {
			return nil, errors.New("duplicate keys member")
		}
		if err := json.Unmarshal(value, &members); err != nil || members == nil {
			return nil, errors.New("keys is not an array")
		}
	}
	if members == nil {
		return nil, errors.New("no keys member")
	}
	return members, nil
}

// Find returns the key for a token's header, or nil. known is false if the set
// lacks the key that the header names, so that fetching the set again may help.
// A token without a kid (RFC 7515, section 4.1.4) must fit exactly one key: of
// those that its x5t or x5t#S256 names or, if it has none, of all. A thumbprint
// that no key has excludes the keys that have another one.
func (s *KeySet) Find(h Header) (key *PublicKey, known bool) {
	if h.Kid != "" {
		candidates := s.byKid[h.Kid]
		if i := slices.IndexFunc(candidates, func(k *PublicKey) bool { return k.fits(h.Alg) }); i >= 0 {
			return candidates[i], true
		}
		return nil, len(candidates) > 0
	}
	var named, others []*PublicKey
	for _, k := range s.keys {
		switch match, contradiction := k.certified(h); {
		case !k.fits(h.Alg) || contradiction:
		case match:
			named = append(named, k)
		default:
			others = append(others, k)
		}
	}
	if len(named) == 0 {
		named = others
	}
	// Of one key under several kids, any will do: their revocation keys are the same.
	if len(named) > 0 && !slices.ContainsFunc(named, func(k *PublicKey) bool { return k.digest != named[0].digest }) {
		return named[0], true
	}
	return nil, len(named) > 0 || h.X5T+h.X5TS256 == ""
}

// certified reports whether a thumbprint in the header is one of the key's, and
// whether one is not although the key has others of its kind. Some issuers
// publish x5t as the kid alone.
func (k *PublicKey) certified(h Header) (match, contradiction bool) {
	match = h.X5T != "" && h.X5T == k.Kid
	for _, t := range []struct {
		named string
		have  []string
	}{{h.X5T, k.x5t}, {h.X5TS256, k.x5tS256}} {
		if t.named != "" && len(t.have) > 0 {
			same := slices.Contains(t.have, t.named)
			match, contradiction = match || same, contradiction || !same
		}
	}
	return match, contradiction
}

// Keeps reports whether s contains every key of old with the same kids. If it
// does not, a cached token may lack the revocation key of one of its kids.
func (s *KeySet) Keeps(old *KeySet) bool {
	for _, k := range old.keys {
		if !slices.ContainsFunc(s.byKid[k.Kid], func(n *PublicKey) bool {
			return n.digest == k.digest && n.alg == k.alg && n.Issuer == k.Issuer && slices.Equal(n.OtherKids, k.OtherKids)
		}) {
			return false
		}
	}
	return true
}
