package authz

import (
	"encoding/json"
	"math/bits"
)

// Size estimates what remembering t takes in bytes, the adapter's encoded
// answer included. It is for caches, and rather too high than too low: text
// that fields share with Raw or with Claims is counted anew.
func (t *Token) Size() int {
	const (
		fixed  = 512 // the token, its keys, a cache's node, a map's bucket
		answer = 512 // the adapter's encoded answer beyond the claims it repeats
	)
	n := fixed + answer + len(t.Raw) + 2*len(t.Issuer) + len(t.Subject) + len(t.ID) + len(t.Session) + len(t.KeyID)
	for _, s := range t.Audience {
		n += 16 + len(s)
	}
	for _, s := range t.Scopes {
		n += 16 + len(s)
	}
	held, text := sizeOf(t.Claims)
	return n + held + text // the adapter's answer repeats the text
}

// sizeOf estimates what a decoded value holds, besides the interface that it
// is in, and how long its text is. The numbers are those of Go's allocator and
// maps; TestSizes measures them.
func sizeOf(v any) (held, text int) {
	const box = 16 // what an interface with a string, slice or number points to
	switch v := v.(type) {
	case string:
		return box + len(v), len(v)
	case json.Number:
		return box + len(v), len(v)
	case []any:
		held = 24 + 16*roomFor(len(v)) // an array of interfaces, as it grew
		for _, e := range v {
			h, t := sizeOf(e)
			held, text = held+h, text+t
		}
		return held, text
	case map[string]any:
		held = sizeOfMap(len(v))
		for k, e := range v {
			h, t := sizeOf(e)
			held, text = held+len(k)+h, text+len(k)+t
		}
		return held, text
	}
	return 0, 0
}

// roomFor is the room that append makes for n elements, one after the other.
func roomFor(n int) int {
	if n <= 256 {
		return powerOfTwo(n)
	}
	return n + n/2
}

// sizeOfMap is a map[string]any of n members, without what they point to.
func sizeOfMap(n int) int {
	const (
		header = 48
		group  = 288     // eight members and their control word
		table  = 32 + 16 // of a map of more groups than one
	)
	switch {
	case n == 0:
		return header
	case n <= 8:
		return header + group
	}
	return header + table + powerOfTwo((8*n+6)/7)/8*group
}

func powerOfTwo(n int) int {
	if n <= 1 {
		return n
	}
	return 1 << bits.Len(uint(n-1))
}
