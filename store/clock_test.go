package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

const day = 24 * time.Hour

// wall is the machine's clock but for the wall clock's step.
type wall struct {
	authz.SystemClock
	step *harness.Clock
}

func (w wall) Now() time.Time { return w.step.Now() }

// revokedUntil stores a revocation that ends at a time.
func revokedUntil(t *testing.T, s *store.Store, value string, until time.Time) {
	t.Helper()
	r := jti(value)
	r.ExpiresAt = until
	_, err := s.Append(t.Context(), []authz.Revocation{r})
	require.NoError(t, err)
}

func enforced(t *testing.T, s *store.Store, value, when string) {
	t.Helper()
	v, err := s.Lookup(t.Context(), queryFor(jti(value)))
	assert.Equalf(t, authz.Revoked, v, "%s: %v, want revoked", when, err)
	assert.NoErrorf(t, err, "%s: %v %v, want revoked", when, v, err)
}

// A database whose clock is set forward, and later corrected, neither hides nor
// deletes what is revoked; nor does the sidecar's own.
func TestClockForward(t *testing.T) {
	t.Parallel()
	here, there := harness.NewClock(t), harness.NewClock(t)
	for engine, url := range map[string]string{"postgres": harness.OwnPostgresAt(t, there).URL, "sqlite": sqliteURL(t)} {
		s := open(t, url, store.Options{Clock: wall{step: here}})
		revokedUntil(t, s, engine, time.Now().Add(time.Hour))
		for _, c := range []*harness.Clock{here, there} {
			c.Step(2 * day)
			if c == there {
				enforced(t, s, engine, engine+", its clock ahead")
			}
			n, err := s.GC(t.Context())
			assert.Zerof(t, n, "%s: revocations deleted while a clock was ahead: %v", engine, err)
			assert.NoErrorf(t, err, "%s: %d revocations deleted while a clock was ahead", engine, n)
			c.Step(0)
			enforced(t, s, engine, engine+", after it was corrected")
		}
		here.Step(2 * day)
		there.Step(2 * day)
		n, err := s.GC(t.Context())
		assert.Zerof(t, n, "%s: revocations deleted while both clocks were ahead: %v", engine, err)
		assert.NoErrorf(t, err, "%s: %d revocations deleted while both clocks were ahead", engine, n)
		here.Step(0)
		there.Step(0)
		enforced(t, s, engine, engine+", after both were corrected")
	}
}

// What is revoked while the database's clock is behind outlasts its correction.
func TestClockBehind(t *testing.T) {
	t.Parallel()
	there := harness.NewClock(t)
	s := open(t, harness.OwnPostgresAt(t, there).URL, store.Options{MaxTokenTTL: day})
	there.Step(-2 * day)
	sid := authz.Revocation{Kind: authz.KindSID, Issuer: issuer, Value: "s"}
	stored, err := s.Append(t.Context(), []authz.Revocation{jti("a"), sid, {Kind: authz.KindSub, Issuer: issuer, Value: "u"}})
	require.NoError(t, err)
	for _, r := range stored.Revocations {
		left := time.Until(r.ExpiresAt)
		assert.GreaterOrEqualf(t, left, day-time.Minute, "%s: ends in %s, want %s", r.Kind, left, day)
	}
	there.Step(0)
	enforced(t, s, "a", "after the correction")
	n, err := s.GC(t.Context())
	assert.Zerof(t, n, "deleted: %v", err)
	assert.NoErrorf(t, err, "%d deleted", n)
}

// A sidecar whose clock is far behind takes tokens for good that have expired
// long ago, and whose revocations others may have deleted: it proves nothing.
func TestClockFarBehind(t *testing.T) {
	t.Parallel()
	here := harness.NewClock(t)
	s := open(t, harness.Postgres(t).URL, store.Options{Clock: wall{step: here}})
	revokedUntil(t, s, "a", time.Now().Add(time.Hour))
	for step, want := range map[time.Duration]authz.Verdict{
		-29 * time.Minute: authz.NotRevoked,
		-31 * time.Minute: authz.Unknown,
		-2 * day:          authz.Unknown,
		2 * day:           authz.NotRevoked,
	} {
		here.Step(step)
		v, err := s.Lookup(t.Context(), queryFor(jti("never revoked")))
		assert.Equalf(t, want, v, "stepped by %s: %v", step, err)
		assert.Equalf(t, want == authz.Unknown, errors.Is(err, store.ErrUnproven), "stepped by %s: %v %v, want %v", step, v, err, want)
		enforced(t, s, "a", step.String())
	}
}
