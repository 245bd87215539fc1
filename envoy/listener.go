package envoy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Listen listens on the address of cfg. A Unix socket is created with mode 0660. It replaces a
// socket that a dead process left behind; a socket that is in use is an error.
func Listen(cfg ListenConfig) (net.Listener, error) {
	l, err := listen(cfg.GRPC)
	if err != nil {
		return nil, fmt.Errorf("listen.grpc: %w", err)
	}
	return l, nil
}

// listen listens on a TCP or Unix socket. Between bind and chmod the mode of a Unix socket depends
// on the umask, so until then only the permissions of the directory protect it.
func listen(addr string) (net.Listener, error) {
	network, address, err := splitAddress(addr)
	if err == nil && network == "unix" {
		err = removeStale(address)
	}
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), network, address)
	switch {
	case network == "unix" && errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w (the directory %s must exist)", err, filepath.Dir(address))
	case err != nil || network != "unix":
		return l, err
	}
	if err := os.Chmod(address, 0o660); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// removeStale removes the socket at path if no process listens on it.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is not a socket (%s); remove it or choose another path", path, info.Mode().Type())
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "unix", path)
	if err == nil {
		_ = conn.Close() // that it could be opened is enough
		return fmt.Errorf("%s is in use by a running process", path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("cannot determine whether %s is in use: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove stale socket: %w", err)
	}
	return nil
}
