package rediscache

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
	"jwtbouncer/test/harness"
)

// impatient configures a client of a faulty server.
func impatient(addr string) func(*Config, *Options) {
	return func(c *Config, _ *Options) { c.Addrs, c.Timeout = []string{addr}, 100*time.Millisecond }
}

// healed waits until lookups are answered again.
func healed(t *testing.T, r *Client) {
	t.Helper()
	harness.Eventually(t, 5*time.Second, "lookups are answered again", func(ctx context.Context) error {
		_, err := r.Lookup(ctx, ptr(tokenOf("heal", 1)))
		return err
	})
}

// In every fault the client never answers NotRevoked without proof, answers in
// time, opens no storm of connections, and recovers by itself.
func TestFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct {
		begin func(*harness.RedisServer, *harness.FaultProxy)
		end   func(*testing.T, *harness.RedisServer, *harness.FaultProxy)
	}{
		"killed, back empty": {
			func(s *harness.RedisServer, _ *harness.FaultProxy) { s.Stop() },
			func(t *testing.T, s *harness.RedisServer, _ *harness.FaultProxy) { s.Start(t) }},
		"stopped by signal": {
			func(s *harness.RedisServer, _ *harness.FaultProxy) { _ = s.Pause() },
			func(_ *testing.T, s *harness.RedisServer, _ *harness.FaultProxy) { _ = s.Resume() }},
		"black hole":                   {func(_ *harness.RedisServer, p *harness.FaultProxy) { p.BlackHole() }, heal},
		"answers lost":                 {func(_ *harness.RedisServer, p *harness.FaultProxy) { p.BlackHoleAnswers() }, heal},
		"reset":                        {func(_ *harness.RedisServer, p *harness.FaultProxy) { p.Reset() }, heal},
		"refused":                      {func(_ *harness.RedisServer, p *harness.FaultProxy) { p.Down() }, heal},
		"cut in the middle of a reply": {func(_ *harness.RedisServer, p *harness.FaultProxy) { p.Cut(3) }, heal},
		"slow":                         {func(_ *harness.RedisServer, p *harness.FaultProxy) { p.Latency(800 * time.Millisecond) }, heal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := harness.Redis(t)
			p := harness.Proxy(t, s.Addr)
			r := open(t, impatient(p.Addr))
			healed(t, r)

			fault.begin(s, p)
			var slowest atomic.Int64
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					for range 10 {
						ctx, cancel := context.WithTimeout(t.Context(), 190*time.Millisecond)
						begun := time.Now()
						v, err := r.Lookup(ctx, ptr(tokenOf("x", 1)))
						cancel()
						for took := int64(time.Since(begun)); ; {
							if old := slowest.Load(); took <= old || slowest.CompareAndSwap(old, took) {
								break
							}
						}
						assert.Equalf(t, authz.Unknown, v, "%v", err)
						assert.Errorf(t, err, "got %s", v)
					}
				})
			}
			wg.Wait()
			// The bound is 95 ms here; the rest is for a busy machine and still less
			// than the delay of the slowest fault.
			require.Less(t, time.Duration(slowest.Load()), 700*time.Millisecond)
			require.False(t, r.breaker.Ready())

			_, err := r.Lookup(t.Context(), ptr(tokenOf("x", 1)))
			require.ErrorIs(t, err, breaker.ErrOpen, "no request waits to find out")
			_, ok := r.Begin(t.Context(), nil)
			require.False(t, ok)
			_, err = r.Seen(t.Context(), "k", time.Second)
			require.ErrorIs(t, err, breaker.ErrOpen)

			require.False(t, r.Publish(t.Context(), []authz.Revocation{revocation(authz.KindJTI, "jti-late", nil)}))
			fault.end(t, s, p)
			healed(t, r)
			harness.Eventually(t, 10*time.Second, "the revocation is published by itself", func(ctx context.Context) error {
				v, err := r.Lookup(ctx, ptr(tokenOf("late", 1)))
				if err == nil && v != authz.Revoked {
					err = errors.New(v.String())
				}
				return err
			})
			require.True(t, r.breaker.Ready())
			require.Eventually(t, func() bool { return testutil.ToFloat64(r.metrics.pending) == 0 }, 5*time.Second, 10*time.Millisecond)
			require.LessOrEqual(t, int(r.client.PoolStats().TotalConns), r.cfg.PoolSize)
		})
	}
}

