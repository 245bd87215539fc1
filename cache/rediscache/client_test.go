package rediscache

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
	"jwtbouncer/test/harness"
)

const testBound = 2 * time.Second

// open returns a Redis in lookup mode on cfg's servers.
func open(t testing.TB, change func(*Config, *Options)) *Client {
	t.Helper()
	cfg, o := DefaultConfig(), Options{MaxStaleness: testBound, Fill: true, Registry: prometheus.NewRegistry()}
	cfg.Timeout = 500 * time.Millisecond // for a busy test machine; tests of faults shorten it
	change(&cfg, &o)
	cfg.Validate(func(path, format string, args ...any) { t.Errorf(path+": "+format, args...) })
	r, err := Open(cfg, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func at(addr string) func(*Config, *Options) {
	return func(c *Config, _ *Options) { c.Addrs = []string{addr} }
}

// topologies runs f on every way to deploy Redis.
func topologies(t *testing.T, f func(t *testing.T, open func(func(*Config, *Options)) *Client, do func(key string, args ...any) any)) {
	run := func(name string, start func(*testing.T) func(*Config)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			where := start(t)
			opener := func(change func(*Config, *Options)) *Client {
				return open(t, func(c *Config, o *Options) {
					where(c)
					if change != nil {
						change(c, o)
					}
				})
			}
			plain := opener(nil)
			f(t, opener, func(_ string, args ...any) any {
				v, err := plain.client.Do(t.Context(), args...).Result()
				if err != nil {
					require.ErrorIsf(t, err, redis.Nil, "%v", args)
				}
				return v
			})
		})
	}
	run("standalone", func(t *testing.T) func(*Config) {
		s := harness.Redis(t)
		return func(c *Config) { c.URL = s.URL }
	})
	run("cluster", func(t *testing.T) func(*Config) {
		s := harness.RedisCluster(t, 3)
		return func(c *Config) { c.Addrs, c.Cluster = s.Addrs, true }
	})
	run("sentinel", func(t *testing.T) func(*Config) {
		s := harness.Sentinel(t)
		return func(c *Config) { c.Addrs, c.MasterName = s.Addrs, s.Name }
	})
}

// tokenOf returns the query about a token with every kind of key, issued at iat.
func tokenOf(name string, iat int64) authz.Query {
	tok := &authz.Token{
		Raw: "h." + name + ".s", Issuer: "https://i", ID: "jti-" + name, Subject: "sub-" + name, Session: "sid-" + name, KeyID: "kid-" + name,
		IssuedAt: iat, Expires: time.Now().Add(time.Hour).Unix(),
	}
	tok.SetKeys()
	return tok.Query()
}

func revocation(kind authz.Kind, value string, change func(*authz.Revocation)) authz.Revocation {
	r := authz.Revocation{Kind: kind, Issuer: "https://i", Value: value, ExpiresAt: time.Now().Add(time.Hour)}
	if kind == authz.KindIss {
		r.Value = ""
	}
	if change != nil {
		change(&r)
	}
	return r
}

func ask(t testing.TB, r *Client, q authz.Query) authz.Verdict {
	t.Helper()
	v, err := r.Lookup(t.Context(), &q)
	require.NoError(t, err)
	return v
}

// teach fills NotRevoked as a chain does, until the reader believes it. Then no fill
// of q is pending that could come later: the writer fills in order, and has filled
// another token since.
func teach(t testing.TB, writer, reader *Client, q authz.Query) {
	t.Helper()
	fillUntilBelieved(t, writer, reader, q)
	fillUntilBelieved(t, writer, reader, tokenOf("behind "+q.ID, q.IssuedAt))
}

func fillUntilBelieved(t testing.TB, writer, reader *Client, q authz.Query) {
	t.Helper()
	harness.Eventually(t, 10*time.Second, "a filled entry is believed", func(ctx context.Context) error {
		if mark, ok := writer.Begin(ctx, &q); ok {
			writer.Fill(q, authz.NotRevoked, mark)
		}
		v, err := reader.Lookup(ctx, &q)
		if err == nil && v != authz.NotRevoked {
			err = errors.New(v.String())
		}
		return err
	})
}

