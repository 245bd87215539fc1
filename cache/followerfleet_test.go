package cache

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"jwtbouncer/authz"
)

// queue is a store behind a pooler, which answers one question after the other. A
// question that was given up costs it more than one that it answers: the pooler ends
// its connection to the database with the client's, and has to log in again.
type queue struct {
	answer, givenUp time.Duration

	mu    sync.Mutex
	until time.Time // busy until then
	ended int       // questions that were given up
}

func (q *queue) Changes(ctx context.Context, since authz.Position, nonce string, _ func(authz.Row)) (authz.Snapshot, error) {
	q.busy(q.answer)
	q.mu.Lock()
	done := time.After(time.Until(q.until))
	q.mu.Unlock()
	select {
	case <-done:
		return authz.Snapshot{Nonce: nonce, Epoch: "a", Xmax: 10, Proves: true, Clock: time.Now()}, nil
	case <-ctx.Done():
		q.busy(q.givenUp)
		q.mu.Lock()
		defer q.mu.Unlock()
		q.ended++
		return authz.Snapshot{}, ctx.Err()
	}
}

func (q *queue) busy(d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now := time.Now(); q.until.Before(now) {
		q.until = now
	}
	q.until = q.until.Add(d)
}

// A store that an idle fleet keeps busy for most of the time falls behind for a few
// seconds. If every sidecar gave up after sync_timeout and asked again, the store
// would do nothing but log in for questions that nobody waits for any more.
func TestFleetRecoversFromAStall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		clock := bubbleClock{time.Now()}
		store := &queue{answer: 4 * time.Millisecond, givenUp: 20 * time.Millisecond}
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		var fleet []*Follower
		for i := range 300 { // 150 syncs a second
			f := NewFollower(store, NewReplica(), FollowerOptions{Config: DefaultRevocationConfig(), Clock: clock})
			f.jitter = rand.New(rand.NewPCG(1, uint64(i))).Float64
			fleet = append(fleet, f)
			group.Go(func() { _ = f.Run(ctx) })
		}
		oldest := func() (age time.Duration) {
			for _, f := range fleet {
				s := f.Staleness()
				assert.GreaterOrEqual(t, s, time.Duration(0), "never loaded")
				age = max(age, s)
			}
			return age
		}
		time.Sleep(30 * time.Second)
		assert.Less(t, oldest(), 3*time.Second, "before the stall")
		assert.Zero(t, store.ended)
		store.busy(6 * time.Second)
		var worst time.Duration
		for range 40 {
			time.Sleep(time.Second)
			worst = max(worst, oldest())
		}
		assert.Positive(t, store.ended, "nobody gave up: this was no stall")
		assert.Less(t, worst, DefaultRevocationConfig().MaxStaleness, "some sidecar was not fresh for a while")
		assert.Less(t, oldest(), 3*time.Second, "40 s later")
		cancel()
		group.Wait()
	})
}
