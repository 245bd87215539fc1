package rediscache

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

// handClock is a clock that a test moves. Wall and boot time are independent.
type handClock struct {
	boot atomic.Int64
	wall atomic.Int64
}

var _ authz.Clock = (*handClock)(nil)

func (c *handClock) Now() time.Time          { return time.Unix(0, c.wall.Load()) }
func (c *handClock) Boot() time.Duration     { return time.Duration(c.boot.Load()) }
func (c *handClock) advance(d time.Duration) { c.boot.Add(int64(d)); c.wall.Add(int64(d)) }

// board is the shared set of stamps, without any expiry. The test decides what a
// server forgets, revives or keeps too long.
type board struct{ stamps []string }

func (b *board) put(c *epochs) {
	fresh, previous, _ := c.stamp()
	kept := b.stamps[:0]
	for _, s := range b.stamps {
		if s != previous {
			kept = append(kept, s)
		}
	}
	b.stamps = append(kept, fresh)
}
func (b *board) epoch() string { return strings.Join(b.stamps, "") }

// hear observes an epoch of the store without an identity.
func (c *epochs) hear(text string) error { return c.observe(epochKeys(""), text) }

func entryOf(t *testing.T, c *epochs) string {
	id, ok := c.newestBefore(c.clock.Boot())
	require.True(t, ok)
	return id
}

func TestEpochs(t *testing.T) {
	t.Parallel()
	const bound = 30 * time.Second
	type world struct {
		board          board
		writer, reader *epochs
		wc, rc         *handClock
	}
	start := func() *world {
		w := &world{wc: &handClock{}, rc: &handClock{}}
		w.rc.advance(1000 * time.Hour) // another machine, up for longer
		w.writer, w.reader = newEpochs(w.wc, bound), newEpochs(w.rc, bound)
		return w
	}
	pass := func(w *world, d time.Duration) { w.wc.advance(d); w.rc.advance(d) }

	t.Run("an entry is believed until bound after the reader's stamp", func(t *testing.T) {
		t.Parallel()
		w := start()
		w.board.put(w.reader)
		w.board.put(w.writer)
		pass(w, time.Second)
		epoch := w.board.epoch()
		require.NoError(t, w.writer.hear(epoch))
		require.NoError(t, w.reader.hear(epoch))
		id := entryOf(t, w.writer)
		pass(w, bound-time.Second)
		require.True(t, w.reader.proves(id, bound))
		pass(w, time.Nanosecond)
		require.False(t, w.reader.proves(id, bound))
	})
	t.Run("a reader whose stamp is not in the epoch believes nothing", func(t *testing.T) {
		t.Parallel()
		w := start()
		w.board.put(w.writer)
		epoch := w.board.epoch()
		w.board.put(w.reader) // too late for the epoch
		require.NoError(t, w.writer.hear(epoch))
		require.NoError(t, w.reader.hear(epoch))
		require.False(t, w.reader.proves(entryOf(t, w.writer), bound))
		require.False(t, w.reader.proves("", bound))
		require.False(t, w.reader.proves("always", bound))
	})
	t.Run("a revived old epoch is as old as the stamps in it", func(t *testing.T) {
		t.Parallel()
		w := start()
		w.board.put(w.reader)
		old := w.board.epoch()
		for range 10 {
			pass(w, 4*time.Second)
			w.board.put(w.reader)
			require.NoError(t, w.reader.hear(w.board.epoch()))
		}
		// A backup is restored: the writer reads and uses the old epoch.
		require.NoError(t, w.writer.hear(old))
		require.NoError(t, w.reader.hear(old))
		require.False(t, w.reader.proves(entryOf(t, w.writer), bound))
	})
	t.Run("a suspended writer uses the epoch it knew before it asked", func(t *testing.T) {
		t.Parallel()
		w := start()
		w.board.put(w.reader)
		require.NoError(t, w.writer.hear(w.board.epoch()))
		mark := w.wc.Boot() // Begin; then the store is asked, and the writer stops for a minute
		pass(w, time.Minute)
		w.board.put(w.reader)
		fresh := w.board.epoch()
		require.NoError(t, w.writer.hear(fresh))
		require.NoError(t, w.reader.hear(fresh))
		id, ok := w.writer.newestBefore(mark)
		require.True(t, ok)
		require.False(t, w.reader.proves(id, bound))
		require.True(t, w.reader.proves(entryOf(t, w.writer), bound))
	})
	t.Run("no epoch was known before the mark", func(t *testing.T) {
		t.Parallel()
		w := start()
		mark := w.wc.Boot()
		pass(w, time.Second)
		w.board.put(w.writer)
		require.NoError(t, w.writer.hear(w.board.epoch()))
		_, ok := w.writer.newestBefore(mark)
		require.False(t, ok)
	})
	t.Run("memory is bounded", func(t *testing.T) {
		t.Parallel()
		w := start()
		for range 10_000 {
			pass(w, time.Second)
			w.board.put(w.reader)
			require.NoError(t, w.reader.hear(w.board.epoch()))
		}
		require.LessOrEqual(t, len(w.reader.stamps), 32)
		require.LessOrEqual(t, len(w.reader.own), 32)
		require.LessOrEqual(t, len(w.reader.published), maxPublishedEpochs)
	})
	t.Run("memory is bounded while Redis takes no stamps", func(t *testing.T) {
		t.Parallel()
		w := start()
		for range 10_000 {
			pass(w, time.Second)
			w.reader.stamp()
		}
		require.LessOrEqual(t, len(w.reader.stamps), 32)
	})
	t.Run("another store's epoch", func(t *testing.T) {
		t.Parallel()
		w := start()
		w.board.put(w.reader)
		require.NoError(t, w.writer.hear(w.board.epoch()))
		require.NoError(t, w.reader.hear(w.board.epoch()))
		id := entryOf(t, w.writer)
		require.True(t, w.reader.proves(id, bound))
		w.reader.setStore("another")
		require.False(t, w.reader.proves(id, bound))
		require.NoError(t, w.reader.hear(w.board.epoch()), "read before the change, observed after it")
		_, ok := w.reader.newestBefore(w.rc.Boot())
		require.False(t, ok)
		w.reader.setStore("")
		require.NoError(t, w.reader.hear(w.board.epoch()))
		require.False(t, w.reader.proves(id, bound), "the reader has forgotten its stamp")
	})
	t.Run("a damaged epoch is refused", func(t *testing.T) {
		t.Parallel()
		require.Error(t, start().reader.hear("short"))
	})
}

func TestStoredEntries(t *testing.T) {
	t.Parallel()
	for _, e := range []authz.Entry{{NotBefore: authz.Always}, {NotBefore: 1}, {NotBefore: 1_800_000_000}} {
		require.Equal(t, e.NotBefore, parseEntry(formatEntry(e)).NotBefore)
	}
	for _, odd := range []string{"", "1.5", "true", "99999999999999999999", "\x00"} {
		require.True(t, parseEntry(odd).Revokes(1_800_000_000), "%q: an unreadable value revokes", odd)
	}
}