func TestTier(t *testing.T) {
	t.Parallel()
	topologies(t, func(t *testing.T, open func(func(*Config, *Options)) *Client, do func(string, ...any) any) {
		writer, reader := open(nil), open(nil)
		const iat = 1_800_000_000
		before, after := time.Unix(iat, 0), time.Unix(iat+1, 0)
		for kind, value := range map[authz.Kind]string{
			authz.KindJTI: "jti-%s", authz.KindSub: "sub-%s", authz.KindSID: "sid-%s", authz.KindKID: "kid-%s", authz.KindToken: "token", authz.KindIss: "",
		} {
			for _, c := range []struct {
				name string
				nb   time.Time
				want authz.Verdict
			}{
				{"always", time.Time{}, authz.Revoked}, {"issued before", after, authz.Revoked}, {"issued at", before, authz.Unknown},
			} {
				if kind == authz.KindIss && c.want == authz.Revoked {
					continue // it would revoke the tokens of all other cases; see the last subtest
				}
				name := kind.String() + "-" + strings.ReplaceAll(c.name, " ", "-")
				q := tokenOf(name, iat)
				v := strings.ReplaceAll(value, "%s", name)
				if kind == authz.KindToken {
					v = authz.TokenValue("h." + name + ".s")
				}
				require.Equal(t, authz.Unknown, ask(t, reader, q), "a miss proves nothing")
				require.True(t, writer.Publish(t.Context(), []authz.Revocation{revocation(kind, v, func(r *authz.Revocation) { r.NotBefore = c.nb })}))
				require.Equal(t, c.want, ask(t, reader, q), name)
			}
		}

		t.Run("revoked wins over valid", func(t *testing.T) {
			for kind, value := range map[authz.Kind]string{authz.KindSub: "sub-wins-sub", authz.KindToken: authz.TokenValue("h.wins-token.s")} {
				q := tokenOf("wins-"+kind.String(), iat)
				teach(t, writer, reader, q)
				require.True(t, writer.Publish(t.Context(), []authz.Revocation{revocation(kind, value, nil)}))
				require.EqualValues(t, 1, do("", "EXISTS", validKey(q.Hash())))
				require.Equal(t, authz.Revoked, ask(t, reader, q))
			}
		})
		t.Run("the stricter not_before and the later expiry stay", func(t *testing.T) {
			q := tokenOf("strict", iat)
			late := time.Now().Add(2 * time.Hour)
			require.True(t, writer.Publish(t.Context(), []authz.Revocation{revocation(authz.KindSub, "sub-strict", func(r *authz.Revocation) { r.ExpiresAt = late })}))
			require.True(t, writer.Publish(t.Context(), []authz.Revocation{revocation(authz.KindSub, "sub-strict", func(r *authz.Revocation) { r.NotBefore = before })}))
			require.Equal(t, authz.Revoked, ask(t, reader, q))
			ttl, ok := do("", "TTL", revokedKey(q.Keys[1])).(int64)
			require.True(t, ok)
			require.Greater(t, ttl, int64(90*60))
		})
		t.Run("other sidecars believe a valid entry until the bound", func(t *testing.T) {
			q := tokenOf("bound", iat)
			teach(t, writer, reader, q)
			begun := reader.clock.Boot()
			// A stepped clock or a restored backup leaves keys that never expire.
			do("", "PERSIST", validKey(q.Hash()))
			harness.Eventually(t, testBound+time.Second, "disbelieved", func(context.Context) error {
				if v := ask(t, reader, q); v != authz.Unknown {
					return errors.New(v.String())
				}
				return nil
			})
			require.EqualValues(t, 1, do("", "EXISTS", validKey(q.Hash())), "the key is still there")
			require.LessOrEqual(t, reader.clock.Boot()-begun, testBound+time.Second)
		})
		t.Run("a revoked verdict is filled", func(t *testing.T) {
			q := tokenOf("taught", iat)
			mark, ok := writer.Begin(t.Context(), &q)
			require.True(t, ok)
			writer.Fill(q, authz.Revoked, mark)
			harness.Eventually(t, 5*time.Second, "revoked", func(context.Context) error {
				if v := ask(t, reader, q); v != authz.Revoked {
					return errors.New(v.String())
				}
				return nil
			})
		})
		t.Run("with a replica, valid entries are neither read nor written", func(t *testing.T) {
			q := tokenOf("replica", iat)
			replica := open(func(_ *Config, o *Options) { o.Fill = false })
			teach(t, writer, reader, q)
			require.Equal(t, authz.Unknown, ask(t, replica, q))
		})
		t.Run("unreadable values deny", func(t *testing.T) {
			q := tokenOf("odd", iat)
			do("", "SET", revokedKey(q.Keys[0]), "\x00?")
			require.Equal(t, authz.Revoked, ask(t, reader, q))
		})
		t.Run("publishing replaces values that are not revocations", func(t *testing.T) {
			foreign, odd, other := tokenOf("foreign", iat), tokenOf("replaced", iat), tokenOf("other", iat)
			do("", "LPUSH", revokedKey(foreign.Keys[0]), "x")
			do("", "LPUSH", revokedKey(foreign.TokenKey), "x")
			do("", "SET", revokedKey(odd.Keys[0]), strings.Repeat("x", 2*maxReplyString))
			require.Equal(t, authz.Unknown, ask(t, reader, foreign), "and no error")
			require.True(t, writer.Publish(t.Context(), []authz.Revocation{
				revocation(authz.KindJTI, "jti-foreign", nil), revocation(authz.KindToken, authz.TokenValue("h.foreign.s"), nil),
				revocation(authz.KindJTI, "jti-replaced", func(r *authz.Revocation) { r.NotBefore = before }), revocation(authz.KindJTI, "jti-other", nil),
			}))
			for _, q := range []authz.Query{foreign, odd, other} {
				require.Equal(t, authz.Revoked, ask(t, reader, q))
			}
			require.Equal(t, always, do("", "GET", revokedKey(odd.Keys[0])), "an unreadable value stays in force, in our format")
			require.Greater(t, do("", "TTL", revokedKey(foreign.Keys[0])), int64(0))
		})
		t.Run("keys of other types do not prevent fills", func(t *testing.T) {
			q := tokenOf("types", iat)
			do("", "LPUSH", revokedKey(q.Keys[0]), "x")
			do("", "LPUSH", validKey(q.Hash()), "x")
			teach(t, writer, reader, q)
		})
		t.Run("the freshness epoch heals", func(t *testing.T) {
			stamps, epoch := epochKeys("")[0], epochKeys("")[1]
			for name, harm := range map[string]func() any{
				"for ever":  func() any { return do("", "PERSIST", epoch) },
				"for a day": func() any { return do("", "PEXPIRE", epoch, 24*3600*1000) },
				"epoch of a type": func() any { // at once: the epoch may be written again in between
					return do("", "EVAL", "redis.call('DEL', KEYS[1]) return redis.call('LPUSH', KEYS[1], 'x')", 1, epoch)
				},
				"stamps of a type":   func() any { do("", "DEL", stamps); return do("", "SET", stamps, "x") },
				"stamps for ever":    func() any { return do("", "PERSIST", stamps) },
				"stamps of the past": func() any { return do("", "ZADD", stamps, 1, "x") },
			} {
				t.Run(name, func(t *testing.T) {
					require.Eventually(t, func() bool { return harm() == int64(1) || name == "stamps of a type" }, 5*time.Second, time.Millisecond, "the key was there")
					harness.Eventually(t, testBound, "a new epoch with a short lifetime", func(context.Context) error {
						if kinds := fmt.Sprintf("%s %s", do("", "TYPE", stamps), do("", "TYPE", epoch)); kinds != "zset string" {
							return errors.New(kinds)
						}
						for key, longest := range map[string]time.Duration{stamps: testBound, epoch: 2 * writer.epochs.every} {
							if left, _ := do("", "PTTL", key).(int64); left <= 0 || left > longest.Milliseconds() {
								return fmt.Errorf("%s lives %d ms", key, left)
							}
						}
						return nil
					})
					teach(t, writer, reader, tokenOf("healed "+name, iat))
				})
			}
		})
		t.Run("many revocations at once", func(t *testing.T) {
			many := make([]authz.Revocation, 1200)
			for i := range many {
				many[i] = revocation(authz.KindJTI, fmt.Sprintf("jti-many%d", i), nil)
			}
			harness.Eventually(t, 20*time.Second, "all are published", func(ctx context.Context) error {
				writer.Publish(ctx, many)
				v, err := reader.Lookup(ctx, ptr(tokenOf("many1199", iat)))
				if err == nil && v != authz.Revoked {
					err = errors.New(v.String())
				}
				return err
			})
		})
		t.Run("replay check", func(t *testing.T) {
			var hits int
			for range 3 {
				seen, err := writer.Seen(t.Context(), "proof\n1", time.Minute)
				require.NoError(t, err)
				if seen {
					hits++
				}
			}
			require.Equal(t, 2, hits)
			seen, err := reader.Seen(t.Context(), "proof\n2", 0)
			require.NoError(t, err)
			require.False(t, seen)
		})
		t.Run("whole issuer", func(t *testing.T) {
			require.True(t, writer.Publish(t.Context(), []authz.Revocation{revocation(authz.KindIss, "", func(r *authz.Revocation) { r.NotBefore = after })}))
			require.Equal(t, authz.Revoked, ask(t, reader, tokenOf("any", iat)))
			require.Equal(t, authz.Unknown, ask(t, reader, tokenOf("any", iat+1)))
		})
	})
}

