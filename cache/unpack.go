package cache

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"jwtbouncer/authz"
)

// unpack begins a full load with the authority's packed snapshot, if there is
// one: it adds the entries of every chunk, and then moves the position to the
// pack's watermark, from which the next reading goes on. A pack proves no
// freshness; that reading does.
//
// A pack with a chunk that is missing or wrong moves nothing: everything is then
// read row by row. The entries added are true all the same. The only error is
// authz.ErrTurn.
func (f *Follower) unpack(ctx context.Context) error {
	feed, ok := f.feed.(authz.PackedFeed)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := f.patience()
	watchdog := time.AfterFunc(patience, func() { cancel(errSilent) })
	defer watchdog.Stop()

	nonce := rand.Text()
	pack, err := feed.Pack(ctx, nonce)
	switch {
	case err == nil && pack == nil:
		return nil
	case err == nil && pack.Nonce != nonce:
		err = errReused
	case err == nil && !pack.Primary:
		err = errUnproven // a standby's history may end before the pack's
	case err == nil:
		missing, entries := make(map[authz.PackSum]bool, len(pack.Sums)), 0
		for _, sum := range pack.Sums {
			missing[sum] = true
		}
		err = feed.Chunks(ctx, pack, func(sum authz.PackSum, data []byte) error {
			watchdog.Reset(patience)
			n, err := authz.UnpackChunk(sum, data, f.add)
			if missing[sum] {
				delete(missing, sum)
				entries += n
			}
			return err
		})
		if err == nil && (len(missing) > 0 || entries != pack.Entries) {
			err = errors.New("it is not complete")
		}
	}
	switch {
	case errors.Is(err, authz.ErrTurn):
		return err
	case err != nil:
		f.log.LogAttrs(ctx, slog.LevelWarn, "the packed snapshot cannot be used; loading row by row", slog.Any("error", err))
		return nil
	}
	f.position = pack.Position
	f.metrics.unpacked.Inc()
	return nil
}
