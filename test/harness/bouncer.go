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
)

// BouncerServer is one `jwt-bouncer serve` process.
type BouncerServer struct {
	*Process
	GRPC   string // host:port, or unix:///path
	HTTP   string // http://host:port
	Config string // path of its configuration file

	options BouncerOptions
	dir     string
}

// BouncerOptions say how to start the product. The zero value listens on TCP
// and waits until it is ready.
type BouncerOptions struct {
	GRPC   string        // listen.grpc, such as unix:///path; empty: a free loopback port
	Env    []string      // NAME=value
	Args   []string      // after `serve --config FILE`
	Dir    string        // working directory (see Dir); empty: one of its own
	NoWait bool          // return as soon as the process runs: it may never get ready
	Plain  bool          // without the race detector even where the tests have it
	Clock  *Clock        // its wall clock; nil: the machine's. Implies Plain.
	Within time.Duration // ready within; 0: 30s
}

// Bouncer builds the product once per test process and runs `serve` with a
// configuration, to which it adds the listen stanza.
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
			fmt.Sprintf("listen:\n  grpc: %s\n  http: %s\n%s", b.GRPC, http, configYAML))
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

// Start brings an ended sidecar back with the same configuration and addresses.
func (b *BouncerServer) Start(t testing.TB) {
	t.Helper()
	if err := b.run(); err != nil {
		t.Fatal(err)
	}
}

// SetConfig replaces the configuration file (all but the listen stanza). The
// product sees a rename, as from an editor or a ConfigMap.
func (b *BouncerServer) SetConfig(t testing.TB, configYAML string) {
	t.Helper()
	text := fmt.Sprintf("listen:\n  grpc: %s\n  http: %s\n%s", b.GRPC, strings.TrimPrefix(b.HTTP, "http://"), configYAML)
	next := WriteFile(t, filepath.Dir(b.Config), "next.yaml", text)
	if err := os.Rename(next, b.Config); err != nil {
		t.Fatal(err)
	}
}

// Metrics returns the text of /metrics.
func (b *BouncerServer) Metrics(t testing.TB) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var text strings.Builder
	if err := get(ctx, b.HTTP+"/metrics", &text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// Live and Ready ask /livez and /readyz.
func (b *BouncerServer) Live(ctx context.Context) error { return get(ctx, b.HTTP+"/livez", io.Discard) }

// Ready asks /readyz.
func (b *BouncerServer) Ready(ctx context.Context) error {
	return get(ctx, b.HTTP+"/readyz", io.Discard)
}

// LimitFileSize sets the size in bytes up to which the process may write a
// file ("unlimited": any), which is what a full disk is to it.
func (b *BouncerServer) LimitFileSize(t testing.TB, size string) {
	t.Helper()
	// As the process's own user: raising the limit of another takes a
	// capability that root in a container may lack.
	cmd := exec.Command("prlimit", "--pid", strconv.Itoa(b.PID()), "--fsize="+size+":unlimited")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential()}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("prlimit: %v %s", err, out)
	}
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
		// A data race in the product fails the test through its exit code.
		env: env})
	if err != nil {
		return err
	}
	b.Process = p
	if b.options.NoWait {
		return nil
	}
	if err := p.await(cmp.Or(b.options.Within, 30*time.Second), b.Ready); err != nil {
		p.Kill()
		return err
	}
	return nil
}

// Result is how a command of the product ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs a command of the product to its end, as the user of the tests.
func Run(t testing.TB, stdin string, args ...string) Result {
	t.Helper()
	NeedsProcess(t)
	path, err := Binary(false)
	if err != nil {
		t.Fatal(err)
	}
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

// Binary builds the product, once per test process, and returns its path. With
// the race detector in the tests it is in the product too, unless plain.
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
