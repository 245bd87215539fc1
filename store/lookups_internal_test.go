package store

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"

	"jwtbouncer/authz"
)

// The breaker trips again in the moment in which the probe that closed it is
// leaving. Somebody has to probe all the same.
func TestBreakerTripsWhileTheProbeLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := Options{}
		o.setDefaults()
		well := false
		l := newLookups(context.Background(), "x", &o, newMetrics(nil, "x"), func(context.Context, []authz.Key) (reading, error) {
			if well {
				return reading{}, nil
			}
			return reading{}, errors.New("refused")
		})
		defer l.close()
		l.probing.Store(true) // it has seen the breaker closed, and is about to return
		for range 5 {
			_, _ = l.ask(t.Context(), []authz.Key{{1}})
		}
		if l.breaker.State() == gobreaker.StateClosed {
			t.Fatal("not tripped")
		}
		well = true
		l.probed()
		time.Sleep(5 * time.Second)
		if _, err := l.ask(t.Context(), []authz.Key{{1}}); err != nil {
			t.Errorf("5 s after healing: %v", err)
		}
	})
}

// Whatever a driver does, the process lives and knows nothing.
func TestPanickingDriver(t *testing.T) {
	t.Parallel()
	o := Options{}
	o.setDefaults()
	l := newLookups(context.Background(), "x", &o, newMetrics(nil, "x"), func(context.Context, []authz.Key) (reading, error) { panic("boom") })
	defer l.close()
	if v, err := l.verdict(t.Context(), &authz.Query{Keys: []authz.Key{{1}}}); v != authz.Unknown || !errors.Is(err, authz.ErrUnavailable) {
		t.Errorf("%v %v", v, err)
	}
}
