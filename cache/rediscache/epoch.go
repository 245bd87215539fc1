package rediscache

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
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

// epochs decides how old another sidecar's token:valid entry can be at most. It
// uses no clock but this process's own boot-time clock.
//
// An entry must not be believed beyond max_staleness after the store was asked.
// An absolute expiry by the Redis server's TIME holds only as long as that clock
// never steps back: a failover to a node whose clock is behind, or to an old
// backup, prolongs every entry by the difference. So entries carry no time but
// the name of a freshness epoch:
//
//   - Every sidecar keeps putting a fresh random stamp into a shared set and
//     remembers, by its own clock, when it made the stamp.
//   - Every few seconds one of them writes down the whole set. That text is a
//     freshness epoch, and its hash is the epoch's ID.
//   - Before a sidecar asks the store, it takes the epoch it has read last. The
//     entry that it fills carries that epoch's ID.
//   - A reader looks for its own newest stamp in that epoch. The stamp did not
//     exist before the reader made it, the epoch not before the stamp, its ID not
//     before the epoch, and the store was asked after that. So the answer is no
//     older than the reader's stamp.
//
// Failovers, restored backups, network partitions, suspended writers and stepped
// clocks can only make entries look older or unknown, and an unknown entry is a
// miss. Lifetimes of keys use the server's clock, but only to clean up.
//
// Each store has epochs of its own: an entry is an answer of the store to whose
// epoch it refers, and proves nothing to sidecars of another store.
type epochs struct {
	clock        authz.Clock
	maxStaleness time.Duration
	every        time.Duration
	moved        chan struct{} // the store has changed: the next round is due at once

	mu        sync.RWMutex
	keys      []string                 // the set of stamps and the current epoch in Redis
	last      string                   // own stamp that is in the set now
	stamps    map[string]time.Duration // own stamp → boot time read before it was made
	own       map[string]time.Duration // epoch ID → boot time of the newest own stamp in the epoch
	published []publishedEpoch         // epochs to write into entries, oldest first
}

// publishedEpoch is an epoch that this process has read.
type publishedEpoch struct {
	id   string
	read time.Duration // boot time after reading it
}

const (
	stampBytes         = 12 // random: a collision takes about 2^48 stamps
	maxPublishedEpochs = 4  // a fill takes at most the 180 ms of a check
)

func newEpochs(clock authz.Clock, maxStaleness time.Duration) *epochs {
	return &epochs{
		clock: clock, maxStaleness: maxStaleness,
		// An epoch lives for two rounds and is read one round later, so an entry is
		// up to four rounds old when it is written: a fifth of max_staleness.
		every: min(max(maxStaleness/20, 20*time.Millisecond), 2*time.Second),
		moved: make(chan struct{}, 1), keys: epochKeys(""),
		stamps: map[string]time.Duration{}, own: map[string]time.Duration{},
	}
}

// epochScript replaces the own stamp (ARGV[2] → ARGV[1]), drops stamps that were
// not renewed for ARGV[3] ms, and returns the current epoch. It writes a new one
// if the last is older than ARGV[4] ms, or would live longer than that because
// its lifetime was removed or the server's clock stepped back. It replaces keys of
// other types. Both keys share a hash tag, so a Cluster runs it on one node.
var epochScript = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local added = redis.pcall('ZADD', KEYS[1], now, ARGV[1])
if type(added) == 'table' then
  if not string.find(added.err, 'WRONGTYPE', 1, true) then return added end
  redis.call('DEL', KEYS[1])
  redis.call('ZADD', KEYS[1], now, ARGV[1])
end
if ARGV[2] ~= '' then redis.call('ZREM', KEYS[1], ARGV[2]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], now + ARGV[3], '+inf')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local epoch, left = redis.pcall('GET', KEYS[2]), redis.call('PTTL', KEYS[2])
if type(epoch) == 'table' and not string.find(epoch.err, 'WRONGTYPE', 1, true) then return epoch end
if type(epoch) ~= 'string' or left < 0 or left > tonumber(ARGV[4]) then
  epoch = table.concat(redis.call('ZRANGE', KEYS[1], 0, -1))
  redis.call('SET', KEYS[2], epoch, 'PX', ARGV[4])
