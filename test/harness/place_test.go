package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A server that is installed as a link runs under the link's name: Debian's
// redis-server is a link to redis-check-rdb, which acts by the name it is
// started as.
func TestFindKeepsLinks(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "redis-check-rdb")
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\n[ \"${0##*/}\" = redis-server ]\n"), 0o700))
	require.NoError(t, os.Symlink(program, filepath.Join(dir, "redis-server")))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))

	path, err := find("Redis", []string{"redis-server"})
	require.NoError(t, err)
	require.NoError(t, exec.Command(path).Run(), "%s does not run as redis-server", path)
}
