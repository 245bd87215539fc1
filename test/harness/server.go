package harness

import (
	"cmp"
	"context"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ServerOptions describes a server that the harness knows nothing else about.
type ServerOptions struct {
	Name string // of the process and its log
	Path string // of the binary
	Args []string
	Env  []string      // NAME=value
	Dir  string        // working directory and HOME (see Dir); empty means a new one
	Self bool          // run as the user who runs the tests, because others cannot read its files
	Stop time.Duration // how long it may take to end after SIGTERM; 0 means 5 s
	// Ready returns nil when the server can be used; a nil Ready does not wait.
	Ready  func(context.Context) error
	Within time.Duration // time to become ready; 0 means 60 s
}

// Server starts a server and waits until it is ready. It ends with the test.
func Server(t testing.TB, o ServerOptions) *Process {
	t.Helper()
	NeedsProcess(t)
	if o.Dir == "" {
		o.Dir = Dir(t)
	}
	p, err := start(command{name: o.Name, path: o.Path, args: o.Args, env: o.Env, dir: o.Dir, self: o.Self})
	require.NoError(t, err)
	t.Cleanup(func() { p.attach(t); p.Stop(syscall.SIGTERM, cmp.Or(o.Stop, 5*time.Second)) })
	if o.Ready != nil {
		require.NoError(t, p.await(cmp.Or(o.Within, 60*time.Second), o.Ready))
	}
	return p
}

// LivePath returns the path of a program that `make live-tools` builds.
func LivePath(t testing.TB, name string) string {
	t.Helper()
	NeedsProcess(t)
	path, err := find(name, nil, filepath.Join("live", "bin", name))
	require.NoErrorf(t, err, "`make live-tools` builds it")
	return path
}

// GetOK requests url and returns an error unless the status is 200.
func GetOK(ctx context.Context, url string) error { return get(ctx, url, io.Discard) }

// Get returns the body of url, and an error unless the status is 200.
func Get(ctx context.Context, url string) (string, error) {
	var b strings.Builder
	err := get(ctx, url, &b)
	return b.String(), err
}
