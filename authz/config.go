package authz

import (
	"net/netip"
	"strconv"
)

// Report is how the Validate method of a configuration stanza reports an invalid
// value. path is relative to the stanza ("jwks", "routes[2].match.path"). The
// message says what was found, what is allowed and, where it helps, what to do.
// The loader adds file, line and column, and returns all errors together.
type Report func(path, format string, args ...any)

func ItemPath(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

func IsLabel(s string) bool {
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

func IsLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