// The lesser of the store's and the configured max_staleness counts. Until the
// store's is known, no valid entry is believed.
func TestStoreLimitsStaleness(t *testing.T) {
	t.Parallel()
	r := open(t, at(harness.Redis(t).Addr))
	q := tokenOf("limited", time.Now().Unix())
	for limit, want := range map[time.Duration]authz.Verdict{
		0:                 authz.Unknown,
		time.Nanosecond:   authz.Unknown,
		time.Hour:         authz.NotRevoked,
		testBound * 3 / 4: authz.NotRevoked,
	} {
		r.Limit(time.Hour, "")
		teach(t, r, r, q)
		r.Limit(limit, "")
		require.Equal(t, want, ask(t, r, q), limit)
	}
	require.Equal(t, int64(testBound), func() int64 { r.Limit(time.Hour, ""); return r.limit.Load() }(), "at most the configured value")
}

// fixedStore always gives the same answer.
type fixedStore authz.Verdict

func (fixedStore) Name() string                                 { return "store" }
func (fixedStore) LookupNow(*authz.Query) (authz.Verdict, bool) { return authz.Unknown, false }
func (s fixedStore) Lookup(context.Context, *authz.Query) (authz.Verdict, error) {
	return authz.Verdict(s), nil
}

// Sidecars that share a Redis may have different stores: a SQLite file each, or
// another database after a move. A verdict of one store says nothing about the
// other.
func TestEntriesOfAnotherStore(t *testing.T) {
	t.Parallel()
	for _, ids := range [][2]string{{"one", "two"}, {"", "two"}, {"one", ""}} {
		t.Run(fmt.Sprintf("%q and %q", ids[0], ids[1]), func(t *testing.T) {
			t.Parallel()
			s := harness.Redis(t)
			a, b := open(t, at(s.Addr)), open(t, at(s.Addr))
			a.Limit(testBound, ids[0])
			b.Limit(testBound, ids[1])
			uninformed := authz.NewChain(nil, a, fixedStore(authz.NotRevoked))
			informed := authz.NewChain(nil, b, fixedStore(authz.Revoked)) // its publication was lost
			teach(t, b, b, tokenOf("of b", 1))                            // b has a freshness epoch of its own
			for i := range 20 {
				q := tokenOf(fmt.Sprint("revoked in one", i), 1)
				teach(t, a, a, q)
				v, err := uninformed.Lookup(t.Context(), &q)
				require.NoError(t, err)
				require.Equal(t, authz.NotRevoked, v)
				v, err = informed.Lookup(t.Context(), &q)
				require.NoError(t, err)
				require.Equal(t, authz.Revoked, v, "its own store decides")
			}
		})
	}
	t.Run("a store that became another", func(t *testing.T) {
		t.Parallel()
		s := harness.Redis(t)
		a, b := open(t, at(s.Addr)), open(t, at(s.Addr))
		a.Limit(testBound, "one")
		b.Limit(testBound, "one")
		q := tokenOf("moves", 1)
		teach(t, a, b, q)
		mark, _ := a.Begin(t.Context(), &q)
		a.Limit(testBound, "two")
		b.Limit(testBound, "two")
		require.Equal(t, authz.Unknown, ask(t, b, q), "an entry of the former store")
		a.Fill(q, authz.NotRevoked, mark)
		require.Empty(t, a.fills, "the former store was asked")
		teach(t, a, b, q)
	})
	t.Run("not known yet", func(t *testing.T) {
		t.Parallel()
		a := open(t, at(harness.Redis(t).Addr))
		teach(t, a, a, tokenOf("before", 1))
		a.Limit(0, "")
		q := tokenOf("whose", 1)
		mark, _ := a.Begin(t.Context(), &q)
		a.Fill(q, authz.NotRevoked, mark)
		require.Empty(t, a.fills)
	})
}

