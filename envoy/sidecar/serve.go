package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/page"
	"jwtbouncer/authz/httpapi/receiver"
	"jwtbouncer/authz/policy"
	"jwtbouncer/envoy"
)

// drainTime limits how long checks in flight may take after SIGTERM. The whole
// shutdown may take 10 s.
const drainTime = 8 * time.Second

// Process describes the process that runs the sidecar.
type Process struct {
	Version string
	Log     io.Writer
	// File is the configuration file, which is watched for new routes. Empty: none.
	File string
	// Reload loads the settings again.
	Reload func() (Settings, error)
}

// Serve runs the sidecar until ctx ends. Then it drains: it reports not ready,
// accepts no new connections, and answers the checks in flight. The error says
// what could not be started, or which checks were not answered.
func Serve(ctx context.Context, s Settings, p Process) error {
	level, err := s.logLevel()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(p.Log, &slog.HandlerOptions{Level: level}))
	defer PaceCollector()()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo(p.Version))

	provider, endTracing, err := newTracing(ctx, s.Tracing, p.Version)
	if err != nil {
		return err
	}
	defer func() {
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = endTracing(flush) // spans that cannot be delivered now are lost
	}()

	// Checks need the background loops, so the loops end last.
	loops, endLoops := context.WithCancel(context.WithoutCancel(ctx))
	core, err := newCore(s, log, registry)
	if err != nil {
		endLoops()
		return err
	}
	core.start(loops)
	defer func() {
		endLoops()
		if err := core.close(); err != nil {
			log.Warn("closing", "error", err)
		}
	}()

	server, err := envoy.NewServer(core.authorizer, envoy.Config{Listen: s.Listen.ListenConfig, Headers: s.Headers, Replies: s.replies(), DecisionLog: s.DecisionLog},
		envoy.Options{Logger: log, Registerer: registry, Issuers: s.RevocableIssuers(), TracerProvider: provider})
	if err != nil {
		return err
	}
	grpcL, err := envoy.Listen(s.Listen.ListenConfig)
	if err != nil {
		return err
	}
	draining := make(chan struct{})
	var api *http.Server // nil: HTTP is not served
	var httpL net.Listener
	if s.Listen.HTTP != "" {
		if api, httpL, err = newHTTPServer(loops, s, core, draining, log, registry); err != nil {
			_ = grpcL.Close()
			return err
		}
	} else if len(s.EventStreams) > 0 {
		signals, err := newSignals(s, core.events, nil, core.revoker, log, registry)
		if err != nil {
			_ = grpcL.Close()
			return err
		}
		core.poll(loops, signals)
	}
	log.Info("listening", "grpc", grpcL.Addr().String(), "http", s.Listen.HTTP, "store", core.store.Name(), "replica", s.Revocation.Replica, "version", p.Version)

	var wg sync.WaitGroup
	failed := make(chan error, 2)
	wg.Go(func() {
		if err := server.Serve(grpcL); err != nil {
			failed <- fmt.Errorf("grpc: %w", err)
		}
	})
	httpCtx, endHTTP := context.WithCancel(context.WithoutCancel(ctx))
	if api != nil {
		wg.Go(func() {
			if err := httpapi.Serve(httpCtx, api, httpL, time.Second); err != nil {
				failed <- fmt.Errorf("http: %w", err)
			}
		})
	}
	watching, endWatching := context.WithCancel(ctx)
	wg.Go(func() {
		core.loop(watching, "readiness", func(ctx context.Context) error { return watchReadiness(ctx, core, server, log) })
	})
	if p.File != "" {
		hup := make(chan os.Signal, 1)
		signal.Notify(hup, syscall.SIGHUP)
		defer signal.Stop(hup)
		wg.Go(func() {
			core.loop(watching, "configuration file", func(ctx context.Context) error {
				return watchFile(ctx, p.File, s.text, 2*time.Second, hup, func() { core.reload(s, p.Reload, log) })
			})
		})
	}

	select {
	case <-ctx.Done():
		log.Info("draining")
	case err = <-failed:
		log.Error("stopping", "error", err)
	}
	endWatching()
	close(draining)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if derr := server.Drain(drain); derr != nil {
		err = errors.Join(err, fmt.Errorf("draining: %w", derr))
	}
	endHTTP()
	wg.Wait()
	return err
}

// hostname tells the sidecars of a fleet apart on the operator's page; in Kubernetes
// it is the pod's name.
func hostname() string {
	name, _ := os.Hostname() // "": the page shows no name
	return name
}

func buildInfo(version string) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "jwt_bouncer_build_info", Help: "Always 1, labelled with the running version.", ConstLabels: prometheus.Labels{"version": version}})
	g.Set(1)
	return g
}

// watchReadiness makes gRPC health report the same as /readyz until ctx ends.
func watchReadiness(ctx context.Context, c *core, server *envoy.Server, log *slog.Logger) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	was := false
	for {
		err := c.ready()
		if now := err == nil; now != was {
			was = now
			server.SetReady(now)
			if now {
				log.Info("ready")
			} else {
				log.Warn("not ready", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			server.SetReady(false)
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func newHTTPServer(ctx context.Context, s Settings, c *core, draining <-chan struct{}, log *slog.Logger, registry *prometheus.Registry) (*http.Server, net.Listener, error) {
	var resource *httpapi.Resource
	if s.Resource.Resource != "" {
		resource = &httpapi.Resource{Path: policy.ResourceMetadataPath(s.Resource), Document: func() ([]byte, error) {
			return policy.ResourceMetadata(s.Resource, c.routes.Load(), s.accessTokenIssuers(c.routes.Load(), c.rules.introspectors.ByName()))
		}}
	}
	api, err := httpapi.New(httpapi.Options{
		Config: s.API, Listen: s.Listen.HTTP, Name: hostname(), Issuers: s.RevocableIssuers(), Revoker: c.revoker, Lister: c.store, MaxTokenTTL: s.Revocation.MaxTokenTTL, Resource: resource, Conditions: c.conditions,
		Draining: draining, Gatherer: registry, Registry: registry, Logger: log, Clock: authz.SystemClock{},
	})
	if err != nil {
		return nil, nil, err
	}
	signals, err := newSignals(s, c.events, api.Writer(), nil, api.Options().Logger, registry)
	if err != nil {
		return nil, nil, err
	}
	if err := receiver.Register(api, c.events, signals.receiver); err != nil {
		return nil, nil, err
	}
	receiver.RegisterVerification(api, signals.received)
	c.poll(ctx, signals)
	if s.API.Page {
		sample := page.Register(api)
		c.loops.Go(func() { c.loop(ctx, "samples of the page", sample) })
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.Listen.HTTP)
	if err != nil {
		return nil, nil, fmt.Errorf("listen.http: %w", err)
	}
	return httpapi.NewServer(api, s.API, log), l, nil
}
