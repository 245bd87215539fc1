package console

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

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