func ptr[T any](v T) *T { return &v }

// The older layout is token:revoked:{jti} with any value.
func TestLegacyKeys(t *testing.T) {
	t.Parallel()
	topologies(t, func(t *testing.T, open func(func(*Config, *Options)) *Client, do func(string, ...any) any) {
		on := open(func(c *Config, _ *Options) { c.LegacyKeys = true })
		off := open(nil)
		q := tokenOf("old", 1_800_000_000)
		do("", "SETEX", "token:revoked:jti-old", 600, "1") // as redis-py's setex writes it
		require.Equal(t, authz.Revoked, ask(t, on, q))
		require.Equal(t, authz.Unknown, ask(t, off, q), "only with legacy_keys")

		withoutID := q
		withoutID.ID = ""
		require.Equal(t, authz.Unknown, ask(t, on, withoutID), "no jti, no legacy key")

		do("", "SET", "token:valid:jti-new", "{}")
		require.True(t, on.Publish(t.Context(), []authz.Revocation{revocation(authz.KindJTI, "jti-new", nil)}))
		require.Equal(t, "1", do("", "GET", "token:revoked:jti-new"), "older readers see new revocations")
		require.EqualValues(t, 0, do("", "EXISTS", "token:valid:jti-new"))
		ttl, ok := do("", "TTL", "token:revoked:jti-new").(int64)
		require.True(t, ok)
		require.Greater(t, ttl, int64(0))

		filled := tokenOf("old", 1_800_000_000)
		mark, ok := on.Begin(t.Context(), &filled)
		require.True(t, ok)
		on.Fill(filled, authz.NotRevoked, mark)
		require.Equal(t, authz.Revoked, ask(t, on, filled), "revoked wins over valid")
	})
}

