package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// nobody is whom the children run as when the tests run as root: PostgreSQL
// refuses root, and nothing else should have it.
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

// Dir returns a directory that the children can read and write, and that is
// removed after the test. (t.TempDir is closed to other users.)
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := newDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// WriteFile writes a file that the children can read into dir, and returns its
// path.
func WriteFile(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := give(path); err != nil {
		t.Fatal(err)
	}
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

// Port returns a loopback port that is free, and that no other user of this
// package gets before this process ends. It lies below the range the kernel
// takes for outgoing connections, so that a server can come back on it.
func Port(t testing.TB) int {
	t.Helper()
	p, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func freePort() (int, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("jwtb-ports-%d", os.Geteuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		// Held until this process ends; the file is not removed, because a lock
		// on a removed file excludes nobody.
		fd, err := syscall.Open(filepath.Join(dir, strconv.Itoa(port)), syscall.O_CREAT|syscall.O_RDWR|syscall.O_CLOEXEC, 0o600)
		if err != nil {
			return 0, fmt.Errorf("reserve a port: %w", err)
		}
		if syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			if err == nil {
				return port, l.Close()
			}
		}
		_ = syscall.Close(fd)
	}
	return 0, errors.New("no free loopback port in 1000 tries")
}

// Root is the directory of the module.
var Root = sync.OnceValue(func() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if b, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && strings.HasPrefix(string(b), "module jwtbouncer\n") {
			return dir
		}
	}
	panic("harness: not inside the module jwtbouncer")
})

// toolNeeded is the error for a server that is not there.
func toolNeeded(what string) error {
	return fmt.Errorf("%s is not installed: run `make tools` in %s", what, Root())
}

// find returns the path of a server: the first of the system's that is
// installed, else the one in .tools. Symbolic links of the system stay as they
// are: Debian's redis-server is a link to redis-check-rdb, which decides by its
// name what it is.
func find(what string, system []string, tools ...string) (string, error) {
	for _, name := range system {
		if p, err := exec.LookPath(name); err == nil {
			return p, nil
		}
	}
	for _, rel := range tools {
		p := filepath.Join(Root(), ".tools", rel)
		if _, err := os.Stat(p); err == nil {
			return reachable(p)
		}
	}
	return "", toolNeeded(what)
}

// reachable returns path, or that of a copy where the children may not reach
// path itself, such as under /root. The copy is of the whole installed package,
// because servers find their own files beside them; it is made once.
func reachable(path string) (string, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	if nobody() == nil || open(path) {
		return path, nil
	}
	copies.Lock()
	defer copies.Unlock()
	tools, err := filepath.EvalSymlinks(filepath.Join(Root(), ".tools"))
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(tools, path)
	if err != nil {
		return "", err
	}
	top := strings.SplitN(rel, "/", 2)[0]
	if copies.dir == "" {
		if copies.dir, err = newDir(); err != nil {
			return "", err
		}
	}
	for _, name := range []string{top, top + ".libs"} {
		from, to := filepath.Join(tools, name), filepath.Join(copies.dir, name)
		if _, err := os.Stat(to); err == nil {
			continue
		}
		if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			return "", err
		}
	}
	return filepath.Join(copies.dir, rel), nil
}

var copies struct {
	sync.Mutex
	dir string
}

// open reports whether everybody may execute path and pass through every
// directory above it.
func open(path string) bool {
	for p := path; ; p = filepath.Dir(p) {
		st, err := os.Stat(p)
		if err != nil || st.Mode().Perm()&0o001 == 0 {
			return false
		}
		if p == "/" {
			return true
		}
	}
}
