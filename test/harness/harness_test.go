package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { Main(m) }

func TestPostgresFaults(t *testing.T) {
	t.Parallel()
	pg := OwnPostgres(t)
	pg.Exec(t, "create table t (n int)")
	c := pg.Connect(t)
	Eventually(t, 20*time.Second, "the session of Exec ends", func(ctx context.Context) error {
		var n int
		err := c.QueryRow(ctx, "select count(*) from pg_stat_activity where datname = current_database()").Scan(&n)
		if err == nil && n != 1 {
			err = fmt.Errorf("%d sessions", n)
		}
		return err
	})
	if n := pg.Terminate(t); n != 1 {
		t.Errorf("Terminate ended %d sessions, want 1", n)
	}
	assert.Error(t, c.Ping(t.Context()), "a terminated session still responds")

	c = pg.Connect(t)
	require.NoError(t, pg.Pause())
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, c.Ping(ctx), context.DeadlineExceeded, "a paused server responded")
	require.NoError(t, pg.Resume())

	standby := pg.Standby(t)
	pg.Exec(t, "insert into t values (1)")
	Eventually(t, 20*time.Second, "the standby receives the row", func(ctx context.Context) error {
		c := standby.Use(pg.Database).Connect(t)
		var n int
		if err := c.QueryRow(ctx, "select n from t").Scan(&n); err != nil {
			return err
		}
		return nil
	})
	pg.Crash()
	standby.Promote(t)
	standby.Use(pg.Database).Exec(t, "insert into t values (2)")

	standby.Crash()
	standby.Start(t)
	var n int
	err := standby.Use(pg.Database).Connect(t).QueryRow(t.Context(), "select count(*) from t").Scan(&n)
	if assert.NoErrorf(t, err, "%d rows after a crash", n) {
		assert.Equalf(t, 2, n, "%d rows after a crash, %v; want 2", n, err)
	}
}

func TestPostgresShared(t *testing.T) {
	t.Parallel()
	a, b := Postgres(t), Postgres(t)
	assert.Equalf(t, b.PID(), a.PID(), "want two databases in one server, got %s and %s", a.URL, b.URL)
	assert.NotEqualf(t, b.Database, a.Database, "want two databases in one server, got %s and %s", a.URL, b.URL)
}

func TestRedisRestartsEmpty(t *testing.T) {
	t.Parallel()
	r := Redis(t, "maxmemory", "8mb")
	r.Do(t, "SET", "k", "v")
	r.Stop()
	_, err := net.Dial("tcp", r.Addr)
	assert.Error(t, err, "a stopped server accepts connections")
	r.Start(t)
	got := r.Do(t, "GET", "k")
	assert.Truef(t, got == nil, "GET k = %v after a restart, want nil", got)
}

func TestRedisCluster(t *testing.T) {
	t.Parallel()
	c := RedisCluster(t, 3)
	cl := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs})
	defer cl.Close()
	for _, k := range []string{"a", "b", "c", "d", "e"} {
		assert.NoError(t, cl.Set(t.Context(), k, k, 0).Err())
	}
}

func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	g := Sentinel(t)
	g.Master.Stop()
	Eventually(t, 30*time.Second, "the replica is promoted", func(ctx context.Context) error {
		now, err := g.Current(ctx)
		if err == nil && now != g.Replica.Addr {
			err = errors.New("the master is still " + now)
		}
		return err
	})
}

func TestProxyFaults(t *testing.T) {
	t.Parallel()
	r := Redis(t)
	p := Proxy(t, r.Addr)
	c := redis.NewClient(&redis.Options{Addr: p.Addr, MaxRetries: -1, DialTimeout: time.Second, ReadTimeout: 300 * time.Millisecond, ContextTimeoutEnabled: true})
	defer c.Close()
	ping := func() error { return c.Ping(t.Context()).Err() }
	healthy := func() {
		t.Helper()
		p.Heal()
		Eventually(t, 5*time.Second, "a ping succeeds after healing", func(context.Context) error { return ping() })
	}
	healthy()
	for name, fault := range map[string]func(){
		"black hole": p.BlackHole, "responses lost": p.BlackHoleAnswers, "reset": p.Reset, "down": p.Down,
		"cut":     func() { p.Cut(2) },
		"latency": func() { p.Latency(time.Second) },
	} {
		fault()
		assert.Errorf(t, ping(), "%s: a ping succeeded", name)
		healthy()
	}
}

func TestEnvoy(t *testing.T) {
	t.Parallel()
	e := Envoy(t, `
static_resources:
  listeners:
  - name: front
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: hello}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
`)
	var body strings.Builder
	err := get(t.Context(), "http://"+e.Addr("front")+"/", &body)
	if assert.NoErrorf(t, err, "got %q", body.String()) {
		assert.Equalf(t, "hello", body.String(), "%v", err)
	}
	assert.Equal(t, int64(1), e.Stats(t, "front.downstream_rq_2xx")["http.front.downstream_rq_2xx"], "downstream_rq_2xx")
	assert.Error(t, ValidateEnvoy(t, "static_resources: {listenerz: []}"), "a misspelt key passed validation")
}

// When a test process is killed, its children end too.
func TestChildrenEndWithTheProcess(t *testing.T) {
	t.Parallel()
	NeedsProcess(t)
	if os.Getenv("HARNESS_VICTIM") != "" {
		r := Redis(t)
		pg := OwnPostgres(t)
		_, _ = io.WriteString(os.Stdout, "up "+r.Addr+" "+pg.Addr+"\n")
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildrenEndWithTheProcess$", "-test.v")
	cmd.Env = append(os.Environ(), "HARNESS_VICTIM=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var seen string
	for buf := make([]byte, 256); !strings.Contains(seen, "up ") || !strings.HasSuffix(seen, "\n"); {
		n, err := out.Read(buf)
		if seen += string(buf[:n]); err != nil {
			t.Fatal(err, seen)
		}
	}
	_ = cmd.Process.Signal(syscall.SIGKILL)
	_ = cmd.Wait()
	t.Cleanup(func() {
		left, _ := filepath.Glob(filepath.Join(os.TempDir(), fmt.Sprintf("jwtb-%d-*", cmd.Process.Pid)))
		for _, dir := range left {
			_ = os.RemoveAll(dir)
		}
	})
	_, addrs, _ := strings.Cut(strings.TrimSpace(seen), "up ")
	for _, addr := range strings.Fields(addrs) {
		Eventually(t, 10*time.Second, "server on "+addr+" ends", func(context.Context) error {
			if c, err := net.Dial("tcp", addr); err == nil {
				_ = c.Close()
				return errors.New("it still accepts connections")
			}
			return nil
		})
	}
}