func heal(_ *testing.T, _ *harness.RedisServer, p *harness.FaultProxy) { p.Heal() }

// A server that answers may still refuse.
func TestRefusals(t *testing.T) {
	t.Parallel()
	refused := func(t *testing.T, r *Client, id string) {
		t.Helper()
		begun := time.Now()
		require.False(t, r.Publish(t.Context(), []authz.Revocation{revocation(authz.KindJTI, "jti-"+id, nil)}))
		require.Less(t, time.Since(begun), time.Second)
	}
	arrives := func(t *testing.T, r *Client, id string) {
		t.Helper()
		harness.Eventually(t, 15*time.Second, "retried until it is published", func(ctx context.Context) error {
			v, err := r.Lookup(ctx, ptr(tokenOf(id, 1)))
			if err == nil && v != authz.Revoked {
				err = errors.New(v.String())
			}
			return err
		})
	}
	t.Run("READONLY", func(t *testing.T) {
		t.Parallel()
		s := harness.Redis(t)
		r := open(t, at(s.Addr))
		healed(t, r)
		s.Do(t, "REPLICAOF", "127.0.0.1", "1")
		s.Do(t, "CONFIG", "SET", "replica-serve-stale-data", "yes")
		refused(t, r, "ro")
		v, err := r.Lookup(t.Context(), ptr(tokenOf("ro", 1)))
		require.NoError(t, err, "reading still works")
		require.Equal(t, authz.Unknown, v)
		s.Do(t, "REPLICAOF", "NO", "ONE")
		arrives(t, r, "ro")
	})
	t.Run("OOM", func(t *testing.T) {
		t.Parallel()
		s := harness.Redis(t)
		r := open(t, at(s.Addr))
		healed(t, r)
		s.Do(t, "CONFIG", "SET", "maxmemory", "1")
		refused(t, r, "oom")
		s.Do(t, "CONFIG", "SET", "maxmemory", "0")
		arrives(t, r, "oom")
	})
	t.Run("NOAUTH", func(t *testing.T) {
		t.Parallel()
		s := harness.Redis(t)
		r := open(t, at(s.Addr))
		healed(t, r)
		s.Do(t, "CONFIG", "SET", "requirepass", "secret")
		s2 := open(t, at(s.Addr)) // new connections are asked for the password
		_, err := s2.Lookup(t.Context(), ptr(tokenOf("x", 1)))
		require.ErrorContains(t, err, "NOAUTH")
		refused(t, s2, "auth")
		with := open(t, func(c *Config, _ *Options) { c.Addrs, c.Password = []string{s.Addr}, "secret" })
		healed(t, with)
		wrong := open(t, func(c *Config, _ *Options) { c.Addrs, c.Password = []string{s.Addr}, "hunter2" })
		_, err = wrong.Lookup(t.Context(), ptr(tokenOf("x", 1)))
		require.ErrorContains(t, err, "WRONGPASS")
		require.NotContains(t, err.Error(), "hunter2")
		require.NoError(t, with.client.ConfigSet(t.Context(), "requirepass", "").Err())
		arrives(t, s2, "auth")
	})
	t.Run("FLUSHALL and SCRIPT FLUSH", func(t *testing.T) {
		t.Parallel()
		s := harness.Redis(t)
		r := open(t, at(s.Addr))
		q := tokenOf("flush", 1)
		teach(t, r, r, q)
		require.True(t, r.Publish(t.Context(), []authz.Revocation{revocation(authz.KindJTI, "jti-flush", nil)}))
		s.Do(t, "FLUSHALL")
		s.Do(t, "SCRIPT", "FLUSH")
		require.Equal(t, authz.Unknown, ask(t, r, q), "a missing key proves nothing")
		require.True(t, r.Publish(t.Context(), []authz.Revocation{revocation(authz.KindJTI, "jti-flush", nil)}))
		require.Equal(t, authz.Revoked, ask(t, r, q))
		teach(t, r, r, tokenOf("flush2", 1))
	})
	t.Run("too many clients", func(t *testing.T) {
		t.Parallel()
		s := harness.Redis(t, "maxclients", "1")
		hog := s.Client(t)
		require.NoError(t, hog.Ping(t.Context()).Err())
		r := open(t, at(s.Addr))
		_, err := r.Lookup(t.Context(), ptr(tokenOf("x", 1)))
		require.Error(t, err)
		require.NoError(t, hog.ConfigSet(t.Context(), "maxclients", "100").Err())
		healed(t, r)
	})
}

