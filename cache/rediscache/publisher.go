package rediscache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"jwtbouncer/authz"
)

const (
	announceAtOnce  = 250 * time.Millisecond // how long Announce may keep its caller
	announceBatch   = 500                    // revocations per round trip
	announcePending = 100_000                // revocations waiting at most; about 15 MB
	retryFirst      = 100 * time.Millisecond
	retryLast       = 5 * time.Second
)

// ErrNotPublished is Close's error when it gave up announcements: what they
// announce is in force all the same, and sidecars learn of it by their own sync.
var ErrNotPublished = errors.New("revocations were not announced")

// newsItem is one revocation on its way to Redis.
type newsItem struct {
	entry     authz.Entry
	legacy    string // bare jti for the older layout; empty: none
	dropValid bool   // the key is a token's own, so it has a token:valid entry
}

// announcer hands committed revocations to Redis, at once or later. Losing one
// costs speed, never the guarantee: sidecars also sync with the authority.
type announcer struct {
	r       *Client
	wake    chan struct{}
	mu      sync.Mutex
	pending map[authz.Key]newsItem
	publish bool // a message is still owed
}

func newAnnouncer(r *Client) *announcer {
	return &announcer{r: r, wake: make(chan struct{}, 1), pending: map[authz.Key]newsItem{}}
}

// Publish implements authz.Publisher: for every revocation SET token:revoked
// until its tokens have expired and DEL token:valid, then one PUBLISH. It
// keeps its caller for 250 ms at most; what is not handed over by then waits
// in a bounded queue and is retried until it has expired.
func (r *Client) Publish(ctx context.Context, revocations []authz.Revocation) bool {
	items := make([]newsItem, 0, len(revocations))
	for i := range revocations {
		rev := &revocations[i]
		item := newsItem{entry: rev.Entry(), dropValid: rev.Kind == authz.KindToken}
		if r.cfg.LegacyKeys && rev.Kind == authz.KindJTI {
			item.legacy = rev.Value
		}
		items = append(items, item)
	}
	if len(items) == 0 {
		return true
	}
	if r.breaker.Ready() {
		ctx, cancel := context.WithTimeout(ctx, announceAtOnce)
		defer cancel()
		err := r.hand(ctx, items)
		if err == nil {
			r.metrics.announced.WithLabelValues("at_once").Add(float64(len(items)))
			return true
		}
		r.log.Warn("announcement will be retried", "revocations", len(items), "error", err)
	}
	r.news.enqueue(items)
	return false
}

// hand writes and publishes; on an error it may have done a part, which is
// safe to repeat.
func (r *Client) hand(ctx context.Context, items []newsItem) (err error) {
	defer func() { r.suspectTopology(ctx, err) }()
	defer recovered(&err)
	for batch := range slices.Chunk(items, announceBatch) {
		if err := r.write(ctx, batch); err != nil {
			return fmt.Errorf("redis: %w", err)
		}
	}
	// In a Cluster a plain PUBLISH reaches subscribers on every node. Sharded
	// channels would tie all sidecars to one master and need Redis 7.
	if err := r.client.Publish(ctx, Channel, "revoked").Err(); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	return nil
}

// writeScript sets each key to the stricter of what is there and ARGV's
// not_before, to live until the later of both ends. A key of another type than
// string holds nothing of ours, and SET replaces it.
var writeScript = redis.NewScript(`
for i, key in ipairs(KEYS) do
  local nb, at = ARGV[2 * i - 1], ARGV[2 * i]
  local old, left = redis.pcall('GET', key), redis.call('PTTL', key)
  if type(old) == 'table' then
    if not string.find(old.err, 'WRONGTYPE', 1, true) then return old end
    old, left = false, -2
  end
  if old and nb ~= 'always' then
    local a, b = tonumber(old), tonumber(nb)
    if not a then nb = 'always' elseif a > b then nb = old end
  end
  redis.call('SET', key, nb, 'EXAT', at)
  if left == -1 then
    redis.call('PERSIST', key)
  elseif left > redis.call('PTTL', key) then
    redis.call('PEXPIRE', key, left)
  end
end
return #KEYS`)

