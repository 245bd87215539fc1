package authz

import (
	"encoding/json"
	"math/bits"
)

// Size estimates the bytes that a cache needs for t, the adapter's encoded
// answer included. It errs on the high side: text that fields share with Raw or
// Claims counts twice.
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

// sizeOf estimates the bytes that a decoded value refers to, and the length of
// its text. The numbers are those of Go's allocator and maps (TestSizes).
func sizeOf(v any) (held, text int) {
	const box = 16 // what an interface with a string, slice or number points to
	switch v := v.(type) {
	case string:
		return box + len(v), len(v)
	case json.Number:
		return box + len(v), len(v)
	case []any:
		held = 24 + 2*16*len(v) // append at most doubles an array of interfaces
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

// sizeOfMap estimates a map[string]any of n members, without what they refer to.
func sizeOfMap(n int) int {
	const (
		header = 48
		group  = 288     // eight members and their control word
		table  = 32 + 16 // of a map with more than one group
	)
	switch {
	case n == 0:
		return header
	case n <= 8:
		return header + group
	}
	return header + table + group<<bits.Len(uint((8*n+6)/7-1))/8
}