// A caller without time, or one that goes away, is not a failure of the server.
func TestBreakerIgnoresImpatientCallers(t *testing.T) {
	t.Parallel()
	s := harness.Redis(t)
	r := open(t, at(s.Addr))
	healed(t, r)
	for range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Microsecond)
		_, err := r.Lookup(ctx, ptr(tokenOf("x", 1)))
		cancel()
		require.Error(t, err)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = r.Lookup(gone, ptr(tokenOf("x", 1)))
		require.Error(t, err)
	}
	require.True(t, r.breaker.Ready())
	require.Equal(t, authz.Unknown, ask(t, r, tokenOf("x", 1)))
}

func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	g := harness.Sentinel(t)
	r := open(t, func(c *Config, _ *Options) {
		c.Addrs, c.MasterName, c.Timeout = g.Addrs, g.Name, 100*time.Millisecond
	})
	healed(t, r)
	var notified atomic.Int64
	subscribed(t, r, &notified)
	require.True(t, r.Publish(t.Context(), []authz.Revocation{revocation(authz.KindJTI, "jti-a", nil)}))
	require.NoError(t, r.client.Do(t.Context(), "WAIT", 1, 1000).Err())
	before := notified.Load()
	g.Master.Stop()
	require.False(t, r.Publish(t.Context(), []authz.Revocation{revocation(authz.KindJTI, "jti-b", nil)}))
	harness.Eventually(t, 20*time.Second, "the new master has old and new revocations", func(ctx context.Context) error {
		for _, id := range []string{"a", "b"} {
			if v, err := r.Lookup(ctx, ptr(tokenOf(id, 1))); v != authz.Revoked {
				return fmt.Errorf("%s: %s, %w", id, v, err)
			}
		}
		if notified.Load() == before {
			return errors.New("no new subscription")
		}
		return nil
	})
	teach(t, r, r, tokenOf("c", 1))
}

// The client follows the Sentinels even while the former master is alive and
// answers: it may be cut off from them and from everybody else.
func TestSentinelsNameAnother(t *testing.T) {
	t.Parallel()
	former, next := harness.Redis(t), harness.Redis(t)
	var master atomic.Value
	master.Store(former.Addr)
	say := func(command []string) string {
		if command[0] == "sentinel" {
			host, port, _ := net.SplitHostPort(master.Load().(string))
			return "*2\r\n" + bulk(host) + bulk(port)
		}
		return greet(command)
	}
	silent := lie(t, func([]string) string { return "" })
	knowsNot := lie(t, func(command []string) string {
		if command[0] == "sentinel" {
			return "*-1\r\n"
		}
		return greet(command)
	})
	r := open(t, func(c *Config, _ *Options) {
		c.Addrs, c.MasterName = []string{silent, knowsNot, "127.0.0.1:1", lie(t, say)}, "main"
	})
	healed(t, r)
	var notified atomic.Int64
	subscribed(t, r, &notified)
	before := notified.Load()
	former.Do(t, "SET", revokedKey(tokenOf("x", 1).Keys[0]), always)
	require.Equal(t, authz.Revoked, ask(t, r, tokenOf("x", 1)))
	master.Store(next.Addr)
	harness.Eventually(t, 5*time.Second, "the next master answers", func(ctx context.Context) error {
		if v, err := r.Lookup(ctx, ptr(tokenOf("x", 1))); v != authz.Unknown || err != nil {
			return fmt.Errorf("%s, %w", v, err)
		}
		return nil
	})
	require.Eventually(t, func() bool { return notified.Load() > before }, 5*time.Second, time.Millisecond, "the subscription is at the next master")
	require.Eventually(t, func() bool {
		r.sentinels.mu.Lock()
		defer r.sentinels.mu.Unlock()
		for _, to := range r.sentinels.conns {
			if to != next.Addr {
				return false
			}
		}
		return true
	}, 5*time.Second, 10*time.Millisecond, "no connection to the former master is left")
}