// lie starts a server that answers every command, in lower case, with reply's
// result. After "" the server sends nothing and keeps the connection open.
func lie(t testing.TB, reply func(command []string) string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				in := bufio.NewReader(c)
				for {
					command, err := readCommand(in)
					if err != nil {
						return
					}
					if _, err := io.WriteString(c, reply(command)); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// readCommand reads one command as clients send it: an array of strings.
func readCommand(in *bufio.Reader) ([]string, error) {
	number := func(kind byte) (int, error) {
		line, err := in.ReadString('\n')
		if err != nil {
			return 0, err
		}
		if line[0] != kind {
			return 0, fmt.Errorf("%q", line)
		}
		return strconv.Atoi(strings.TrimSpace(line[1:]))
	}
	n, err := number('*')
	if err != nil {
		return nil, err
	}
	command := make([]string, n)
	for i := range command {
		n, err := number('$')
		if err != nil {
			return nil, err
		}
		b := make([]byte, n+2)
		if _, err := io.ReadFull(in, b); err != nil {
			return nil, err
		}
		command[i] = strings.ToLower(string(b[:n]))
	}
	return command, nil
}

// greet answers the commands that a client sends while connecting; "" for others.
func greet(command []string) string {
	switch command[0] {
	case "hello":
		return "-ERR unknown command\r\n"
	case "client", "select", "auth", "readonly":
		return "+OK\r\n"
	}
	return ""
}

func bulk(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }

// odd are replies that fit no command. Some announce more than there is, or than
// there can be.
var odd = []string{
	"+OK\r\n", "+\r\n", "\r\n", "$-1\r\n", "$0\r\n\r\n", "$1\r\nx\r\n", ":1\r\n", ":-1\r\n", ":99999999999999999999\r\n", "\x00", "HTTP/1.1 400 Bad Request\r\n\r\n",
	"*-1\r\n", "*0\r\n", "*1\r\n$1\r\nx\r\n", "*1\r\n*0\r\n", "*1\r\n:1\r\n", "*2\r\n$-1\r\n$-1\r\n", "*2\r\n$0\r\n\r\n$1\r\n0\r\n", "*1\r\n-ERR x\r\n",
	"*7\r\n*0\r\n*0\r\n*0\r\n*0\r\n*0\r\n*0\r\n*0\r\n",
	"*1\r\n*3\r\n:0\r\n:4611686018427387904\r\n*2\r\n$0\r\n\r\n:0\r\n", "*1\r\n*2\r\n:5\r\n:3\r\n", "*1\r\n*2\r\n:0\r\n:16383\r\n", "*1\r\n*3\r\n:-7\r\n:16383\r\n*2\r\n$1\r\nx\r\n:1\r\n",
	"*1\r\n*6\r\n$3\r\nget\r\n:2\r\n*0\r\n:1\r\n:1\r\n:1\r\n", "*1\r\n*6\r\n*0\r\n*0\r\n*0\r\n*0\r\n*0\r\n*0\r\n",
	"*1\r\n$9\r\nsubscribe\r\n", "*2\r\n$9\r\nsubscribe\r\n*0\r\n", "*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n$1\r\nx\r\n", "*3\r\n$7\r\nmessage\r\n:1\r\n:1\r\n", "*2\r\n$7\r\nmessage\r\n$1\r\nx\r\n",
	"*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n*1\r\n:1\r\n", "*1\r\n$8\r\npmessage\r\n", "*1\r\n$4\r\npong\r\n", "*3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n$4\r\nmain\r\n",
	"-NOAUTH Authentication required.\r\n", "-LOADING\r\n", "-\r\n", "-MOVED\r\n", "-MOVED 1\r\n", "-MOVED 1 \r\n", "-MOVED x y z\r\n", "-ASK 1\r\n", "-ASK 1 :\r\n", "-NOSCRIPT\r\n", "-TRYAGAIN\r\n", "-CLUSTERDOWN\r\n", "-READONLY\r\n", "-CROSSSLOT\r\n",
	// Numbers and texts that look like lengths, and strings that contain replies.
	":4611686018427387904\r\n", "+4611686018427387904\r\n", ":2000000000\r\n", "$25\r\n*4611686018427387904\r\n*0\r\n\r\n", "*1\r\n$25\r\n*4611686018427387904\r\n*0\r\n\r\n",
	"$9999999999999\r\n", "$99999999999\r\n", "$9223372036854775806\r\n", "$9223372036854775808\r\n", "$-2\r\n", "$+3\r\nabc\r\n", "*4611686018427387904\r\n", "*9223372036854775807\r\n", "*2000000000\r\n", "*-2\r\n", "*2\r\n$1\r\nx\r\n*2000000000\r\n",
	strings.Repeat("*1\r\n", 100_000), "+" + strings.Repeat("x", 100_000), strings.Repeat("x", 100_000), "*3\r\n$1\r\nx\r\n$1048577\r\n",
	"%4611686018427387904\r\n", "%1\r\n*0\r\n+x\r\n", "~4611686018427387904\r\n", ">4611686018427387904\r\n", "|4611686018427387904\r\n", strings.Repeat("|0\r\n", 100_000), "=99999999999\r\n", "=1\r\nx\r\n", "!99999999999\r\n", "(1" + strings.Repeat("0", 100_000) + "\r\n", "_\r\n", "#x\r\n", ",x\r\n",
}

// No answer of a server, at any point of a conversation, is taken for "not
// revoked" or ends the process: a panic in a goroutine of the library would end
// this test.
func TestGarbage(t *testing.T) {
	t.Parallel()
	// say returns the answer before the garbage begins; "" is garbage.
	whole := "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n"
	begin := map[string]struct {
		say    func(addr string, command []string) string
		change func(*Config, string)
	}{
		"from the first word": {func(string, []string) string { return "" }, nil},
		"after a greeting":    {func(_ string, c []string) string { return greet(c) }, nil},
		"cluster's map":       {func(_ string, c []string) string { return greet(c) }, func(cfg *Config, _ string) { cfg.Cluster = true }},
		"cluster's keys": {func(addr string, c []string) string {
			if c[0] == "cluster" {
				host, port, _ := net.SplitHostPort(addr)
				return whole + bulk(host) + ":" + port + "\r\n"
			}
			return greet(c)
		}, func(cfg *Config, _ string) { cfg.Cluster = true }},
		"cluster's list of commands": {func(addr string, c []string) string {
			switch c[0] {
			case "cluster":
				host, port, _ := net.SplitHostPort(addr)
				return whole + bulk(host) + ":" + port + "\r\n"
			case "command":
				return ""
			}
			if hello := greet(c); hello != "" {
				return hello
			}
			return "$-1\r\n"
		}, func(cfg *Config, _ string) { cfg.Cluster = true }},
		"sentinel": {func(_ string, c []string) string { return greet(c) }, func(cfg *Config, _ string) { cfg.MasterName = "main" }},
		"sentinel's master": {func(addr string, c []string) string {
			if c[0] == "sentinel" {
				host, port, _ := net.SplitHostPort(addr)
				return "*2\r\n" + bulk(host) + bulk(port)
			}
			return greet(c)
		}, func(cfg *Config, _ string) { cfg.MasterName = "main" }},
	}
	for name, b := range begin {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, reply := range odd {
				var addr string
				ready := make(chan struct{})
				addr = lie(t, func(command []string) string {
					<-ready
					if good := b.say(addr, command); good != "" {
						return good
					}
					return reply
				})
				close(ready)
				r := open(t, func(c *Config, _ *Options) {
					c.Addrs, c.Timeout, c.DialTimeout = []string{addr}, 20*time.Millisecond, 50*time.Millisecond
					if b.change != nil {
						b.change(c, addr)
					}
				})
				ctx, cancel := context.WithCancel(t.Context())
				subscribed := make(chan struct{})
				go func() {
					defer close(subscribed)
					_ = r.Subscribe(ctx, func([]authz.Entry, bool) {})
				}()
				q := tokenOf("x", 1)
				calm := func(err error) {
					if err != nil {
						require.NotContains(t, err.Error(), "panic", "%.30q", reply)
					}
				}
				for range 3 {
					v, err := r.Lookup(ctx, &q)
					require.NotEqual(t, authz.NotRevoked, v, "%.30q", reply)
					calm(err)
				}
				published := r.Publish(ctx, []authz.Revocation{revocation(authz.KindJTI, "x", nil)})
				require.False(t, published && !strings.ContainsAny(reply[:1], "+:$*_#"), "%.30q", reply)
				calm(r.fill(ctx, fillJob{query: q, verdict: authz.NotRevoked}))
				calm(r.stepEpoch(ctx))
				_, err := r.Seen(ctx, "x", time.Second)
				calm(err)
				calm(r.probe(ctx))
				cancel()
				<-subscribed
				r.publisher.mu.Lock()
				clear(r.publisher.queue) // or Close would wait for it
				r.publisher.dropped = 0
				r.publisher.mu.Unlock()
				_ = r.Close()
			}
		})
	}
}

