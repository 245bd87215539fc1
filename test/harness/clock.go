package harness

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// Clock is a wall clock (CLOCK_REALTIME) that a test steps while processes use
// it. Their monotonic and boot-time clocks are unaffected, as when NTP steps
// the machine's clock. Redis and PostgreSQL read it through a preloaded
// library. The product is static and reads the kernel's clock directly, so it
// is built with a time.Now that adds the step and is otherwise unchanged.
type Clock struct {
	path string
	step *atomic.Int64 // nanoseconds; shared with the processes
}

// clockVariable names the file of the Clock to a process.
const clockVariable = "JWTB_TEST_CLOCK"

// NewClock returns a clock that shows the machine's time.
func NewClock(t testing.TB) *Clock {
	t.Helper()
	c := &Clock{path: WriteFile(t, Dir(t), "clock", strings.Repeat("\x00", 8))}
	f, err := os.OpenFile(c.path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	shared, err := syscall.Mmap(int(f.Fd()), 0, 8, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	require.NoError(t, err)
	t.Cleanup(func() { _ = syscall.Munmap(shared) })
	c.step = (*atomic.Int64)(unsafe.Pointer(&shared[0])) // page-aligned, and unmapped last
	return c
}

// Step sets the clock to the machine's time plus by. It replaces an earlier
// step; 0 removes it.
func (c *Clock) Step(by time.Duration) { c.step.Store(int64(by)) }

// Now returns the time that the clock shows.
func (c *Clock) Now() time.Time { return time.Now().Add(time.Duration(c.step.Load())) }

// env returns the environment in which a process sees the clock. A nil Clock is
// the machine's.
func (c *Clock) env() ([]string, error) {
	if c == nil {
		return nil, nil
	}
	library, err := clockLibrary()
	return []string{clockVariable + "=" + c.path, "LD_PRELOAD=" + library}, err
}

var (
	//go:embed testdata/clock.c
	clockSource string
	//go:embed testdata/clock.go.txt
	clockPackage string
)

// clockLibrary builds the library that is preloaded into servers written in C.
var clockLibrary = sync.OnceValues(func() (string, error) {
	dir, err := newDir()
	if err != nil {
		return "", err
	}
	atEnd(func() { _ = os.RemoveAll(dir) })
	library := filepath.Join(dir, "clock.so")
	cmd := exec.Command("cc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, "-xc", "-")
	cmd.Stdin = strings.NewReader(clockSource)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("the stepped clock needs a C compiler, as the race detector does: %w\n%s", err, out)
	}
	return library, os.Chmod(library, 0o755)
})

// clockBinary builds the product with a time.Now that a Clock steps.
var clockBinary = sync.OnceValues(func() (string, error) {
	dir, err := newDir()
	if err != nil {
		return "", err
	}
	atEnd(func() { _ = os.RemoveAll(dir) })
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	b, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	const read = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	text := strings.Replace(string(b), read, read+"\tsec, nsec = stepped(sec, nsec)\n", 1)
	if text == string(b) {
		return "", errors.New("time.Now does not begin as it did in Go 1.26: adapt test/harness/clock.go to " + runtime.Version())
	}
	overlay := map[string]string{}
	for name, text := range map[string]string{"time.go": text, "stepped.go": clockPackage} {
		replaced := filepath.Join(dir, name)
		if err := os.WriteFile(replaced, []byte(text), 0o600); err != nil {
			return "", err
		}
		overlay[filepath.Join(filepath.Dir(original), name)] = replaced
	}
	list, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, list, 0o600); err != nil {
		return "", err
	}
	return build("CGO_ENABLED=0", "-overlay", path)
})
