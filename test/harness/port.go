package harness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Port returns a free loopback port and reserves it until this process ends.
// The port is below the kernel's range for outgoing connections, so a server
// can be restarted on it.
func Port(t testing.TB) int {
	t.Helper()
	p, err := freePort()
	require.NoError(t, err)
	return p
}

func freePort() (int, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("jwtb-ports-%d", os.Geteuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		// The lock is held until this process ends. The file stays, because a
		// lock on a removed file excludes no other process.
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
