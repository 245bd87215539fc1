package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

type healthCmd struct {
	Address string        `placeholder:"ADDR" help:"host:port of the sidecar's HTTP port; default: listen.http."`
	Live    bool          `help:"Ask whether it lives, not whether it is ready."`
	Timeout time.Duration `default:"3s" help:"Longest wait."`
}

// Run implements the command.
func (h *healthCmd) Run(ctx context.Context, c *command, io *Process) error {
	if h.Address == "" {
		s, err := c.settings(io)
		if err != nil {
			return err
		}
		if h.Address = s.Listen.HTTP; h.Address == "" {
			return usageError{errors.New("listen.http is empty, so the sidecar serves no HTTP and cannot be asked; set it, or name the HTTP port of a sidecar with --address")}
		}
	} else if _, _, err := net.SplitHostPort(h.Address); err != nil {
		return usageError{fmt.Errorf("--address %q: host:port is needed, such as 127.0.0.1:9192", h.Address)}
	}
	path := "/readyz"
	if h.Live {
		path = "/livez"
	}
	well, err := Printer{Out: io.Out, Err: io.Err}.Health(ctx, h.Address, path, h.Timeout)
	if err == nil && !well {
		return ErrNo
	}
	return err
}

// Health asks the sidecar at address (host:port) for path and prints what it
// says. The error says that there was no answer.
func (p Printer) Health(ctx context.Context, address, path string, timeout time.Duration) (well bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false, fmt.Errorf("%q: host:port is needed: %w", address, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // what listens on every address listens here
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+path, nil)
	if err != nil {
		return false, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, fmt.Errorf("no answer from a sidecar: %w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return false, err
	}
	fmt.Fprintf(p.Out, "%s\n%s\n", res.Status, text)
	return res.StatusCode == http.StatusOK, nil
}
