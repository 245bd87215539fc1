package store_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// open returns a migrated store. A busy test machine is not what is tested, so
// its time limits are generous unless the test sets them.
func open(t testing.TB, url string, o store.Options) *store.Store {
	t.Helper()
	s := openOnly(t, url, o)
	require.NoError(t, s.Migrate(t.Context()))
	return s
}

func openOnly(t testing.TB, url string, o store.Options) *store.Store {
	t.Helper()
	for _, d := range []*time.Duration{&o.WriteTimeout, &o.LookupTimeout, &o.ConnectTimeout, &o.FeedTimeout} {
		if *d == 0 {
			*d = 2 * time.Minute
		}
	}
	s, err := store.Open(t.Context(), url, o)
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, s.Close())
	})
	return s
}

// usable returns the error of a store that cannot be used.
func usable(t testing.TB, s *store.Store) error {
	_, err := s.Limits(t.Context())
	return err
}

func sqliteURL(t testing.TB) string {
	return "sqlite://" + filepath.Join(t.TempDir(), "revocations.db")
}

// both runs the test on either engine.
func both(t *testing.T, f func(t *testing.T, url string)) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); f(t, sqliteURL(t)) })
	t.Run("postgres", func(t *testing.T) { t.Parallel(); f(t, harness.Postgres(t).URL) })
}

const issuer = "https://issuer.example"

func jti(value string) authz.Revocation {
	return authz.Revocation{Kind: authz.KindJTI, Issuer: issuer, Value: value, RevokedBy: "test"}
}

func queryFor(r authz.Revocation) *authz.Query {
	other := authz.RevocationKey(authz.KindToken, r.Issuer, authz.TokenValue("a.b.c"))
	return &authz.Query{Keys: []authz.Key{r.Key(), other}, TokenKey: other}
}
