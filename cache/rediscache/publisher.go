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
	"jwtbouncer/authz/breaker"
)

const (
	publishWait  = 250 * time.Millisecond // longest time that Publish keeps its caller
	publishBatch = maxNamed               // revocations per round trip
	// namedPerSecond is how many revocations a publisher names in messages, on the
	// average of a second, at most maxNamed at once. Redis multiplies every message
	// by the number of sidecars, so the others are only announced, and sidecars read
	// them from the store.
	namedPerSecond = 500
	maxPending     = 100_000 // revocations in the queue; about 15 MB
	retryFirst     = 100 * time.Millisecond
	retryLast      = 5 * time.Second
)

// ErrNotPublished is Close's error when revocations remain in the queue. They are
// in force all the same, and sidecars learn of them by their own sync.
var ErrNotPublished = errors.New("revocations were not published")

// publisher keeps the queue of revocations that could not be published at once.
// Losing one costs only speed, because sidecars also sync with the store.
type publisher struct {
	c    *Client
	wake chan struct{}

	mu      sync.Mutex
	queue   map[authz.Key]pendingEntry
	dropped int           // revocations dropped from the queue of which no message has told
	allowed float64       // revocations that messages may name now
	at      time.Duration // Clock.Boot when allowed was right
}

// pendingEntry is one revocation on its way to Redis.
type pendingEntry struct {
	entry  authz.Entry
	legacy string // bare jti for the older key layout; empty: none
}

func newPublisher(c *Client) *publisher {
	return &publisher{c: c, wake: make(chan struct{}, 1), queue: map[authz.Key]pendingEntry{}, allowed: maxNamed}
}

// Publish implements authz.Publisher. For every revocation it sets token:revoked
// until the revoked tokens have expired. Messages name the revocations. After
// 250 ms the rest waits in a bounded queue, which is retried. It leaves
// token:valid alone: whoever reads an entry reads the revoked keys with it, and
// revoked wins.
func (c *Client) Publish(ctx context.Context, revocations []authz.Revocation) bool {
	entries := make([]pendingEntry, 0, len(revocations))
	for _, rev := range revocations {
		e := pendingEntry{entry: rev.Entry()}
		if c.cfg.LegacyKeys && rev.Kind == authz.KindJTI {
			e.legacy = rev.Value
		}
		entries = append(entries, e)
	}
	if len(entries) == 0 {
		return true
	}
	if c.breaker.Ready() {
		ctx, cancel := context.WithTimeout(ctx, publishWait)
		defer cancel()
		err := c.publish(ctx, entries)
		if err == nil {
			c.metrics.published.WithLabelValues("at_once").Add(float64(len(entries)))
			return true
		}
		c.log.Warn("revocations not published; retrying", "revocations", len(entries), "error", err)
	}
	c.publisher.enqueue(entries)
	return false
}

// publish writes the entries and sends the messages. On an error a part may have
// been done; repeating it is safe.
func (c *Client) publish(ctx context.Context, entries []pendingEntry) (err error) {
	defer func() { c.suspectTopology(ctx, err) }()
	defer breaker.Recover("redis", &err)
	for batch := range slices.Chunk(entries, publishBatch) {
		named := c.publisher.allow(len(batch))
		if err := c.write(ctx, batch, encodeMessage(batch[:named], named < len(batch))); err != nil {
			return err
		}
	}
	return nil
}

// allow returns how many of n revocations a message may name now.
func (p *publisher) allow(n int) int {
	now := p.c.clock.Boot()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.allowed = min(p.allowed+max(now-p.at, 0).Seconds()*namedPerSecond, maxNamed)
	p.at = now
	n = min(n, int(p.allowed))
	p.allowed -= float64(n)
	return n
}

// writeScript sets each key to the stricter not_before, its own or ARGV's, and to
// the later expiry. It replaces a key of another type than string.
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