func TestClusterMasterLost(t *testing.T) {
	t.Parallel()
	c := harness.RedisCluster(t, 3, 1)
	r := open(t, func(cfg *Config, _ *Options) {
		cfg.Addrs, cfg.Cluster, cfg.Timeout = c.Addrs, true, 100*time.Millisecond
	})
	healed(t, r)
	var many []authz.Revocation
	for i := range 30 { // some on every master
		many = append(many, revocation(authz.KindJTI, fmt.Sprintf("jti-%d", i), nil))
	}
	var notified atomic.Int64
	subscribed(t, r, &notified)
	c.Nodes[0].Stop()
	r.Publish(t.Context(), many)
	harness.Eventually(t, 30*time.Second, "every slot is served again and has its revocations", func(ctx context.Context) error {
		for i := range many {
			if v, err := r.Lookup(ctx, ptr(tokenOf(fmt.Sprint(i), 1))); v != authz.Revoked {
				return fmt.Errorf("%d: %s, %w", i, v, err)
			}
		}
		return nil
	})
	before := notified.Load()
	require.Eventually(t, func() bool {
		r.Publish(t.Context(), many[:1])
		return notified.Load() > before
	}, 10*time.Second, 50*time.Millisecond, "messages arrive again")
}

// subscribed runs the subscriber for the test and waits until it is subscribed.
func subscribed(t *testing.T, r *Client, notified *atomic.Int64) {
	t.Helper()
	learning(t, r, func([]authz.Entry, bool) { notified.Add(1) })
}

// learning runs the subscriber for the test, calls learn for what it gets, and
// waits until it is subscribed.
func learning(t *testing.T, r *Client, learn func(entries []authz.Entry, complete bool)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done, confirmed := make(chan error, 1), make(chan struct{})
	var first sync.Once
	go func() {
		done <- r.Subscribe(ctx, func(entries []authz.Entry, complete bool) {
			learn(entries, complete)
			first.Do(func() { close(confirmed) })
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
	select {
	case <-confirmed:
	case <-time.After(10 * time.Second):
		t.Fatal("not subscribed")
	}
}

func TestSubscriber(t *testing.T) {
	t.Parallel()
	topologies(t, func(t *testing.T, open func(func(*Config, *Options)) *Client, _ func(string, ...any) any) {
		publisher := open(nil)
		var notified [3]atomic.Int64
		for i := range notified {
			subscribed(t, open(nil), &notified[i])
		}
		for n := range 20 {
			var before [3]int64
			for i := range notified {
				before[i] = notified[i].Load()
			}
			require.True(t, publisher.Publish(t.Context(), []authz.Revocation{revocation(authz.KindJTI, fmt.Sprint(n), nil)}))
			for i := range notified {
				require.Eventually(t, func() bool { return notified[i].Load() > before[i] }, 5*time.Second, time.Millisecond, "message %d at %d", n, i)
			}
		}
	})
}

// A subscription that died silently is noticed and replaced, and the new one
// notifies, because messages were missed.
func TestSubscriberBlackHole(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*harness.FaultProxy){
		"black hole": (*harness.FaultProxy).BlackHole, "answers lost": (*harness.FaultProxy).BlackHoleAnswers,
		"reset": (*harness.FaultProxy).Reset, "dropped": (*harness.FaultProxy).Drop,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := harness.Redis(t)
			p := harness.Proxy(t, s.Addr)
			r := open(t, impatient(p.Addr))
			r.sub = subscriberTimes{ping: 50 * time.Millisecond, silence: 200 * time.Millisecond, life: time.Minute, backoff: 10 * time.Millisecond}
			var notified atomic.Int64
			subscribed(t, r, &notified)
			for range 5 {
				before := notified.Load()
				fault(p)
				if name != "dropped" {
					require.Eventually(t, func() bool { return testutil.ToFloat64(r.metrics.subscribed) == 0 }, 10*time.Second, time.Millisecond, "the loss is noticed")
				}
				p.Heal()
				require.Eventually(t, func() bool { return notified.Load() > before }, 10*time.Second, time.Millisecond, "a new subscription notifies")
			}
			direct := open(t, at(s.Addr))
			before := notified.Load()
			require.Eventually(t, func() bool {
				direct.Publish(t.Context(), []authz.Revocation{revocation(authz.KindJTI, "x", nil)})
				return notified.Load() > before
			}, 10*time.Second, 20*time.Millisecond)
		})
	}
}

