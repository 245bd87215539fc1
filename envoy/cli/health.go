package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"jwtbouncer/authz/httpapi"
)

type healthCmd struct {
	Address string        `placeholder:"ADDR" help:"host:port of the sidecar's HTTP listener; default: listen.http."`
	Live    bool          `help:"Ask whether the sidecar is alive, not whether it is ready."`
	Strict  bool          `help:"Exit with code 6 if the sidecar is ready, but degraded: a part of it, such as the store, does not work. Not for probes."`
	Timeout time.Duration `default:"3s" help:"Longest time to wait for the answer."`
}

// Run implements the command.
func (h *healthCmd) Run(ctx context.Context, c *command, p *Process) error {
	address := h.Address
	if address == "" {
		s, err := c.settings(p)
		if err != nil {
			return err
		}
		if address = s.Listen.HTTP; address == "" {
			return usage(errors.New("listen.http is empty, so the sidecar does not serve HTTP; set it, or name the HTTP listener of a sidecar with --address"))
		}
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return usage(fmt.Errorf("--address %q: host:port is needed, such as 127.0.0.1:9192", address))
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // a listener on all addresses listens here too
	}
	path := "/readyz"
	if h.Live {
		path = "/livez"
	}
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+path, nil)
	if err != nil {
		return err
	}
	// Unlike http.DefaultClient, no proxy from the environment.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("no answer from a sidecar: %w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return err
	}
	fmt.Fprintf(p.Out, "%s\n%s\n", res.Status, text)
	var body struct {
		Status string `json:"status"`
	}
	switch _ = json.Unmarshal(text, &body); { // /livez answers with text
	case res.StatusCode != http.StatusOK:
		return ErrNo
	case h.Strict && body.Status == httpapi.StatusDegraded:
		return ErrDegraded
	}
	return nil
}
