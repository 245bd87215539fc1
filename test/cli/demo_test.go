package cli

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// demo returns the command of the demonstration, which ends with the test at the
// latest.
func demo(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	harness.NeedsProcess(t)
	binary, err := harness.Binary(false)
	require.NoError(t, err)
	program := filepath.Join(t.TempDir(), "demo")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./test/demo")
	build.Dir = harness.Root()
	out, err := build.CombinedOutput()
	require.NoErrorf(t, err, "go build./test/demo\n%s", out)
	envoy, err := harness.EnvoyPath()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, append([]string{"--binary", binary, "--envoy", envoy}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.Env = []string{"PATH=/usr/bin:/bin", "TMPDIR=" + t.TempDir()}
	return cmd
}

// Not parallel: two demonstrations would use the same ports.
func TestDemo(t *testing.T) {
	out, err := demo(t).CombinedOutput()
	require.NoErrorf(t, err, "%v\n%s", err, out)
	for _, want := range []string{"→ 200; upstream saw x-jwt-sub: alice", `→ 401 Bearer realm="jwt-bouncer"` + "\n", `error="invalid_token"`, "→ 201 {", "ms after the revocation was acknowledged"} {
		assert.Containsf(t, string(out), want, "missing %q in\n%s", want, out)
	}
}

// Ctrl-C ends everything that the demo has started.
func TestDemoKeepEndsOnInterrupt(t *testing.T) {
	cmd := demo(t, "--keep")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	var front string
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) > 1 && f[0] == "envoy" {
			front = f[1]
		}
		if strings.Contains(lines.Text(), "Everything is still running") {
			break
		}
	}
	if front == "" {
		t.Fatalf("no envoy line: %v %s", lines.Err(), stderr.String())
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	for lines.Scan() { // until the end, so that Wait can close the pipe
	}
	err = cmd.Wait()
	assert.NoErrorf(t, err, "ended with %v\n%s", err, stderr.String())
	if c, err := net.Dial("tcp", strings.TrimPrefix(front, "http://")); err == nil {
		_ = c.Close()
		t.Errorf("envoy still listens at %s", front)
	}
}
