package rediscache

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/test/harness"
)

// pendingOf returns entries on their way to Redis.
func pendingOf(entries ...authz.Entry) (pending []pendingEntry) {
	for _, e := range entries {
		pending = append(pending, pendingEntry{entry: e})
	}
	return pending
}

// The bytes of a message are an interface: sidecars of several versions share a
// channel.
func TestMessageFormat(t *testing.T) {
	t.Parallel()
	entries := []authz.Entry{
		{Key: authz.RevocationKey(authz.KindJTI, "https://i", "a"), NotBefore: authz.Always, Expires: 1_800_003_600},
		{Key: authz.RevocationKey(authz.KindSub, "https://i", "b"), NotBefore: 1_800_000_000, Expires: 253402300799},
		{NotBefore: -1, Expires: -2},
	}
	const want = "01000003" +
		"a0c8f435a7a1373dc952bf790def16af" + "7fffffffffffffff" + "000000006b49e010" +
		"c8e494d4a4204f9a343f1f355273250e" + "000000006b49d200" + "0000003afff4417f" +
		"00000000000000000000000000000000" + "ffffffffffffffff" + "fffffffffffffffe"
	message := encodeMessage(pendingOf(entries...), false)
	assert.Equal(t, want, hex.EncodeToString([]byte(message)))
	got, complete := decodeMessage(message)
	assert.Equal(t, entries, got)
	assert.True(t, complete)

	got, complete = decodeMessage(encodeMessage(pendingOf(entries[0]), true))
	assert.Equal(t, entries[:1], got, "what it names counts, although there are others")
	assert.False(t, complete)
	got, complete = decodeMessage(encodeMessage(nil, true))
	assert.Empty(t, got)
	assert.False(t, complete)

	full := encodeMessage(make([]pendingEntry, maxNamed), false)
	assert.Len(t, full, 16_004)
	_, complete = decodeMessage(full)
	assert.True(t, complete)
}

// A message that cannot be read names nothing and is incomplete, so that a sync
// follows.
func TestMessageThatCannotBeRead(t *testing.T) {
	t.Parallel()
	good := encodeMessage(make([]pendingEntry, 3), false)
	bad := map[string]string{
		"of the scheme before messages had entries": "revoked",
		"version 0": "\x00" + good[1:], "version 2": "\x02" + good[1:], "text": "1" + good[1:],
		"unknown bit": good[:1] + "\x02" + good[2:], "longer than it says": good + "\x00",
		"one entry too many":        good + good[messageHeader:messageHeader+messageEntry],
		"more entries than allowed": encodeMessage(make([]pendingEntry, maxNamed+1), false),
		"endless":                   "\x01\x00\xff\xff" + strings.Repeat("x", 0xffff*messageEntry),
	}
	for n := range good {
		bad[fmt.Sprintf("cut after %d bytes", n)] = good[:n]
	}
	for name, m := range bad {
		entries, complete := decodeMessage(m)
		assert.Emptyf(t, entries, "%s", name)
		assert.Falsef(t, complete, "%s", name)
	}
}

func FuzzDecodeMessage(f *testing.F) {
	f.Add("revoked")
	f.Add(encodeMessage(nil, true))
	f.Add(encodeMessage(make([]pendingEntry, 2), false))
	f.Fuzz(func(t *testing.T, m string) {
		entries, complete := decodeMessage(m)
		if complete || len(entries) > 0 { // it was read, so it has only one form
			require.Equal(t, m, encodeMessage(pendingOf(entries...), !complete))
		}
	})
}

// learned is what a subscriber has learned from messages.
type learned struct {
	mu         sync.Mutex
	entries    map[authz.Key]authz.Entry
	incomplete int
}

func (l *learned) learn(entries []authz.Entry, complete bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.entries == nil {
		l.entries = map[authz.Key]authz.Entry{}
	}
	for _, e := range entries {
		l.entries[e.Key] = e
	}
	if !complete {
		l.incomplete++
	}
}

func (l *learned) now() (entries map[authz.Key]authz.Entry, incomplete int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.entries), l.incomplete
}

// Every subscriber learns every revocation as the publisher has it, in every
// topology.
func TestMessagesNameRevocations(t *testing.T) {
	t.Parallel()
	topologies(t, func(t *testing.T, open func(func(*Config, *Options)) *Client, _ func(string, ...any) any) {
		subscribers := make([]learned, 6)
		for i := range subscribers {
			learning(t, open(nil), subscribers[i].learn)
		}
		publisher := open(nil)
		want := map[authz.Key]authz.Entry{}
		for i := range 20 {
			var rs []authz.Revocation
			for j := range 3 {
				rs = append(rs, revocation(authz.KindSub, fmt.Sprint(i, "-", j), func(r *authz.Revocation) {
					if j > 0 {
						r.NotBefore = time.Unix(1_800_000_000+int64(i), 1)
					}
				}))
				e := rs[j].Entry()
				want[e.Key] = e
			}
			require.True(t, publisher.Publish(t.Context(), rs))
		}
		for i := range subscribers {
			harness.Eventually(t, 5*time.Second, "a subscriber has learned all", func(context.Context) error {
				if got, _ := subscribers[i].now(); len(got) < len(want) {
					return fmt.Errorf("%d: %d of %d", i, len(got), len(want))
				}
				return nil
			})
			got, incomplete := subscribers[i].now()
			assert.Equal(t, want, got)
			assert.Equal(t, 1, incomplete, "only for the new subscription")
		}
	})
}

