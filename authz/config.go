package authz

import (
	"net/netip"
	"strconv"
	"strings"
)

// Report is how the Validate method of a configuration stanza reports an invalid
// value. path is relative to the stanza ("jwks", "routes[2].match.path"). The
// message says what was found, what is allowed and, where it helps, what to do.
// The loader adds file, line and column, and returns all errors together.
type Report func(path, format string, args ...any)

// ItemPath returns the path of one entry of a list, such as "routes[2]".
func ItemPath(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

// IsLabel reports whether s can name something in metrics, logs and paths:
// letters, digits, "-" and "_", at most 64.
func IsLabel(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, alphanumeric+"-_") == ""
}

// IsLoopback reports whether only this machine can reach host. Names other than
// localhost may resolve to any address.
func IsLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
