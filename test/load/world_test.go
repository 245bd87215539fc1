package load

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/authztest"
	"jwtbouncer/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// world holds what the servers under load share.
type world struct {
	dir    string
	bin    string // directory of the baseline binary
	issuer *authztest.Issuer
	jwks   string // file

	redis    *harness.RedisServer // nil until needed
	postgres *harness.PG          // nil until needed
}

func newWorld(t testing.TB) *world {
	t.Helper()
	harness.NeedsProcess(t)
	w := &world{dir: harness.Dir(t), bin: t.TempDir()}
	w.issuer = authztest.NewIssuer(authztest.Offline(), authztest.Named("https://issuer.example.com"), authztest.Algorithms("RS256", "ES256", "EdDSA"))
	w.jwks = harness.WriteFile(t, w.dir, "jwks.json", string(w.issuer.JWKS()))
	return w
}

// checks mints n tokens, each with a jti of its own ("PREFIX-i") and one of 500
// subjects, and returns a check for each token.
func (w *world) checks(alg, prefix string, n int) []Check {
	return w.checksAs(Wire, alg, prefix, n)
}

// checksAs is checks with the encoding of a request with a token.
func (w *world) checksAs(wire func(token string) []byte, alg, prefix string, n int) []Check {
	checks := make([]Check, n)
	var group sync.WaitGroup
	for part := range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for i := part; i < n; i += runtime.GOMAXPROCS(0) {
				checks[i] = Check{Wire: wire(w.token(alg, fmt.Sprintf("%s-%d", prefix, i), i)), Allow: true}
			}
		})
	}
	group.Wait()
	return checks
}

// token mints a token, which has about 760 bytes with RS256.
func (w *world) token(alg, jti string, i int) string {
	return w.issuer.Mint(map[string]any{
		"jti": jti, "sub": fmt.Sprintf("user-%d", i%500), "email": fmt.Sprintf("user-%d@shop.example.com", i%500),
		"scope": "openid profile orders:read orders:write", "azp": "web-shop", "roles": []string{"customer", "beta"},
	}, authztest.Alg(alg), authztest.Lifetime(2*time.Hour))
}

// tuned starts a baseline whose collector is paced and whose gRPC server is set up
// as the product's.
func (w *world) tuned(t testing.TB, kind string) *server {
	t.Helper()
	return w.baseline(t, kind, "-tuned")
}

// server is a server under load.
type server struct {
	name   string
	target string
	pid    int
	http   string // HTTP address of the product
	stop   func() // ends the product before the end of the test
}

func (s *server) driver(t testing.TB, connections int) *Driver {
	t.Helper()
	d, err := NewDriver(s.target, connections)
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// baseline starts a server of package baseline. more are further arguments.
func (w *world) baseline(t testing.TB, kind string, more ...string) *server {
	t.Helper()
	path := filepath.Join(w.bin, "baseline")
	if _, err := os.Stat(path); err != nil {
		cmd := exec.Command("go", "build", "-o", path, "./baseline")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		require.NoErrorf(t, err, "go build\n%s", out)
	}
	args := append([]string{"-kind", kind, "-jwks", w.jwks}, more...)
	switch kind {
	case "redis":
		args = append(args, "-redis", w.needRedis(t).URL)
	case "postgres":
		pg := w.needPostgres(t)
		pg.Exec(t, "create table if not exists revoked_tokens (jti text primary key)")
		args = append(args, "-postgres", pg.URL)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin"} // no GOGC and no GOMEMLIMIT, as for the product
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = in.Close(); _, _ = io.Copy(io.Discard, out); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoErrorf(t, err, "baseline %s", kind)
	return &server{name: kind, target: strings.TrimSpace(line), pid: cmd.Process.Pid}
}

func (w *world) needRedis(t testing.TB) *harness.RedisServer {
	if w.redis == nil {
		w.redis = harness.Redis(t)
	}
	return w.redis
}

func (w *world) needPostgres(t testing.TB) *harness.PG {
	if w.postgres == nil {
		w.postgres = harness.Postgres(t)
	}
	return w.postgres
}

// product starts the real binary. store and redis are as in its configuration;
// empty means SQLite and no Redis. more is further configuration.
func (w *world) product(t testing.TB, store, redis, more string) *server {
	t.Helper()
	return w.productAt(t, "", store, redis, more)
}

// productAt is product with a gRPC address, such as a Unix socket in a directory
// made by harness.Dir.
func (w *world) productAt(t testing.TB, grpc, store, redis, more string) *server {
	t.Helper()
	return w.start(t, grpc, store, redis, "", more)
}

// productWith starts the product with further issuers before the checks' issuer.
func (w *world) productWith(t testing.TB, issuers string) *server {
	t.Helper()
	return w.start(t, "", "", "", issuers, "")
}

func (w *world) start(t testing.TB, grpc, store, redis, issuers, more string) *server {
	t.Helper()
	dir := harness.Dir(t)
	if store == "" {
		store = "sqlite://" + filepath.Join(dir, "revocations.db")
	}
	config := fmt.Sprintf("issuers:\n%s- {issuer: https://issuer.example.com, audiences: [api], jwks: %s}\nstore: %q\n", issuers, w.jwks, store)
	if redis != "" {
		config += fmt.Sprintf("redis: %q\n", redis)
	}
	b := harness.Bouncer(t, config+more, harness.BouncerOptions{Plain: true, Dir: dir, GRPC: grpc, Within: 5 * time.Minute})
	return &server{
		name: "product", target: b.GRPC, pid: b.PID(), http: b.HTTP,
		stop: func() { b.Process.Stop(syscall.SIGTERM, 12*time.Second) },
	}
}
