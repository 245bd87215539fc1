package authztest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"jwtbouncer/authz"
)

// Case is one clause of a contract. Check returns an error rather than failing a
// test, so that the suites can be tested on broken implementations.
type Case[S any] struct {
	Name  string
	Check func(ctx context.Context, s S) error
}

// caseTimeout limits one case; it allows for a busy machine.
const caseTimeout = 3 * time.Minute

func runCases[S any](t *testing.T, s S, cases []Case[S]) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), caseTimeout)
			defer cancel()
			assert.NoError(t, c.Check(ctx, s))
		})
	}
}

// collect joins the errors that a case finds, up to a readable number.
type collect struct {
	errs []error
	more int
}

func (c *collect) addf(format string, args ...any) {
	if len(c.errs) == 10 {
		c.more++
		return
	}
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

func (c *collect) err() error {
	if c.more > 0 {
		c.errs = append(c.errs, fmt.Errorf("and %d more", c.more))
		c.more = 0
	}
	return errors.Join(c.errs...)
}

// issuerFor returns a unique issuer, so that cases and runs that share a store do
// not affect each other.
func issuerFor(name string) string {
	return fmt.Sprintf("https://%s.example/%d", name, time.Now().UnixNano())
}

// oddTexts returns unusual identifiers: hostile ones, and valid ones in various
// scripts.
func oddTexts() []string {
	long := make([]byte, 1024)
	for i := range long {
		long[i] = "abcdefghij'\"\\%:"[i%15]
	}
	return []string{
		"a:b", "a", "A", " a", "a ", "a'; drop table revocations; --", `"quoted" 'twice'`, `back\slash \x00 \\`, "%_*?[a]",
		"snow ☃ \U0001F512 e\u0301", "snow ☃ \U0001F512 \u00e9", "\u202eright to left", "line\nbreak\ttab\r", "\x01\x1f\x7f", "{}", `{"a":1}`, "null", "NULL", "$1", "0", "-1",
		string(long),
	}
}

// of returns a revocation of the kind, with a value that the kind allows.
func of(kind authz.Kind, issuer, value string) authz.Revocation {
	switch kind {
	case authz.KindIss:
		value = ""
	case authz.KindToken:
		value = authz.TokenValue(value + ".x")
	case authz.KindClaim:
		value = authz.ClaimValue(suiteClaim, value)
	}
	return authz.Revocation{Kind: kind, Issuer: issuer, Value: value, RevokedBy: "authztest"}
}

// suiteClaim is the revocable claim of the suites' tokens.
const suiteClaim = "tenant"

// kinds are the kinds of an issuer's tokens: all but KindAll, which would change
// the answers of every other case.
var kinds = []authz.Kind{
	authz.KindJTI, authz.KindSub, authz.KindSID, authz.KindKID, authz.KindIss, authz.KindToken, authz.KindClient, authz.KindActor, authz.KindClaim,
}
