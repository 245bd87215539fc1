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
	outputFlag
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
	code, text, err := get(ctx, "http://"+net.JoinHostPort(host, port)+path)
	if err != nil {
		return fmt.Errorf("no answer from a sidecar: %w", err)
	}
	var body readiness
	_ = json.Unmarshal(text, &body) // another body has no status
	switch {
	case h.Live && code == http.StatusOK:
		body.Status = "alive"
	case body.Status == "":
		return fmt.Errorf("no answer from a sidecar: %s answered %d with something else", address, code)
	}
	if err := h.print(p, body, body.table); err != nil {
		return err
	}
	switch {
	case code != http.StatusOK:
		return ErrNo
	case h.Strict && body.Status == httpapi.StatusDegraded:
		return ErrDegraded
	}
	return nil
}

// get requests url, without a proxy from the environment.
func get(ctx context.Context, url string) (code int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err = io.ReadAll(io.LimitReader(res.Body, 64<<10))
	return res.StatusCode, body, err
}

// readiness is the response of /readyz.
type readiness struct {
	Status string `json:"status"`
	Parts  []struct {
		Name   string   `json:"name"`
		Ready  bool     `json:"ready"`
		State  string   `json:"state"`
		Reason string   `json:"reason,omitempty"`
		Age    *float64 `json:"age_seconds,omitempty"`
		Bound  float64  `json:"bound_seconds,omitempty"`
	} `json:"parts,omitempty"`
}

func (r readiness) table(w io.Writer) {
	fmt.Fprintln(w, r.Status)
	if len(r.Parts) == 0 {
		return
	}
	columns(w, func(w io.Writer) {
		fmt.Fprintln(w, "PART\tSTATE\tAGE\tBOUND\tREASON")
		for _, p := range r.Parts {
			age, bound := "never", "-"
			if p.Age != nil {
				age = seconds(*p.Age)
			}
			if p.Bound > 0 {
				bound = seconds(p.Bound)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", printable(p.Name), printable(p.State), age, bound, printable(p.Reason))
		}
	})
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(100 * time.Millisecond).String()
}
