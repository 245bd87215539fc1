package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// Root returns the directory of the module.
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

// toolNeeded returns the error for a server that is not installed.
func toolNeeded(what string) error {
	return fmt.Errorf("%s is not installed: run `make tools` in %s", what, Root())
}

// find returns the path of a server: the first of the system's names that is
// installed, else the one in .tools. It does not resolve the system's symbolic
// links: Debian's redis-server is a link to redis-check-rdb, which becomes the
// server only under that name.
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

// reachable returns path, or the path of a copy if child processes cannot reach
// path itself, for example below /root. It copies the whole installed package,
// because servers find their files beside their binary, and does so once.
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

// open reports whether every user may execute path and traverse the directories
// above it.
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
