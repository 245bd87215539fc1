package sidecar

import (
	"context"
	"fmt"
	"net/url"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.26.0"
	"go.opentelemetry.io/otel/trace"

	"jwtbouncer/authz"
)

// TracingConfig is the stanza "tracing": OpenTelemetry, off unless configured.
type TracingConfig struct {
	Endpoint string  `yaml:"endpoint" doc:"OTLP/gRPC collector, http://host:4317 (plaintext) or https://host:4317. Empty: no tracing."`
	Ratio    float64 `yaml:"ratio" doc:"Share of checks traced, from 0 to 1, where the caller's own sampling decision does not say."`
	Service  string  `yaml:"service" doc:"service.name of the spans."`
}

// Validate reports every fault of c.
func (c TracingConfig) Validate(fault authz.Fault) {
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		switch { // without repeating it: there may be a password in it
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
			fault("endpoint", "is not a URL of a collector; http://host:port or https://host:port is needed")
		case u.User != nil:
			fault("endpoint", "must not have a user name or a password, which OTLP/gRPC has no use for; http://host:port or https://host:port is needed")
		}
	}
	if c.Ratio < 0 || c.Ratio > 1 {
		fault("ratio", "%v is not between 0 and 1", c.Ratio)
	}
}

// newTracing returns the provider and what ends it. Without an endpoint the
// provider is nil: no span is made at all.
func newTracing(ctx context.Context, c TracingConfig, version string) (trace.TracerProvider, func(context.Context) error, error) {
	if c.Endpoint == "" {
		return nil, func(context.Context) error { return nil }, nil
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(c.Endpoint))
	if err != nil {
		return nil, nil, fmt.Errorf("tracing.endpoint: %w", err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter), // its queue is bounded and drops when the collector is away
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(c.Ratio))),
		sdktrace.WithResource(resource.NewSchemaless(semconv.ServiceName(c.Service), semconv.ServiceVersion(version))),
	)
	return provider, provider.Shutdown, nil
}
