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
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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
// what could not be started, or which checks were not answered. Settings that need Envoy's
// own process are an error; see Embed.
func Serve(ctx context.Context, s Settings, p Process) error {
	if err := s.checkServed(); err != nil {
		return err
	}
	if load := p.Reload; load != nil {
		p.Reload = func() (Settings, error) {
			next, err := load()
			if err == nil {
				err = next.checkServed()
			}
			return next, err
		}
	}
	i, err := newInstance(ctx, s, p)
	if err != nil {
		return err
	}
	defer i.close()
	server, err := envoy.NewServer(i.core.authorizer, i.envoyConfig(), i.envoyOptions())
	if err != nil {
		return err
	}
	grpcL, err := envoy.Listen(s.Listen.ListenConfig)
	if err != nil {
		return err
	}
	if err := i.receive(); err != nil {
		_ = grpcL.Close()
		return err
	}
	i.log.Info("listening", "grpc", grpcL.Addr().String(), "http", s.Listen.HTTP, "store", i.core.store.Name(), "replica", s.Revocation.Replica, "version", p.Version)

	i.group.Go(func() {
		if err := server.Serve(grpcL); err != nil {
			i.failed <- fmt.Errorf("grpc: %w", err)
		}
	})
	hup := make(chan os.Signal, 1)
	if p.File != "" {
		signal.Notify(hup, syscall.SIGHUP)
		defer signal.Stop(hup)
	}
	i.run(server.SetReady, hup)
	select {
	case <-ctx.Done():
		i.log.Info("draining")
	case err = <-i.failed:
		i.log.Error("stopping", "error", err)
	}
	i.drain()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if derr := server.Drain(drain); derr != nil {
		err = errors.Join(err, fmt.Errorf("draining: %w", derr))
	}
	i.end()
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

// watchReadiness reports the same to setReady as /readyz does until ctx ends.
func watchReadiness(ctx context.Context, c *core, setReady func(bool), log *slog.Logger) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	was := false
	for {
		err := c.ready()
		if now := err == nil; now != was {
			was = now
			setReady(now)
			if now {
				log.Info("ready")
			} else {
				log.Warn("not ready", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			setReady(false)
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
