package harness

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// nobody returns the user that child processes run as when the tests run as
// root, else nil. PostgreSQL refuses to run as root, and no other child needs
// it.
var nobody = sync.OnceValue(func() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	c := &syscall.Credential{Uid: 65534, Gid: 65534}
	if u, err := user.Lookup("nobody"); err == nil {
		uid, _ := strconv.ParseUint(u.Uid, 10, 32)
		gid, _ := strconv.ParseUint(u.Gid, 10, 32)
		c.Uid, c.Gid = uint32(uid), uint32(gid)
	}
	return c
})

func credential() *syscall.Credential { return nobody() }

// Dir returns a directory that child processes can read and write. It is
// removed after the test. (Other users cannot access t.TempDir.)
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := newDir()
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// WriteFile writes a file into dir that child processes can read, and returns
// its path.
func WriteFile(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	require.NoError(t, give(path))
	return path
}

func newDir() (string, error) {
	sweep()
	dir, err := os.MkdirTemp("", fmt.Sprintf("jwtb-%d-", os.Getpid()))
	if err != nil {
		return "", err
	}
	return dir, give(dir)
}

func give(path string) error {
	if c := nobody(); c != nil {
		return os.Chown(path, int(c.Uid), int(c.Gid))
	}
	return nil
}

// sweep removes the directories of test processes that were killed.
var sweep = sync.OnceFunc(func() {
	old, _ := filepath.Glob(filepath.Join(os.TempDir(), "jwtb-[0-9]*-*"))
	for _, dir := range old {
		pid, err := strconv.Atoi(strings.SplitN(filepath.Base(dir), "-", 3)[1])
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(dir)
		}
	}
})