// write sets the revoked keys and deletes the valid ones in one round trip.
func (r *Client) write(ctx context.Context, items []newsItem) error {
	keys := make([]string, 0, len(items))
	args := make([]any, 0, 2*len(items))
	var gone []string
	add := func(key, value string, expires int64) {
		keys = append(keys, key)
		args = append(args, value, expires+graceSeconds)
	}
	for _, it := range items {
		add(revokedKey(it.entry.Key), formatEntry(it.entry), it.entry.Expires)
		if it.dropValid {
			gone = append(gone, validKey(it.entry.Key))
		}
		if it.legacy != "" {
			add(revokedPrefix+it.legacy, "1", it.entry.Expires)
			gone = append(gone, validPrefix+it.legacy)
		}
	}
	// EVAL with the text, not EVALSHA: a pipeline cannot load it after NOSCRIPT,
	// and a failover or SCRIPT FLUSH forgets it.
	pipe := r.client.Pipeline()
	if r.cfg.Cluster {
		for i, k := range keys {
			writeScript.Eval(ctx, pipe, []string{k}, args[2*i], args[2*i+1])
		}
		for _, k := range gone {
			pipe.Del(ctx, k)
		}
	} else {
		writeScript.Eval(ctx, pipe, keys, args...)
		if len(gone) > 0 {
			pipe.Del(ctx, gone...)
		}
	}
	_, err := pipe.Exec(ctx)
	return err
}

func (a *announcer) enqueue(items []newsItem) {
	a.mu.Lock()
	dropped := 0
	for _, it := range items {
		old, known := a.pending[it.entry.Key]
		switch {
		case known:
			it.entry = it.entry.Merge(old.entry)
			if it.legacy == "" {
				it.legacy = old.legacy
			}
			a.pending[it.entry.Key] = it
		case len(a.pending) >= announcePending:
			dropped++
		default:
			a.pending[it.entry.Key] = it
		}
	}
	a.publish = true
	waiting := len(a.pending)
	a.mu.Unlock()
	a.r.metrics.pending.Set(float64(waiting))
	a.r.metrics.announced.WithLabelValues("queued").Add(float64(len(items) - dropped))
	if dropped > 0 {
		a.r.metrics.announced.WithLabelValues("dropped").Add(float64(dropped))
		a.r.log.Error("announcements dropped, the queue is full; sidecars learn of them by their own sync", "revocations", dropped)
	}
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run retries what is pending, with a backoff that doubles to five seconds.
func (a *announcer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		}
		wait := retryFirst
		for sleep(ctx, jitter(wait)) {
			if a.r.breaker.Ready() && a.flush(ctx) == nil {
				break
			}
			wait = min(2*wait, retryLast)
		}
	}
}

// flush hands over everything pending, in bounded steps.
func (a *announcer) flush(ctx context.Context) error {
	for {
		batch, owed := a.take()
		if len(batch) == 0 && !owed {
			return nil
		}
		step, cancel := context.WithTimeout(ctx, 2*backgroundTimeout)
		err := a.r.hand(step, batch)
		cancel()
		if err != nil {
			a.r.log.Debug("announcement failed again", "waiting", len(batch), "error", err)
			return err
		}
		a.settle(batch)
		a.r.metrics.announced.WithLabelValues("retried").Add(float64(len(batch)))
	}
}

// take returns the next batch without removing it, so that a crash between
// here and settle repeats it, and drops what has expired meanwhile.
func (a *announcer) take() (batch []newsItem, owed bool) {
	now := a.r.clock.Now().Unix()
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.pending, func(_ authz.Key, it newsItem) bool { return it.entry.Expires <= now })
	for _, it := range a.pending {
		if batch = append(batch, it); len(batch) == announceBatch {
			break
		}
	}
	return batch, a.publish
}

// settle removes what was handed over, unless it has been made stricter since.
func (a *announcer) settle(batch []newsItem) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, it := range batch {
		if a.pending[it.entry.Key] == it {
			delete(a.pending, it.entry.Key)
		}
	}
	a.publish = len(a.pending) > 0
	a.r.metrics.pending.Set(float64(len(a.pending)))
}

// drain is the last try, for at most limit.
func (a *announcer) drain(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for wait := retryFirst; ; wait = min(2*wait, retryLast) {
		err := a.flush(ctx)
		if err == nil {
			return nil
		}
		if !sleep(ctx, jitter(wait)) {
			a.mu.Lock()
			defer a.mu.Unlock()
			return fmt.Errorf("redis: %d %w; sidecars learn of them by their own sync: %w", len(a.pending), ErrNotPublished, err)
		}
	}
}
