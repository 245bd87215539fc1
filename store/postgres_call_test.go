package store_test

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

// The answer to an earlier call proves nothing, neither for a sync nor for a lookup.
func TestReusedAnswerToACall(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	f, _ := newFollowed(t, pg.URL)
	t.Run("sync", func(t *testing.T) {
		r := newReplayer(t, pg.Addr)
		s := openOnly(t, pg.Via(r.listener.Addr().String()), store.Options{})
		for i, nonce := range []string{"first", "second", "third"} {
			snap, err := s.Changes(t.Context(), f.Position, nonce, func(authz.Row) {})
			require.NoErrorf(t, err, "%+v", snap)
			assert.Equal(t, i == 0, snap.Proves, nonce)
			assert.Equal(t, "first", snap.Nonce)
		}
	})
	t.Run("lookup", func(t *testing.T) {
		r := newReplayer(t, pg.Addr)
		s := openOnly(t, pg.Via(r.listener.Addr().String()), store.Options{Lookups: 1})
		v, err := s.Lookup(t.Context(), queryFor(jti("nothing")))
		require.NoError(t, err)
		require.Equal(t, authz.NotRevoked, v)
		v, err = s.Lookup(t.Context(), queryFor(jti("nothing")))
		require.ErrorIs(t, err, store.ErrUnproven)
		assert.Equal(t, authz.Unknown, v)
	})
}

// Another database may be behind a pooler's connections by now. There the functions
// have other numbers, and perhaps others have theirs.
func TestFunctionsAreCreatedAgain(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	f, s := newFollowed(t, pg.URL)
	f.sync(t)
	c := pg.Connect(t)
	for _, name := range []string{"sync", "lookup"} {
		var definition string
		require.NoError(t, c.QueryRow(t.Context(), "select pg_get_functiondef($1::regproc)", "authz."+name).Scan(&definition))
		sql(t, c, "drop function authz."+name)
		sql(t, c, definition)
	}
	// One error at most: it makes the number forgotten.
	if _, _, err := f.Sync(t.Context(), f.feed); err != nil {
		require.ErrorIs(t, err, authz.ErrUnavailable)
		f.sync(t)
	}
	if _, err := s.Lookup(t.Context(), queryFor(jti("nothing"))); err != nil {
		v, err := s.Lookup(t.Context(), queryFor(jti("nothing")))
		require.NoError(t, err)
		assert.Equal(t, authz.NotRevoked, v)
	}
}

// A pooler that knows no function calls costs a few connections, and then nothing but
// the database's time.
func TestPoolerWithoutFunctionCalls(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	f, _ := newFollowed(t, pg.URL)
	r := newReplayer(t, pg.Addr)
	r.noCalls.Store(true)
	var log bytes.Buffer
	s := openOnly(t, pg.Via(r.listener.Addr().String()), store.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	f.feed = s
	failed := 0
	for range 3 {
		if _, _, err := f.Sync(t.Context(), f.feed); err != nil {
			require.ErrorIs(t, err, authz.ErrUnavailable)
			failed++
		}
	}
	assert.Positive(t, failed)
	insert(t, pg.Connect(t), "revoked")
	f.sees(t, map[string]bool{"revoked": true})
	v, err := s.Lookup(t.Context(), queryFor(jti("revoked")))
	require.NoError(t, err)
	assert.Equal(t, authz.Revoked, v)
	v, err = s.Lookup(t.Context(), queryFor(jti("nothing")))
	require.NoError(t, err)
	assert.Equal(t, authz.NotRevoked, v)
	assert.Equal(t, 1, bytes.Count(log.Bytes(), []byte("asking by query from now on")), "%s", &log)
}
