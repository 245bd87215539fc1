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
)

// A rollCall decides how old another sidecar's token:valid entry can be at
// most, and uses no clock but this process's own boot-time clock to do so.
//
// An entry must not be believed beyond max_staleness after the authority was
// asked. The obvious way, an absolute expiry by the Redis server's TIME, holds
// only as long as that clock never steps back; a failover to a node whose
// clock is behind, or to an old backup, prolongs every entry by the
// difference. So entries carry no time. Instead:
//
//   - Every sidecar keeps putting a fresh random stamp into a shared set and
//     remembers when, by its own clock, it made it.
//   - Every few seconds one of them writes down the whole set: a roll call,
//     known by the hash of its text.
//   - A sidecar that will ask the authority writes into the entry the hash of
//     a roll call which it had read before asking.
//   - A reader looks for its own newest stamp in that roll call. The stamp did
//     not exist before the reader made it, the roll call not before the stamp,
//     its hash not before the roll call, and the authority was asked after
//     that: so the answer is no older than the reader's stamp.
//
// What failovers, restored backups, split halves, suspended writers or stepped
// clocks do to the keys can only make entries look older, or unknown, which is
// a miss. Key lifetimes use the server's clock, but only to clean up.
//
// Sidecars of one authority hold one roll call: an entry is an answer of the
// authority whose roll call it names, and proves nothing to those who ask
// another.
type rollCall struct {
	clock authz.Clock
	bound time.Duration
	every time.Duration
	moved chan struct{} // the authority has changed: call the roll now

	mu     sync.RWMutex
	keys   []string                 // of the authority's set of stamps and of its roll call
	last   string                   // own stamp now in the set
	stamps map[string]time.Duration // own stamp → boot time read before it was made
	calls  map[string]time.Duration // roll call's hash → boot time of our newest stamp in it
	held   []heldCall               // roll calls to write into entries, oldest first
}

type heldCall struct {
	id   string
	from time.Duration // boot time at which it had been read
}

const (
	stampBytes = 12 // random: two equal ones would need 2^48 of them
	heldCalls  = 4  // a fill takes at most a check's 180 ms
)

func newRollCall(clock authz.Clock, bound time.Duration) *rollCall {
	return &rollCall{
		clock: clock, bound: bound,
		// A roll call lives twice as long and is picked up one round later, so an
		// entry is up to four rounds old when it is written: a fifth of the bound.
		every: min(max(bound/20, 20*time.Millisecond), 2*time.Second),
		moved: make(chan struct{}, 1), keys: rollKeys(""),
		stamps: map[string]time.Duration{}, calls: map[string]time.Duration{},
	}
}

// rollScript replaces our stamp (ARGV[2] → ARGV[1]), drops stamps not renewed
// for ARGV[3] ms, and returns the current roll call, writing down a new one if
// the last is older than ARGV[4] ms, or would outlive that: its lifetime was
// taken away, or the server's clock stepped back. Keys of other types are
// replaced. Both keys share a hash tag, so a Cluster runs it on one node.
var rollScript = redis.NewScript(`
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
local call, left = redis.pcall('GET', KEYS[2]), redis.call('PTTL', KEYS[2])
if type(call) == 'table' and not string.find(call.err, 'WRONGTYPE', 1, true) then return call end
if type(call) ~= 'string' or left < 0 or left > tonumber(ARGV[4]) then
  call = table.concat(redis.call('ZRANGE', KEYS[1], 0, -1))
  redis.call('SET', KEYS[2], call, 'PX', ARGV[4])
end
return call`)

// rollKeys names the roll call of an authority: by a hash, so that no foreign
// text gets into key names; empty: of one that cannot say which it is.
func rollKeys(authority string) []string {
	prefix := "jwt-bouncer:{rollcall}:"
	if authority != "" {
		sum := sha256.Sum256([]byte(authority))
		prefix += hex.EncodeToString(sum[:8]) + ":"
	}
	return []string{prefix + "stamps", prefix + "call"}
}

// of is told which authority answers. What was known of another's roll call
// is forgotten: entries that name it are not about this one.
func (c *rollCall) of(authority string) {
	keys := rollKeys(authority)
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Equal(keys, c.keys) {
		return
	}
	c.keys, c.last, c.held = keys, "", nil
	clear(c.stamps)
	clear(c.calls)
	select {
	case c.moved <- struct{}{}:
	default:
	}
}

// stamp makes this round's stamp and returns it with the one it replaces, and
// the keys that it belongs to.
func (c *rollCall) stamp() (fresh, previous string, keys []string) {
	at := c.clock.Boot()
	b := make([]byte, stampBytes)
	_, _ = rand.Read(b) // never fails since Go 1.24
	c.mu.Lock()
	defer c.mu.Unlock()
	fresh, previous = string(b), c.last
	c.stamps[fresh], c.last = at, fresh
	// Here, not in learn: that never comes while Redis can be read but not written.
	maps.DeleteFunc(c.stamps, func(s string, made time.Duration) bool { return at-made > c.bound && s != fresh })
	return fresh, previous, c.keys
}

// learn takes in a roll call that has just been read from keys.
func (c *rollCall) learn(keys []string, text string) error {
	if len(text)%stampBytes != 0 {
		return errors.New("roll call is damaged")
	}
	sum := sha256.Sum256([]byte(text))
	id := hex.EncodeToString(sum[:16])
	now := c.clock.Boot()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(keys, c.keys) {
		return nil // it is the former authority's
	}
	maps.DeleteFunc(c.calls, func(_ string, at time.Duration) bool { return now-at > c.bound })
	if n := len(c.held); n == 0 || c.held[n-1].id != id {
		c.held = append(c.held, heldCall{id, now})
		if len(c.held) > heldCalls {
			c.held = append(c.held[:0], c.held[1:]...)
		}
	}
	for i := 0; i < len(text); i += stampBytes {
		if at, ok := c.stamps[text[i:i+stampBytes]]; ok && at > c.calls[id] {
			c.calls[id] = at
		}
	}
	return nil
}

// proves reports whether an entry that carries id is at most bound old.
func (c *rollCall) proves(id string, bound time.Duration) bool {
	c.mu.RLock()
	at, ok := c.calls[id]
	c.mu.RUnlock()
	return ok && c.clock.Boot()-at <= bound // the clock last: what took time before counts
}

// before returns the newest roll call that had been read by mark.
func (c *rollCall) before(mark time.Duration) (id string, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for i := len(c.held) - 1; i >= 0; i-- {
		if c.held[i].from <= mark {
			return c.held[i].id, true
		}
	}
	return "", false
}

// callRolls keeps the roll call going until ctx ends.
func (r *Client) callRolls(ctx context.Context) {
	for {
		if r.breaker.Ready() {
			if err := r.callRoll(ctx); err != nil && ctx.Err() == nil {
				r.log.Debug("roll call failed; token:valid entries cannot be used", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-r.roll.moved:
		case <-time.After(jitter(r.roll.every)):
		}
	}
}

func (r *Client) callRoll(ctx context.Context) (err error) {
	defer recovered(&err)
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	fresh, previous, keys := r.roll.stamp()
	keep := max(r.roll.bound, 8*r.roll.every)
	text, err := rollScript.Run(ctx, r.client, keys, fresh, previous, keep.Milliseconds(), (2 * r.roll.every).Milliseconds()).Text()
	if err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	return r.roll.learn(keys, text)
}
