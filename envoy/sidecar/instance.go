package sidecar

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel/trace"

	"jwtbouncer/authz/httpapi"
	"jwtbouncer/envoy"
)

// instance is a running sidecar without its door, through which Envoy asks: what
// Serve and Embed have in common.
type instance struct {
	settings Settings
	process  Process
	log      *slog.Logger
	registry *prometheus.Registry
	provider trace.TracerProvider // nil: no tracing
	core     *core

	// Checks need the background loops, so these end last.
	loops    context.Context
	api      *http.Server // nil: HTTP is not served
	httpL    net.Listener
	draining chan struct{} // closed when the drain begins
	failed   chan error    // why a server has ended early

	group       sync.WaitGroup // of the goroutines that run starts
	watching    context.Context
	endWatching context.CancelFunc
	http        context.Context
	endHTTP     context.CancelFunc
	ends        []func() // in the order of their beginnings
}

// newInstance starts the background work. It needs no network. The caller calls
// close in the end, after end if run was called.
func newInstance(ctx context.Context, s Settings, p Process) (_ *instance, err error) {
	level, err := s.logLevel()
	if err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	i := &instance{
		settings: s, process: p, log: slog.New(slog.NewJSONHandler(p.Log, &slog.HandlerOptions{Level: level})),
		registry: prometheus.NewRegistry(), draining: make(chan struct{}), failed: make(chan error, 2),
	}
	defer func() {
		if err != nil {
			i.close()
		}
	}()
	i.onClose(PaceCollector())
	i.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo(p.Version))
	provider, endTracing, err := newTracing(ctx, s.Tracing, p.Version)
	if err != nil {
		return nil, err
	}
	i.provider = provider
	i.onClose(func() {
		flush, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_ = endTracing(flush) // spans that cannot be delivered now are lost
	})
	var endLoops context.CancelFunc
	i.loops, endLoops = context.WithCancel(ctx)
	i.watching, i.endWatching = context.WithCancel(ctx)
	i.http, i.endHTTP = context.WithCancel(ctx)
	i.onClose(func() { endLoops(); i.endWatching(); i.endHTTP() })
	if i.core, err = newCore(s, i.log, i.registry); err != nil {
		return nil, err
	}
	i.core.start(i.loops)
	i.onClose(func() {
		endLoops()
		if err := i.core.close(); err != nil {
			i.log.Warn("closing", "error", err)
		}
	})
	return i, nil
}

func (i *instance) onClose(f func()) { i.ends = append(i.ends, f) }

// close ends the parts in the reverse order of their beginnings.
func (i *instance) close() {
	for n := len(i.ends) - 1; n >= 0; n-- {
		i.ends[n]()
	}
}

// envoyConfig returns the configuration of the service that Envoy asks.
func (i *instance) envoyConfig() envoy.Config {
	s := i.settings
	return envoy.Config{Listen: s.Listen.ListenConfig, Headers: s.Headers, Replies: s.replies(), DecisionLog: s.DecisionLog}
}

// envoyOptions returns the dependencies of the service that Envoy asks.
func (i *instance) envoyOptions() envoy.Options {
	return envoy.Options{Logger: i.log, Registerer: i.registry, Issuers: i.settings.RevocableIssuers(), TracerProvider: i.provider}
}

// receive opens the HTTP port, if there is one, and polls the event streams.
func (i *instance) receive() (err error) {
	s, c := i.settings, i.core
	if s.Listen.HTTP != "" {
		i.api, i.httpL, err = newHTTPServer(i.loops, s, c, i.draining, i.log, i.registry)
		return err
	}
	if len(s.EventStreams) == 0 {
		return nil
	}
	signals, err := newSignals(s, c.events, nil, c.revoker, i.log, i.registry)
	if err != nil {
		return err
	}
	c.poll(i.loops, signals)
	return nil
}

// run serves HTTP, reports readiness to setReady, and reloads the routes when the
// file changes, and at each wake.
func (i *instance) run(setReady func(bool), wake <-chan os.Signal) {
	if i.api != nil {
		i.group.Go(func() {
			if err := httpapi.Serve(i.http, i.api, i.httpL, time.Second); err != nil {
				i.failed <- fmt.Errorf("http: %w", err)
			}
		})
	}
	i.group.Go(func() {
		i.core.loop(i.watching, "readiness", func(ctx context.Context) error { return watchReadiness(ctx, i.core, setReady, i.log) })
	})
	if i.process.File != "" {
		i.group.Go(func() {
			i.core.loop(i.watching, "configuration file", func(ctx context.Context) error {
				return watchFile(ctx, i.process.File, i.settings.text, 2*time.Second, wake, func() { i.core.reload(i.settings, i.process.Reload, i.log) })
			})
		})
	}
}

// reportFailure logs why a server has ended early. The decisions do without it.
func (i *instance) reportFailure() {
	select {
	case err := <-i.failed:
		i.log.Error("a server has ended; the decisions go on", "error", err)
	case <-i.http.Done():
	}
}

// drain makes /readyz report not ready and reloads nothing any more.
func (i *instance) drain() {
	i.endWatching()
	close(i.draining)
}

// end ends the HTTP port and waits for what run has started.
func (i *instance) end() {
	i.endHTTP()
	i.group.Wait()
}
