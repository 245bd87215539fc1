package harness

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// EnvoyServer is one Envoy process.
type EnvoyServer struct {
	*Process
	Admin string // host:port

	listeners map[string]string
}

// EnvoyOptions configures how Envoy starts. The zero value is the Envoy of the tests
// with an empty environment.
type EnvoyOptions struct {
	Binary string   // path; empty means EnvoyPath
	Env    []string // NAME=value
	// Workers is the number of worker threads; 0 means 2.
	Workers int
}

// Envoy starts Envoy with a bootstrap configuration and adds an admin listener.
// Listeners should have port_value 0; Addr returns their addresses.
func Envoy(t testing.TB, configYAML string, options ...EnvoyOptions) *EnvoyServer {
	t.Helper()
	NeedsProcess(t)
	e, err := TryEnvoy(t, configYAML, options...)
	require.NoError(t, err)
	return e
}

// Addr returns host:port of the named listener; "" means the only one.
func (e *EnvoyServer) Addr(name string) string {
	if name == "" && len(e.listeners) == 1 {
		for _, a := range e.listeners {
			return a
		}
	}
	a, ok := e.listeners[name]
	if !ok {
		panic(fmt.Sprintf("harness: Envoy has no listener %q but %v", name, e.listeners))
	}
	return a
}

// Stats returns Envoy's counters and gauges whose name contains filter.
func (e *EnvoyServer) Stats(t testing.TB, filter string) map[string]int64 {
	t.Helper()
	var body struct {
		Stats []struct {
			Name  string
			Value *int64
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	require.NoError(t, getJSON(ctx, "http://"+e.Admin+"/stats?format=json&filter="+filter, &body))
	all := map[string]int64{}
	for _, s := range body.Stats {
		if s.Value != nil {
			all[s.Name] = *s.Value
		}
	}
	return all
}

// ValidateEnvoy runs `envoy --mode validate` on a bootstrap configuration.
func ValidateEnvoy(t testing.TB, configYAML string, options ...EnvoyOptions) error {
	t.Helper()
	NeedsProcess(t)
	dir := Dir(t)
	path, env, err := envoyCommand(options)
	require.NoError(t, err)
	p, err := start(command{name: "envoy-validate", path: path, dir: dir, env: env,
		args: []string{"--mode", "validate", "-c", WriteFile(t, dir, "envoy.yaml", configYAML), "-l", "warn"}})
	require.NoError(t, err)
	defer p.Kill()
	code, err := p.ExitCode(30 * time.Second)
	if err == nil && code != 0 {
		err = errors.New(p.tail())
	}
	return err
}

// EnvoyPath returns the path of the Envoy binary.
func EnvoyPath() (string, error) { return envoyPath() }

func envoyPath() (string, error) { return find("Envoy", []string{"envoy"}, "envoy/_bin/envoy") }

func envoyCommand(options []EnvoyOptions) (path string, env []string, err error) {
	var o EnvoyOptions
	if len(options) > 0 {
		o = options[0]
	}
	if o.Binary != "" {
		return o.Binary, o.Env, nil
	}
	// In a run through the module, its Envoy is that of every test: so they compare doors,
	// not versions of Envoy.
	if path = os.Getenv("JWT_BOUNCER_MODULE_ENVOY"); path != "" && ThroughModule() {
		path, err = reachable(path)
		return path, o.Env, err
	}
	path, err = envoyPath()
	return path, o.Env, err
}

// TryEnvoy is Envoy for a configuration that Envoy may refuse. The error has the end of
// Envoy's log then.
func TryEnvoy(t testing.TB, configYAML string, options ...EnvoyOptions) (*EnvoyServer, error) {
	t.Helper()
	NeedsProcess(t)
	path, env, err := envoyCommand(options)
	if err != nil {
		return nil, err
	}
	workers := 2
	if len(options) > 0 {
		workers = cmp.Or(options[0].Workers, workers)
	}
	dir := Dir(t)
	adminFile := dir + "/admin"
	p, err := start(command{name: "envoy", path: path, dir: dir, env: env, args: []string{
		"-c", WriteFile(t, dir, "envoy.yaml", configYAML),
		"--config-yaml", "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}",
		"--admin-address-path", adminFile, "--use-dynamic-base-id", "--disable-hot-restart",
		"--concurrency", strconv.Itoa(workers), "-l", "warn",
	}})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { p.attach(t); p.Stop(syscall.SIGTERM, 5*time.Second) })
	e := &EnvoyServer{Process: p, listeners: map[string]string{}}
	patience := 30 * time.Second
	if ModuleForARM64() {
		patience = 5 * time.Minute // QEMU
	}
	err = p.await(patience, func(ctx context.Context) error {
		b, err := os.ReadFile(adminFile)
		if err != nil {
			return err
		}
		e.Admin = strings.TrimSpace(string(b))
		return get(ctx, "http://"+e.Admin+"/ready", io.Discard)
	})
	if err != nil {
		return nil, err
	}
	var body struct {
		Statuses []struct {
			Name    string
			Address struct {
				Socket struct {
					Address string
					Port    int `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := getJSON(ctx, "http://"+e.Admin+"/listeners?format=json", &body); err != nil {
		return nil, err
	}
	for _, l := range body.Statuses {
		host := l.Address.Socket.Address
		if host == "0.0.0.0" {
			host = "127.0.0.1"
		}
		e.listeners[l.Name] = fmt.Sprintf("%s:%d", host, l.Address.Socket.Port)
	}
	return e, nil
}

// plain is the client for the servers' admin endpoints. It keeps no connection
// alive, so no goroutine outlives a test.
var plain = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}

func getJSON(ctx context.Context, url string, into any) error {
	var b strings.Builder
	if err := get(ctx, url, &b); err != nil {
		return err
	}
	return json.Unmarshal([]byte(b.String()), into)
}

func get(ctx context.Context, url string, to io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := plain.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(to, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}
