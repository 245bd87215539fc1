package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A server that is installed as a symbolic link runs under the link's name, as
// Debian's redis-server has to: its target is redis-check-rdb, which chooses
// its behaviour by the name it was started under.
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