// write sets the revoked keys, deletes the older layout's valid ones and sends the
// message in one round trip. Empty: there is no message. The message does not wait
// for the keys, and is sent by a server that has no memory left for them.
func (c *Client) write(ctx context.Context, entries []pendingEntry, message string) error {
	var keys, stale []string // revoked keys, valid keys
	var args []any
	set := func(key, value string, expires int64) {
		keys = append(keys, key)
		args = append(args, value, expires+graceSeconds)
	}
	for _, e := range entries {
		set(revokedKey(e.entry.Key), formatEntry(e.entry), e.entry.Expires)
		if e.legacy != "" {
			set(revokedPrefix+e.legacy, "1", e.entry.Expires)
			stale = append(stale, validPrefix+e.legacy)
		}
	}
	// EVAL rather than EVALSHA: a pipeline cannot load a script that a failover or
	// SCRIPT FLUSH has removed.
	pipe := c.client.Pipeline()
	if c.cfg.Cluster {
		for i, k := range keys {
			writeScript.Eval(ctx, pipe, []string{k}, args[2*i], args[2*i+1])
		}
		for _, k := range stale {
			pipe.Del(ctx, k)
		}
	} else if len(keys) > 0 {
		writeScript.Eval(ctx, pipe, keys, args...)
		if len(stale) > 0 {
			pipe.Del(ctx, stale...)
		}
	}
	if message != "" {
		// In a Cluster a plain PUBLISH to any node reaches the subscribers of every
		// node. Sharded channels would tie all sidecars to one master and need Redis 7.
		pipe.Publish(ctx, Channel, message)
	}
	_, err := pipe.Exec(ctx)
	return err
}

func (p *publisher) enqueue(entries []pendingEntry) {
	p.mu.Lock()
	dropped := 0
	for _, e := range entries {
		old, known := p.queue[e.entry.Key]
		switch {
		case known:
			e.entry = e.entry.Merge(old.entry)
			if e.legacy == "" {
				e.legacy = old.legacy
			}
			p.queue[e.entry.Key] = e
		case len(p.queue) >= maxPending:
			dropped++
		default:
			p.queue[e.entry.Key] = e
		}
	}
	p.dropped += dropped
	pending := len(p.queue)
	p.mu.Unlock()
	p.c.metrics.pending.Set(float64(pending))
	p.c.metrics.published.WithLabelValues("queued").Add(float64(len(entries) - dropped))
	if dropped > 0 {
		p.c.metrics.published.WithLabelValues("dropped").Add(float64(dropped))
		p.c.log.Error("the queue is full; sidecars learn of the dropped revocations by their own sync", "dropped", dropped)
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run retries what is queued, with a backoff that doubles up to five seconds.
func (p *publisher) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		wait := retryFirst
		for sleep(ctx, breaker.Jitter(wait, 0.25)) {
			if p.c.breaker.Ready() && p.flush(ctx) == nil {
				break
			}
			wait = min(2*wait, retryLast)
		}
	}
}

// flush publishes the whole queue, batch by batch.
func (p *publisher) flush(ctx context.Context) error {
	for {
		batch, dropped := p.next()
		if len(batch) == 0 && dropped == 0 {
			return nil
		}
		step, cancel := context.WithTimeout(ctx, 2*backgroundTimeout)
		err := p.c.publish(step, batch)
		if err == nil && dropped > 0 {
			err = p.c.write(step, nil, encodeMessage(nil, true))
		}
		cancel()
		if err != nil {
			p.c.log.Debug("revocations not published again", "revocations", len(batch), "error", err)
			return err
		}
		p.remove(batch, dropped)
		p.c.metrics.published.WithLabelValues("retried").Add(float64(len(batch)))
	}
}

// next returns the next batch, and how many others were dropped. The batch stays in
// the queue until remove, so that a panic in between repeats it. Expired entries
// are removed.
func (p *publisher) next() (batch []pendingEntry, dropped int) {
	now := p.c.clock.Now().Unix()
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.queue, func(_ authz.Key, e pendingEntry) bool { return e.entry.Expires <= now })
	for _, e := range p.queue {
		if batch = append(batch, e); len(batch) == publishBatch {
			break
		}
	}
	return batch, p.dropped
}

// remove takes a published batch out of the queue, except for entries that have
// become stricter since. A message has told of as many dropped ones as told.
func (p *publisher) remove(batch []pendingEntry, told int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range batch {
		if p.queue[e.entry.Key] == e {
			delete(p.queue, e.entry.Key)
		}
	}
	p.dropped -= told
	p.c.metrics.pending.Set(float64(len(p.queue)))
}

// drain retries for at most limit, without asking the breaker.
func (p *publisher) drain(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for wait := retryFirst; ; wait = min(2*wait, retryLast) {
		err := p.flush(ctx)
		if err == nil {
			return nil
		}
		if !sleep(ctx, breaker.Jitter(wait, 0.25)) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return fmt.Errorf("redis: %d %w; sidecars learn of them by their own sync: %w", len(p.queue), ErrNotPublished, err)
		}
	}
}
