package authz

import (
	"errors"
	"strconv"
	"strings"
)

// ErrCutURL is the error of a URL whose user or password contains a character that
// ends it. What follows would be taken for the host or the database: it would be
// looked up and printed.
var ErrCutURL = errors.New("the URL is cut short: percent-encode @ (%40), / (%2F), ? (%3F) and # (%23) in its user and password")

// CheckUserinfo returns ErrCutURL if the user or password of raw, the URL of a
// server, contains an unencoded delimiter (RFC 3986, section 3.2.1). Such a URL can
// be well-formed and mean another server. Multiple hosts are no fault here.
func CheckUserinfo(raw string) error {
	_, rest, _ := strings.Cut(raw, "://")
	authority, after := rest, ""
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		authority, after = rest[:end], rest[end:]
	}
	path, query, _ := strings.Cut(after, "?")
	misplaced := func(s string) bool { return authority != "" && strings.Contains(s, "@") }
	switch {
	case strings.Contains(raw, "#"), strings.Count(authority, "@") > 1, misplaced(path):
		return ErrCutURL
	}
	for pair := range strings.SplitSeq(query, "&") {
		if name, _, _ := strings.Cut(pair, "="); misplaced(name) {
			return ErrCutURL
		}
	}
	return nil
}

// QuoteURL quotes a URL for a message. Of one that may contain a user or password it
// shows the scheme only, because the host of a malformed URL may be a password.
func QuoteURL(raw string) string {
	if scheme, rest, ok := strings.Cut(raw, "://"); ok && strings.Contains(rest, "@") {
		return QuoteShort(scheme+"://") + "…"
	}
	if strings.Contains(raw, "@") {
		return "the given value"
	}
	return strconv.Quote(raw)
}