end
return epoch`)

// epochKeys returns the keys of a store's epochs. The store's identity is hashed,
// so that no foreign text gets into key names.
func epochKeys(identity string) []string {
	prefix := "jwt-bouncer:{rollcall}:"
	if identity != "" {
		sum := sha256.Sum256([]byte(identity))
		prefix += hex.EncodeToString(sum[:8]) + ":"
	}
	return []string{prefix + "stamps", prefix + "call"}
}

// setStore says which store answers. Everything known of another store's epochs
// is forgotten, because entries that refer to them are not about this store.
func (e *epochs) setStore(identity string) {
	keys := epochKeys(identity)
	e.mu.Lock()
	defer e.mu.Unlock()
	if slices.Equal(keys, e.keys) {
		return
	}
	e.keys, e.last, e.published = keys, "", nil
	clear(e.stamps)
	clear(e.own)
	select {
	case e.moved <- struct{}{}:
	default:
	}
}

// stamp makes this round's stamp. It returns the stamp, the one it replaces, and
// the keys that both belong to.
func (e *epochs) stamp() (fresh, previous string, keys []string) {
	at := e.clock.Boot()
	b := make([]byte, stampBytes)
	_, _ = rand.Read(b) // never fails since Go 1.24
	e.mu.Lock()
	defer e.mu.Unlock()
	fresh, previous = string(b), e.last
	e.stamps[fresh], e.last = at, fresh
	// Here rather than in observe, which is not called while Redis refuses writes.
	maps.DeleteFunc(e.stamps, func(s string, made time.Duration) bool { return at-made > e.maxStaleness && s != fresh })
	return fresh, previous, e.keys
}

// observe takes in an epoch that has just been read from keys.
func (e *epochs) observe(keys []string, text string) error {
	if len(text)%stampBytes != 0 {
		return errors.New("the freshness epoch is damaged")
	}
	sum := sha256.Sum256([]byte(text))
	id := hex.EncodeToString(sum[:16])
	now := e.clock.Boot()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Equal(keys, e.keys) {
		return nil // it is the former store's
	}
	maps.DeleteFunc(e.own, func(_ string, at time.Duration) bool { return now-at > e.maxStaleness })
	if n := len(e.published); n == 0 || e.published[n-1].id != id {
		e.published = append(e.published, publishedEpoch{id, now})
		e.published = slices.Delete(e.published, 0, max(0, len(e.published)-maxPublishedEpochs))
	}
	for i := 0; i < len(text); i += stampBytes {
		if at, ok := e.stamps[text[i:i+stampBytes]]; ok && at > e.own[id] {
			e.own[id] = at
		}
	}
	return nil
}

// proves reports whether an entry that carries id is at most bound old.
func (e *epochs) proves(id string, bound time.Duration) bool {
	e.mu.RLock()
	at, ok := e.own[id]
	e.mu.RUnlock()
	return ok && e.clock.Boot()-at <= bound // the clock last, so that the time taken before counts
}

// newestBefore returns the ID of the newest epoch that had been read by mark.
func (e *epochs) newestBefore(mark time.Duration) (id string, ok bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for i := len(e.published) - 1; i >= 0; i-- {
		if e.published[i].read <= mark {
			return e.published[i].id, true
		}
	}
	return "", false
}

// runEpochs keeps the freshness epochs going until ctx ends.
func (c *Client) runEpochs(ctx context.Context) {
	for {
		if c.breaker.Ready() {
			err := c.stepEpoch(ctx)
			c.contact.Record(err)
			if err != nil && ctx.Err() == nil {
				c.log.Debug("freshness epoch failed; token:valid entries cannot be used", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-c.epochs.moved:
		case <-time.After(breaker.Jitter(c.epochs.every, 0.25)):
		}
	}
}

// stepEpoch puts a new stamp into the set and reads the current epoch.
func (c *Client) stepEpoch(ctx context.Context) (err error) {
	defer breaker.Recover("redis", &err)
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	fresh, previous, keys := c.epochs.stamp()
	keep := max(c.epochs.maxStaleness, 8*c.epochs.every)
	text, err := epochScript.Run(ctx, c.client, keys, fresh, previous, keep.Milliseconds(), (2 * c.epochs.every).Milliseconds()).Text()
	if err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	return c.epochs.observe(keys, text)
}
