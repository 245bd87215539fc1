package httpapi_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi/httpapitest"
)

// increase() misses the first event of a series that begins with it, so the
// series that alerts use exist from the start.
func TestSeriesExistFromTheStart(t *testing.T) {
	t.Parallel()
	b := httpapitest.NewReceivers(t, nil)
	series := func(name string) int {
		n, err := testutil.GatherAndCount(b.Metrics, name)
		require.NoError(t, err)
		return n
	}
	const revocations, events = "jwt_bouncer_revocations_ordered_total", "jwt_bouncer_security_events_total"
	require.Equal(t, 7*4, series(revocations))
	require.Equal(t, 5, series(events))
	body := `{"iss":"` + httpapitest.IssuerA + `","jti":"x"}`
	for _, failure := range []error{nil, authz.ErrInvalid, authz.ErrUnavailable, authz.ErrOutcomeUnknown} {
		b.Ledger.SetFail(failure)
		b.Do("POST", "/v1/revocations", body, "Content-Type", "application/json")
	}
	assert.Equal(t, 7*4, series(revocations), "counting adds no series")
}
