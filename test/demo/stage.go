package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"jwtbouncer/envoy"
)

// options of a demonstration.
type options struct {
	binary string    // the jwt-bouncer binary to run as the sidecar
	envoy  string    // the envoy binary
	keep   bool      // leave everything running until ctx ends
	out    io.Writer // the transcript
}

// run starts the parts, prints commands to copy, executes them itself, and stops
// the parts again. Any answer other than the promised one is an error.
func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "jwt-bouncer-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := &stage{options: o, dir: dir}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := s.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // interrupted: not a failure
		}
		return err
	}
	if err := s.play(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if !o.keep {
		s.say("\nDone. `make demo KEEP=1` leaves it running.")
		return nil
	}
	s.say("\nEverything is still running; Ctrl-C ends it. Logs: %s", dir)
	<-ctx.Done()
	s.say("\nStopping.")
	return nil
}

// stage is the running demonstration.
type stage struct {
	options
	dir                      string
	stops                    []func() error
	ended                    atomic.Bool // a child has ended
	envoyURL, apiURL, issuer string
	client                   http.Client
}

func (s *stage) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

// start brings up issuer, upstream, sidecar and Envoy, and waits until a
// request comes through all of them.
func (s *stage) start(ctx context.Context) error {
	issuerL, err := listen(ctx, "127.0.0.1:9000")
	if err != nil {
		return err
	}
	s.issuer = "http://" + issuerL.Addr().String()
	s.serve(issuerL, newIssuer(s.issuer))
	upstreamL, err := listen(ctx, "127.0.0.1:9001")
	if err != nil {
		return err
	}
	s.serve(upstreamL, upstream())
	grpcAddr, err := freeAddr(ctx, "127.0.0.1:9191")
	if err != nil {
		return err
	}
	httpAddr, err := freeAddr(ctx, "127.0.0.1:9192")
	if err != nil {
		return err
	}
	frontAddr, err := freeAddr(ctx, "127.0.0.1:10000")
	if err != nil {
		return err
	}
	s.envoyURL, s.apiURL = "http://"+frontAddr, "http://"+httpAddr

	config := filepath.Join(s.dir, "jwt-bouncer.yaml")
	if err := os.WriteFile(config, sidecarConfig(s.issuer, grpcAddr, httpAddr, filepath.Join(s.dir, "revocations.db")), 0o600); err != nil {
		return err
	}
	if err := s.spawn(ctx, "sidecar", s.binary, "--config", config, "serve"); err != nil {
		return err
	}
	envoyYAML, err := envoy.SampleConfig(envoy.Sample{Listen: frontAddr, Service: grpcAddr, Upstream: upstreamL.Addr().String()})
	if err != nil {
		return err
	}
	front := filepath.Join(s.dir, "envoy.yaml")
	if err := os.WriteFile(front, []byte(envoyYAML), 0o600); err != nil {
		return err
	}
	if err := s.spawn(ctx, "envoy", s.envoy, "-c", front, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"); err != nil {
		return err
	}
	s.say("issuer    %s   (GET /token mints a token)", s.issuer)
	s.say("upstream  http://%s   (answers with the headers it got)", upstreamL.Addr())
	s.say("sidecar   grpc %s, http %s, revocations in SQLite", grpcAddr, s.apiURL)
	s.say("envoy     %s", s.envoyURL)
	if err := s.await(ctx, s.apiURL+"/readyz", http.StatusOK); err != nil {
		return err
	}
	return s.await(ctx, s.envoyURL+"/public", http.StatusUnauthorized)
}

// await polls url until it answers with status. If that takes more than 30 s or a
// part ends meanwhile, the error contains the logs.
func (s *stage) await(ctx context.Context, url string, status int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last := "no answer"
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if res, err := s.client.Do(req); err == nil {
			text, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
			_ = res.Body.Close()
			if res.StatusCode == status && !s.ended.Load() {
				return nil
			}
			last = fmt.Sprintf("%s %s", res.Status, text)
		}
		if s.ended.Load() {
			return fmt.Errorf("a part ended during startup; is one of its ports in use?\n%s", s.logs())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s did not become ready: %s\n%s", url, last, s.logs())
		case <-tick.C:
		}
	}
}

func (s *stage) logs() string {
	var b strings.Builder
	for _, name := range []string{"sidecar", "envoy"} {
		text, err := os.ReadFile(filepath.Join(s.dir, name+".log"))
		if err == nil && len(text) > 0 {
			fmt.Fprintf(&b, "--- %s\n%s\n", name, text[max(0, len(text)-4000):])
		}
	}
	return b.String()
}

func (s *stage) serve(l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ErrServerClosed after Close
	}()
	s.stops = append(s.stops, func() error {
		err := srv.Close()
		<-done
		return err
	})
}

// stop ends the parts in reverse order of their start.
func (s *stage) stop() error {
	var errs []error
	for i := len(s.stops) - 1; i >= 0; i-- {
		errs = append(errs, s.stops[i]())
	}
	s.client.CloseIdleConnections()
	return errors.Join(errs...)
}

// listen listens on the preferred address, or on any free port if it is in use.
func listen(ctx context.Context, preferred string) (net.Listener, error) {
	var lc net.ListenConfig
	if l, err := lc.Listen(ctx, "tcp", preferred); err == nil {
		return l, nil
	}
	return lc.Listen(ctx, "tcp", "127.0.0.1:0")
}

func freeAddr(ctx context.Context, preferred string) (string, error) {
	l, err := listen(ctx, preferred)
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func sidecarConfig(issuer, grpcAddr, httpAddr, db string) []byte {
	// JSON is YAML, and its encoder quotes the values.
	doc := map[string]any{
		"listen":  map[string]any{"grpc": grpcAddr, "http": httpAddr},
		"issuers": []any{map[string]any{"issuer": issuer, "audiences": []string{"demo"}, "jwks": issuer + "/jwks.json"}},
		"store":   "sqlite://" + db,
		"headers": map[string]any{"claims": map[string]string{"x-jwt-sub": "sub", "x-jwt-iss": "iss"}},
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		panic(err) // strings only: cannot fail
	}
	return text
}

// serve serves h on addr until ctx ends.
func serve(ctx context.Context, addr string, h http.Handler) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
