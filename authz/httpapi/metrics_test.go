package httpapi_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi/httpapitest"
)

// increase() sees nothing in a series that begins with its first event: what
// alerts look at is there before.
func TestClosedLabelSetsAreThereFromTheStart(t *testing.T) {
	t.Parallel()
	b := httpapitest.NewReceivers(t, nil)
	series := func(name string) int {
		n, err := testutil.GatherAndCount(b.Metrics, name)
		require.NoError(t, err)
		return n
	}
	const ordered, events = "jwt_bouncer_revocations_ordered_total", "jwt_bouncer_security_events_total"
	require.Equal(t, 6*4, series(ordered))
	require.Equal(t, 5, series(events))
	order := `{"iss":"` + httpapitest.IssuerA + `","jti":"x"}`
	for _, failure := range []error{nil, authz.ErrInvalid, authz.ErrUnavailable, authz.ErrOutcomeUnknown} {
		b.Ledger.SetFail(failure)
		b.Do("POST", "/v1/revocations", order, "Content-Type", "application/json")
	}
	assert.Equal(t, 6*4, series(ordered), "what is counted was there")
}
