package store

import (
	"context"
	"errors"
	"testing"

	"jwtbouncer/authz"
)

// Whatever a driver does, the process lives and knows nothing.
func TestPanickingDriver(t *testing.T) {
	t.Parallel()
	o := Options{}
	o.setDefaults()
	l := newLookups("x", &o, newMetrics(nil, "x"), func(context.Context, []authz.Key) (result, error) { panic("boom") })
	defer l.close()
	if v, err := l.verdict(t.Context(), &authz.Query{Keys: []authz.Key{{1}}}); v != authz.Unknown || !errors.Is(err, authz.ErrUnavailable) {
		t.Errorf("%v %v", v, err)
	}
}
