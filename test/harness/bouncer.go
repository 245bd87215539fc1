package harness

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BouncerServer is one `jwt-bouncer serve` process.
type BouncerServer struct {
	*Process
	GRPC   string // host:port, or unix:///path
	HTTP   string // http://host:port
	Config string // path of its configuration file

	options BouncerOptions
	dir     string
	front   *Front // the Envoy in which it runs; nil for a sidecar
}

// BouncerOptions configures how Bouncer starts the product. The zero value
// listens on TCP and waits until the product is ready.
type BouncerOptions struct {
	GRPC   string        // listen.grpc, such as unix:///path; empty means a free loopback port
	Env    []string      // NAME=value
	Args   []string      // after `serve --config FILE`
	Dir    string        // working directory (see Dir); empty means a new one
	NoWait bool          // return as soon as the process runs, ready or not
	Plain  bool          // build without the race detector even if the tests run with it
	Clock  *Clock        // wall clock of the process; nil means the machine's. Implies Plain.
	Within time.Duration // time to become ready; 0 means 30s
}

// readyTime is how long the product may take to become ready.
const readyTime = 30 * time.Second

// Bouncer builds the product, once per test process, and runs `serve` with the
// configuration and a listen stanza.
func Bouncer(t testing.TB, configYAML string, options ...BouncerOptions) *BouncerServer {
	t.Helper()
	NeedsProcess(t)
	b := &BouncerServer{Process: &Process{Name: "jwt-bouncer"}}
	if len(options) > 0 {
		b.options = options[0]
	}
	if b.dir = b.options.Dir; b.dir == "" {
		b.dir = Dir(t)
	}
	var err error
	for range 5 {
		http := "127.0.0.1:" + fmt.Sprint(Port(t))
		b.HTTP = "http://" + http
		if b.GRPC = b.options.GRPC; b.GRPC == "" {
			b.GRPC = "127.0.0.1:" + fmt.Sprint(Port(t))
		}
		b.Config = WriteFile(t, b.dir, fmt.Sprintf("config-%s.yaml", strings.ReplaceAll(http, ":", "-")),
			b.listen()+configYAML)
		if err = b.run(); err == nil {
			t.Cleanup(func() { b.attach(t); b.Process.Stop(syscall.SIGTERM, 12*time.Second) })
			return b
		}
		if b.exited == nil || !b.portTaken() {
			break
		}
	}
	t.Fatal(err)
	return nil
}

// Start restarts a sidecar that has ended, with the same configuration and
// addresses.
func (b *BouncerServer) Start(t testing.TB) {
	t.Helper()
	if b.front != nil {
		b.startModule(t)
		return
	}
	require.NoError(t, b.run())
}

// SetConfig replaces the configuration file except for its listen stanza. It
// renames a new file over the old one, as an editor or a ConfigMap does.
func (b *BouncerServer) SetConfig(t testing.TB, configYAML string) {
	t.Helper()
	next := WriteFile(t, filepath.Dir(b.Config), "next.yaml", b.listen()+configYAML)
	require.NoError(t, os.Rename(next, b.Config))
}

// Metrics returns the text of /metrics.
func (b *BouncerServer) Metrics(t testing.TB) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var text strings.Builder
	require.NoError(t, get(ctx, b.HTTP+"/metrics", &text))
	return text.String()
}

// Live requests /livez and returns an error unless the status is 200.
func (b *BouncerServer) Live(ctx context.Context) error { return get(ctx, b.HTTP+"/livez", io.Discard) }

// Ready requests /readyz and returns an error unless the status is 200.
func (b *BouncerServer) Ready(ctx context.Context) error {
	return get(ctx, b.HTTP+"/readyz", io.Discard)
}

// LimitFileSize limits the size in bytes of the files that the process writes
// ("unlimited" lifts the limit). To the process, this is a full disk.
func (b *BouncerServer) LimitFileSize(t testing.TB, size string) {
	t.Helper()
	// Run as the process's own user: raising another user's limit needs a
	// capability that root may lack in a container.
	cmd := exec.Command("prlimit", "--pid", strconv.Itoa(b.PID()), "--fsize="+size+":unlimited")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential()}
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "prlimit: %s", out)
}

func (b *BouncerServer) run() error {
	path, err := Binary(b.options.Plain)
	env := append([]string{"GORACE=halt_on_error=1 exitcode=66"}, b.options.Env...)
	if c := b.options.Clock; c != nil {
		path, err = clockBinary()
		env = append(env, clockVariable+"="+c.path)
	}
	if err != nil {
		return err
	}
	p, err := start(command{name: b.Name, path: path, dir: b.dir,
		args: append([]string{"serve", "--config", b.Config}, b.options.Args...),
		// A data race in the product fails the test through the exit code.
		env: env})
	if err != nil {
		return err
	}
	b.Process = p
	if b.options.NoWait {
		return nil
	}
	if err := p.await(cmp.Or(b.options.Within, readyTime), b.Ready); err != nil {
		p.Kill()
		return err
	}
	return nil
}

// Result is the output and the exit code of a command of the product.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs a command of the product to its end, as the user who runs the tests.
func Run(t testing.TB, stdin string, args ...string) Result {
	t.Helper()
	NeedsProcess(t)
	path, err := Binary(false)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("jwt-bouncer %s: %v", strings.Join(args, " "), err)
	}
	return Result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// Binary builds the product, once per test process, and returns its path. The
// product has the race detector if the tests have it, unless plain is set.
func Binary(plain bool) (string, error) {
	if plain || !raceEnabled {
		return plainBinary()
	}
	return raceBinary()
}

var (
	plainBinary = sync.OnceValues(func() (string, error) { return build("CGO_ENABLED=0") })
	raceBinary  = sync.OnceValues(func() (string, error) { return build("CGO_ENABLED=1", "-race") })
)

func build(cgo string, flags ...string) (string, error) {
	dir, err := newDir()
	if err != nil {
		return "", err
	}
	atEnd(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "jwt-bouncer")
	cmd := exec.Command("go", append(append([]string{"build", "-o", path}, flags...), ".")...)
	cmd.Dir = Root()
	cmd.Env = append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, os.Chmod(path, 0o755)
}
