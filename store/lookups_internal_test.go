package store

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"

	"jwtbouncer/authz"
)

// Whatever a driver does, the process lives and knows nothing.
func TestPanickingDriver(t *testing.T) {
	t.Parallel()
	o := Options{}
	o.setDefaults()
	l := newLookups("x", &o, newMetrics(nil, "x"), func(context.Context, []authz.Key) (result, error) { panic("boom") })
	defer l.breaker.Close()
	v, err := l.verdict(t.Context(), &authz.Query{Keys: []authz.Key{{1}}})
	assert.Equalf(t, authz.Unknown, v, "%v %v", v, err)
	assert.ErrorIsf(t, err, authz.ErrUnavailable, "%v %v", v, err)
}
