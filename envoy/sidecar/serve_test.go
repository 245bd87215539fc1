package sidecar

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// logged is a log that can be read while it is written.
type logged struct{ lines chan string }

func (l logged) Write(p []byte) (int, error) {
	l.lines <- string(p)
	return len(p), nil
}

// A change of the file between its first reading and the start of the watch counts.
func TestFileChangesWhileStarting(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yaml")
	common := "listen: {grpc: 'unix://" + dir + "/s', http: ''}\nissuers: [{issuer: https://issuer.example, audiences: [api], jwks: " + dir + "/none.json}]\nstore: sqlite://" + dir + "/r.db\n"
	write := func(routes string) {
		t.Helper()
		require.NoError(t, os.WriteFile(file, []byte(common+routes), 0o600))
	}
	write("routes: [{name: open, public: true}]\n")
	load := func() (Settings, error) { return Load(file, nil) }
	s, err := load()
	require.NoError(t, err)
	write("routes: []\n") // every path needs a token
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	log := logged{make(chan string, 1000)}
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, s, Process{Version: "test", Log: log, File: file, Reload: load}) }()
	for reloaded := false; !reloaded; {
		select {
		case line := <-log.lines:
			reloaded = strings.Contains(line, "routes reloaded")
		case <-ctx.Done():
			t.Error("the old routes are still in force")
			reloaded = true
		}
	}
	stop()
	assert.NoError(t, <-ended)
}
