package policy

import (
	"net/netip"
	"strings"
)

// readHost returns the host of an authority in the form that routes compare: lower
// case, without the port and the dot of the root, IPv6 in its canonical form in
// brackets. If ok is false, it is unclear whether a route with hosts matches.
func readHost(authority string) (host string, ok bool) {
	if authority == "" || len(authority) > 300 {
		return "", false
	}
	if authority[0] == '[' {
		end := strings.IndexByte(authority, ']')
		if end < 0 || !isPortSuffix(authority[end+1:]) {
			return "", false
		}
		ip, err := netip.ParseAddr(authority[1:end])
		if err != nil || !ip.Is6() || ip.Zone() != "" {
			return "", false
		}
		return "[" + ip.String() + "]", true
	}
	host = authority
	if i := strings.IndexByte(host, ':'); i >= 0 {
		if !isPortSuffix(host[i:]) {
			return "", false
		}
		host = host[:i]
	}
	host = strings.TrimSuffix(host, ".")
	upper := false
	label := 0
	for i := range len(host) {
		c := host[i]
		switch {
		case c == '.':
			if label == 0 {
				return "", false
			}
			label = -1
		case c >= 'A' && c <= 'Z':
			upper = true
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return "", false
		}
		label++
	}
	if label == 0 {
		return "", false
	}
	if upper {
		host = strings.ToLower(host)
	}
	return host, true
}

func isPortSuffix(s string) bool {
	for i := 1; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s == "" || s[0] == ':' && len(s) <= 6
}

// hostPattern is one host or, with suffix, all hosts below it.
type hostPattern struct {
	name   string // canonical; with suffix: ".example.com"
	suffix bool
}

func (p hostPattern) matches(host string) bool {
	if p.suffix {
		return len(host) > len(p.name) && strings.HasSuffix(host, p.name)
	}
	return host == p.name
}

func (p hostPattern) covers(o hostPattern) bool {
	if p.suffix && o.suffix {
		return strings.HasSuffix(o.name, p.name)
	}
	return !o.suffix && p.matches(o.name)
}