// A healthy subscription is renewed too: a node that is cut off from its cluster
// answers PING and gets no messages.
func TestSubscriberRenews(t *testing.T) {
	t.Parallel()
	s := harness.Redis(t)
	r := open(t, at(s.Addr))
	r.sub.ping, r.sub.life = 10*time.Millisecond, 100*time.Millisecond
	var notified atomic.Int64
	subscribed(t, r, &notified)
	require.Eventually(t, func() bool { return testutil.ToFloat64(r.metrics.subscriptions) > 3 }, 10*time.Second, 10*time.Millisecond)
}

func TestPublisherClose(t *testing.T) {
	t.Parallel()
	t.Run("drains", func(t *testing.T) {
		t.Parallel()
		s := harness.Redis(t)
		p := harness.Proxy(t, s.Addr)
		r := open(t, impatient(p.Addr))
		healed(t, r)
		p.Down()
		require.False(t, r.Publish(t.Context(), []authz.Revocation{revocation(authz.KindJTI, "jti-drain", nil)}))
		p.Heal()
		require.NoError(t, r.Close())
		require.Equal(t, authz.Revoked, ask(t, open(t, at(s.Addr)), tokenOf("drain", 1)))
	})
	t.Run("reports what it could not publish", func(t *testing.T) {
		t.Parallel()
		s := harness.Redis(t)
		p := harness.Proxy(t, s.Addr)
		r := open(t, impatient(p.Addr))
		p.BlackHole()
		require.False(t, r.Publish(t.Context(), []authz.Revocation{revocation(authz.KindJTI, "1", nil), revocation(authz.KindSub, "2", nil)}))
		begun := time.Now()
		require.ErrorContains(t, r.Close(), "2 revocations were not published")
		require.Less(t, time.Since(begun), 5*time.Second)
	})
	t.Run("nothing to do without a server", func(t *testing.T) {
		t.Parallel()
		r := open(t, at("127.0.0.1:1"))
		require.NoError(t, r.Close())
		require.NoError(t, r.Close(), "twice is once")
	})
}

func TestPublisherQueueIsBounded(t *testing.T) {
	t.Parallel()
	r := open(t, at("127.0.0.1:1"))
	entries := make([]pendingEntry, maxPending+100)
	for i := range entries {
		entries[i].entry = revocation(authz.KindJTI, fmt.Sprint(i), nil).Entry()
	}
	r.publisher.enqueue(entries)
	require.EqualValues(t, 100, counter(r.metrics.published, "dropped"))
	_, dropped := r.publisher.next()
	require.True(t, dropped, "a message has to say so")
	weaker := entries[0]
	weaker.entry.NotBefore = 5
	r.publisher.enqueue([]pendingEntry{weaker})
	r.publisher.mu.Lock()
	defer r.publisher.mu.Unlock()
	require.Len(t, r.publisher.queue, maxPending)
	require.Equal(t, authz.Always, r.publisher.queue[weaker.entry.Key].entry.NotBefore, "the stricter one stays")
	clear(r.publisher.queue)
	r.publisher.dropped = false
}

func TestFillQueueIsBounded(t *testing.T) {
	t.Parallel()
	s := harness.Redis(t)
	r := open(t, at(s.Addr))
	teach(t, r, r, tokenOf("x", 1))
	require.NoError(t, s.Pause())
	q := tokenOf("y", 1)
	mark, _ := r.Begin(t.Context(), &q)
	begun := time.Now()
	for range 3 * fillQueue {
		r.Fill(q, authz.Revoked, mark)
	}
	require.Less(t, time.Since(begun), time.Second, "Fill does not block")
	require.NotZero(t, counter(r.metrics.fills, "dropped"))
	require.NoError(t, s.Resume())
}
