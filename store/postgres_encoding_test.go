package store_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

// A database that is not UTF-8 cannot store every name. It is refused at once, and
// not with the first such name.
func TestPostgresEncoding(t *testing.T) {
	t.Parallel()
	for encoding, refused := range map[string]bool{"LATIN1": true, "SQL_ASCII": true, "UTF8": false} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			pg := harness.Postgres(t)
			name := pg.Database + "_" + strings.ToLower(encoding)
			pg.Exec(t, "create database "+name+" encoding '"+encoding+"' template template0 lc_collate 'C' lc_ctype 'C'")
			t.Cleanup(func() { pg.Exec(t, "drop database "+name+" with (force)") })
			s, err := store.Open(t.Context(), pg.Use(name).URL, store.Options{})
			require.NoError(t, err)
			defer s.Close()
			_, limits := s.Limits(t.Context())
			migrate := s.Migrate(t.Context())
			if !refused {
				require.ErrorIs(t, limits, store.ErrSchema)
				require.NoError(t, migrate)
				return
			}
			for _, err := range []error{limits, migrate} {
				require.ErrorContains(t, err, "the database is encoded in "+encoding+"; create one with encoding 'UTF8'")
				assert.ErrorIs(t, err, authz.ErrUnavailable)
			}
		})
	}
}
