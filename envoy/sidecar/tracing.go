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
	Endpoint string  `yaml:"endpoint" doc:"OTLP/gRPC collector: http://host:4317 (plaintext) or https://host:4317. Empty: no tracing."`
	Ratio    float64 `yaml:"ratio" doc:"Share of checks that are traced, from 0 to 1, unless the caller has made a sampling decision."`
	Service  string  `yaml:"service" doc:"service.name of the spans."`
}

// Validate reports every invalid value of c.
func (c TracingConfig) Validate(report authz.Report) {
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		switch { // the messages do not quote the URL: it may contain a password
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
			report("endpoint", "must be http://host:port or https://host:port")
		case u.User != nil:
			report("endpoint", "must not contain a user name or password, which OTLP/gRPC does not use; must be http://host:port or https://host:port")
		}
	}
	if c.Ratio < 0 || c.Ratio > 1 {
		report("ratio", "must be between 0 and 1, not %v", c.Ratio)
	}
}

// newTracing returns the provider and the function that ends it. Without an
// endpoint the provider is nil, and no spans are created.
func newTracing(ctx context.Context, c TracingConfig, version string) (trace.TracerProvider, func(context.Context) error, error) {
	if c.Endpoint == "" {
		return nil, func(context.Context) error { return nil }, nil
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(c.Endpoint))
	if err != nil {
		return nil, nil, fmt.Errorf("tracing.endpoint: %w", err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter), // its queue is bounded and drops spans if the collector is unavailable
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(c.Ratio))),
		sdktrace.WithResource(resource.NewSchemaless(semconv.ServiceName(c.Service), semconv.ServiceVersion(version))),
	)
	return provider, provider.Shutdown, nil
}
