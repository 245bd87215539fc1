package authz_test

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

// Only two of all reasons let a request pass. A reason that does not exist,
// and the zero Decision, deny.
func TestDecisionAllowed(t *testing.T) {
	t.Parallel()
	require.False(t, authz.Decision{}.Allowed(), "the zero Decision")
	require.Zero(t, authz.ReasonUnset, "the zero Reason")
	for _, r := range append(authz.Reasons(), authz.Reason(len(authz.Reasons())), authz.Reason(255)) {
		want := r == authz.ReasonAllowed || r == authz.ReasonAllowedAnonymous
		assert.Equal(t, want, authz.Decision{Reason: r}.Allowed(), "reason %d (%s)", r, r)
	}
}

// Names of reasons are metric labels and appear in logs: each reason has one
// of its own, in snake case.
func TestReasonNames(t *testing.T) {
	t.Parallel()
	snake := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	named := map[string]authz.Reason{}
	for i, r := range authz.Reasons() {
		require.EqualValues(t, i, r)
		assert.Regexp(t, snake, r.String(), "reason %d", r)
		assert.NotEqual(t, "invalid", r.String(), "reason %d", r)
		other, taken := named[r.String()]
		assert.False(t, taken, "reasons %d and %d are both named %q", other, r, r)
		named[r.String()] = r
	}
	assert.Equal(t, "internal", authz.ReasonInternal.String(), "the last reason")
	for _, r := range []authz.Reason{authz.Reason(len(authz.Reasons())), 255} {
		assert.Equal(t, "invalid", r.String(), "reason %d", r)
	}
}
