package receiver

import (
	"encoding/json"
	"time"

	"jwtbouncer/authz"
)

// secondsOf converts a NumericDate to Unix seconds, rounded down. It accepts
// milliseconds, too, as some senders and the examples of CAEP 1.0 use them.
func secondsOf(claim any) (int64, bool) {
	n, _ := claim.(json.Number)
	f, err := n.Float64()
	if f > authz.LastSecond {
		f /= 1000
	}
	if err != nil || !(f > 0 && f <= authz.LastSecond) { // NaN fails both
		return 0, false
	}
	return int64(f), true
}

// notBefore returns the not_before that revokes tokens issued up to and including
// the second at: the message's own time, so that a late or repeated message does
// not revoke tokens issued since. It may lie in the future by this sidecar's clock:
// the issuer's clock, which dates the tokens, may be ahead.
func notBefore(at int64) time.Time { return time.Unix(at+1, 0).UTC() }

// text returns a claim that is text; "" for any other.
func text(claims map[string]any, name string) string {
	s, _ := claims[name].(string)
	return s
}
