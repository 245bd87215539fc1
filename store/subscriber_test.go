package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

// Revocations are committed at the publisher, so a logical subscriber vouches for
// nothing, whether it is behind or not. It notices a subscription that is
// created while it is connected, and takes over once the subscription is dropped.
func TestSubscriberProvesNothing(t *testing.T) {
	t.Parallel()
	for _, publication := range []string{"table authz.revocations", "all tables"} {
		t.Run(publication, func(t *testing.T) {
			t.Parallel()
			from, at := harness.OwnPostgres(t, "wal_level", "logical"), harness.OwnPostgres(t, "wal_level", "logical")
			open(t, from.URL, store.Options{})
			f, s := newFollowed(t, at.URL)
			proves := func(when string, want bool) {
				t.Helper()
				_, snap := f.sync(t)
				assert.Equalf(t, want, snap.Proves, "%s: changes", when)
				v, err := s.Lookup(t.Context(), queryFor(jti("nothing")))
				if want {
					require.NoErrorf(t, err, "%s: lookup", when)
					assert.Equalf(t, authz.NotRevoked, v, "%s: lookup", when)
					require.NoErrorf(t, usable(t, s), "%s", when)
					return
				}
				require.ErrorIsf(t, err, store.ErrUnproven, "%s: lookup", when)
				assert.Equalf(t, authz.Unknown, v, "%s: lookup", when)
				require.ErrorIsf(t, usable(t, s), store.ErrUnproven, "%s: limits", when)
			}
			proves("on its own", true)
			from.Exec(t, "create publication one for "+publication)
			c := at.Connect(t)
			sql(t, c, fmt.Sprintf("create subscription one connection '%s' publication one with (copy_data = false)", from.URL))
			defer func() { _, _ = c.Exec(context.Background(), "drop subscription if exists one") }()
			proves("subscribed", false)

			// Its rows are true all the same.
			insert(t, from.Connect(t), "from the publisher")
			harness.Eventually(t, 20*time.Second, "the row", func(ctx context.Context) error {
				if _, _, err := f.Sync(ctx, f.feed); err != nil {
					return err
				}
				if _, here := f.Entries[jti("from the publisher").Key()]; !here {
					return fmt.Errorf("%d rows", len(f.Entries))
				}
				return nil
			})
			v, err := s.Lookup(t.Context(), queryFor(jti("from the publisher")))
			assert.Equalf(t, authz.Revoked, v, "%v", err)
			// A receipt from here would bind nobody who follows the publisher.
			_, err = s.Append(t.Context(), []authz.Revocation{jti("here")})
			require.ErrorIs(t, err, authz.ErrUnavailable)
			require.NotErrorIs(t, err, authz.ErrOutcomeUnknown)
			require.ErrorContains(t, err, "logical replication")

			sql(t, c, "alter subscription one disable")
			insert(t, from.Connect(t), "unheard")
			proves("disabled", false)
			sql(t, c, "drop subscription one")
			proves("dropped", true)
			require.NoError(t, s.BumpEpoch(t.Context()))
			_, err = s.Append(t.Context(), []authz.Revocation{jti("here")})
			require.NoError(t, err)
		})
	}
}