// The subscribers of a Cluster are spread over its masters, so that no node sends
// every message to the whole fleet.
func TestClusterSpreadsSubscribers(t *testing.T) {
	t.Parallel()
	s := harness.RedisCluster(t, 3)
	for range 16 {
		learning(t, open(t, func(c *Config, _ *Options) { c.Addrs, c.Cluster = s.Addrs, true }), func([]authz.Entry, bool) {})
	}
	var counts []int
	for _, n := range s.Nodes {
		clients, _ := n.Do(t, "CLIENT", "LIST", "TYPE", "PUBSUB").(string)
		counts = append(counts, strings.Count(clients, "\n"))
	}
	assert.Lessf(t, slices.Max(counts), 16, "subscribers of each node: %v", counts)
	assert.Equal(t, 16, counts[0]+counts[1]+counts[2], "%v", counts)
}

// Redis sends every message to the whole fleet: their size and rate are bounded,
// and what they do not name they announce.
func TestMessagesAreBounded(t *testing.T) {
	t.Parallel()
	s := harness.Redis(t)
	raw := s.Client(t).Subscribe(t.Context(), Channel)
	defer raw.Close()
	_, err := raw.Receive(t.Context())
	require.NoError(t, err)
	r := open(t, at(s.Addr))
	const calls, each = 4, 1300
	start := time.Now()
	for c := range calls {
		var rs []authz.Revocation
		for i := range each {
			rs = append(rs, revocation(authz.KindJTI, fmt.Sprint(c, "-", i), nil))
		}
		r.Publish(t.Context(), rs)
	}
	harness.Eventually(t, 10*time.Second, "the queue is empty", func(context.Context) error {
		r.publisher.mu.Lock()
		defer r.publisher.mu.Unlock()
		if n := len(r.publisher.queue); n > 0 {
			return fmt.Errorf("%d left", n)
		}
		return nil
	})
	took := time.Since(start)
	require.NoError(t, s.Client(t).Publish(t.Context(), Channel, "end").Err())
	named, incomplete := 0, 0
	for {
		m, err := raw.ReceiveMessage(t.Context())
		require.NoError(t, err)
		if m.Payload == "end" {
			break
		}
		require.LessOrEqual(t, len(m.Payload), 16_004)
		entries, complete := decodeMessage(m.Payload)
		named += len(entries)
		if !complete {
			incomplete++
		}
	}
	t.Logf("%d of %d revocations named in %s, %d messages incomplete", named, calls*each, took, incomplete)
	assert.GreaterOrEqual(t, named, maxNamed)
	assert.LessOrEqual(t, float64(named), maxNamed+namedPerSecond*took.Seconds()+1)
	assert.NotZero(t, incomplete)
}

// A publisher whose queue had no room says so once.
func TestDroppedRevocationsAreAnnounced(t *testing.T) {
	t.Parallel()
	s := harness.Redis(t)
	r := open(t, at(s.Addr))
	var l learned
	learning(t, r, l.learn)
	r.publisher.mu.Lock()
	r.publisher.dropped = true
	r.publisher.mu.Unlock()
	r.publisher.enqueue(pendingOf(revocation(authz.KindJTI, "kept", nil).Entry()))
	harness.Eventually(t, 5*time.Second, "the subscriber knows", func(context.Context) error {
		if got, incomplete := l.now(); len(got) != 1 || incomplete != 2 { // one is for the new subscription
			return fmt.Errorf("%v, %d", got, incomplete)
		}
		return nil
	})
	harness.Eventually(t, 5*time.Second, "nothing is left to say", func(context.Context) error {
		if batch, dropped := r.publisher.next(); len(batch) > 0 || dropped {
			return errors.New("something is")
		}
		return nil
	})
}

// A Redis that is full still passes messages on.
func TestFullRedisPassesMessagesOn(t *testing.T) {
	t.Parallel()
	s := harness.Redis(t)
	r := open(t, at(s.Addr))
	var l learned
	learning(t, r, l.learn)
	s.Do(t, "CONFIG", "SET", "maxmemory", "1")
	rv := revocation(authz.KindJTI, "full", nil)
	require.False(t, r.Publish(t.Context(), []authz.Revocation{rv}))
	harness.Eventually(t, 5*time.Second, "the message is there", func(context.Context) error {
		if got, _ := l.now(); len(got) != 1 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	require.ErrorIs(t, r.client.Get(t.Context(), revokedKey(rv.Key())).Err(), redis.Nil)
	s.Do(t, "CONFIG", "SET", "maxmemory", "0")
}
