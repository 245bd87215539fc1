package harness

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPoll(t *testing.T) {
	t.Parallel()
	errNotYet := errors.New("not yet")
	for name, tt := range map[string]struct {
		succeeds int // the call that returns nil; 0: none
		want     error
		took     time.Duration
	}{
		"at once":       {succeeds: 1},
		"at the third":  {succeeds: 3, took: 20 * time.Millisecond},
		"never in time": {want: errNotYet, took: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start, calls := time.Now(), 0
				err := Poll(ctx, 10*time.Millisecond, func(context.Context) error {
					if calls++; calls == tt.succeeds {
						return nil
					}
					return errNotYet
				})
				require.ErrorIs(t, err, tt.want)
				require.Equal(t, tt.took, time.Since(start))
			})
		})
	}
}