func counter(v *prometheus.CounterVec, label string) float64 {
	return testutil.ToFloat64(v.WithLabelValues(label))
}

// A loop that panics is started again.
func TestBackgroundWorkGoesOn(t *testing.T) {
	t.Parallel()
	r := open(t, at("127.0.0.1:1"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	runs := make(chan int)
	var n int
	r.run(ctx, func(ctx context.Context) {
		n++
		runs <- n
		if n == 1 {
			panic("a reply")
		}
		<-ctx.Done()
	})
	require.Equal(t, 1, <-runs)
	require.Equal(t, 2, <-runs)
	cancel()
	for range 5 {
		require.True(t, r.breaker.Ready())
		_, err := breaker.Do(t.Context(), r.breaker, func(context.Context) (authz.Verdict, error) { panic("evil") })
		require.ErrorContains(t, err, "panic")
		require.NotContains(t, err.Error(), "evil", "it may come from outside")
	}
	require.False(t, r.breaker.Ready(), "a panic counts as a failure")
}

func BenchmarkLookup(b *testing.B) {
	s := harness.Redis(b)
	r := open(b, at(s.Addr))
	q := tokenOf("x", 1)
	for b.Loop() {
		if _, err := r.Lookup(b.Context(), &q); err != nil {
			b.Fatal(err)
		}
	}
}
