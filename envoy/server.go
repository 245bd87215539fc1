package envoy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"jwtbouncer/authz"
	"jwtbouncer/envoy/wire"
)

// Authorizer makes decisions. The request, and the memory that its strings alias, belong to it
// until Authorize returns.
type Authorizer interface {
	// Authorize returns the decision about req. It should return by the deadline of ctx; a
	// later decision is dropped.
	Authorize(ctx context.Context, req *authz.Request) authz.Decision
}

var _ Authorizer = (*authz.Authorizer)(nil)

// Options are the dependencies of a Server.
type Options struct {
	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // nil: metrics are not exported
	// Issuers are the names that metrics may have; any other issuer is counted as "other".
	Issuers authz.Issuers
	// TracerProvider traces one span per check, in the trace of Envoy's call or of the checked
	// request. nil: no tracing, at no cost.
	TracerProvider trace.TracerProvider
}

const (
	serviceName = "envoy.service.auth.v3.Authorization"

	// checkTime is the time in which a check must be decided. The response leaves within 190
	// ms, as documented. Envoy's default timeout is 200 ms; after that, Envoy's own
	// configuration decides about the request.
	checkTime = 180 * time.Millisecond

	// AnswerTime is the time within which every check is answered.
	AnswerTime = 190 * time.Millisecond

	// maxMessage is the maximum size of a CheckRequest in bytes. It is far above that of any
	// request without a body: Envoy accepts 60 KiB of headers by default. Bodies
	// (with_request_body) are ignored, but each check in flight keeps one in memory. To a
	// larger message, gRPC itself responds with an RPC error.
	maxMessage = 16 << 20

	streamWorkers = 64
)

// Server is the ext_authz gRPC service, together with gRPC health and reflection.
type Server struct {
	*responder
	authorizer Authorizer
	grpc       *grpc.Server
	health     *healthServer
	workers    workerPool
	inFlight   atomic.Int64 // checks that have arrived and are not answered yet
}

// TransportOptions returns the settings of the gRPC server, without codec and TLS. maxStreams is
// the maximum of concurrent checks per connection. The equally tuned baselines of test/load have
// them as well.
func TransportOptions(maxStreams uint32) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.RPCDecompressor(noGzip{}), //nolint:staticcheck // the alternative is a registry that the whole process shares
		grpc.MaxConcurrentStreams(maxStreams),
		// Accept Envoy's keepalive pings, which gRPC otherwise answers with GOAWAY.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		// Detect and close connections whose client has vanished.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 10 * time.Second}),
		// A client that does not complete the handshake must not hold a file descriptor.
		grpc.ConnectionTimeout(5 * time.Second),
		// A goroutine that has served other streams has already grown its stack. If all of
		// them are busy, gRPC starts one per stream.
		grpc.NumStreamWorkers(streamWorkers),
		// Stop waits for handlers, so that the decision log can stop after the last check.
		grpc.WaitForHandlers(true),
	}
}

// NewServer returns a Server that reports NOT_SERVING until SetReady. It returns an error if
// the configuration is invalid, a TLS file cannot be loaded, or a metric is already
// registered.
func NewServer(a Authorizer, cfg Config, o Options) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := authz.ValidationErrors("", cfg.Validate); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	opts := append(TransportOptions(cfg.Listen.MaxStreams), grpc.ForceServerCodecV2(wire.NewCodec()))
	if cfg.Listen.TLS.Certificate != "" {
		t, err := newServerTLS(cfg.Listen.TLS, o.Logger)
		if err != nil {
			return nil, err
		}
		opts = append(opts, grpc.Creds(credentials.NewTLS(t.config())))
	}
	r, err := newResponder(cfg, o, encodeCheckResponse)
	if err != nil {
		return nil, err
	}
	s := &Server{responder: r, authorizer: a, health: newHealthServer()}
	s.grpc = grpc.NewServer(opts...)
	s.grpc.RegisterService(&serviceDesc, s)
	healthpb.RegisterHealthServer(s.grpc, s.health)
	registerReflection(s.grpc)
	s.SetReady(false)
	return s, nil
}

// serviceDesc declares Check as a client-streaming method, which looks the same on the wire. So
// the first message is answered at once, without waiting for the end of the stream, which a
// half-open client never sends.
var serviceDesc = grpc.ServiceDesc{
	ServiceName: serviceName,
	HandlerType: (*any)(nil),
	Streams:     []grpc.StreamDesc{{StreamName: "Check", Handler: serveCheck, ClientStreams: true}},
	Metadata:    "envoy/service/auth/v3/external_auth.proto",
}

func serveCheck(srv any, stream grpc.ServerStream) error {
	s, ok := srv.(*Server)
	if !ok {
		return fmt.Errorf("registered with %T", srv)
	}
	var request wire.RawRequest
	// A stream that ends without a message is answered like an empty message. On other errors
	// the stream is broken, or the message is too large and gRPC has responded.
	if err := stream.RecvMsg(&request); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	s.inFlight.Add(1)
	defer s.inFlight.Add(-1)
	return stream.SendMsg(&wire.RawResponse{Bytes: s.check(stream.Context(), request.Bytes)})
}

// SetReady sets the status that gRPC health reports: SERVING or NOT_SERVING.
func (s *Server) SetReady(ready bool) {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if ready {
		status = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", status)
	s.health.SetServingStatus(serviceName, status)
}

// Serve accepts connections on l, which it closes, until Drain. It then returns nil.
func (s *Server) Serve(l net.Listener) error {
	if err := s.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("gRPC on %s: %w", l.Addr(), err)
	}
	return nil
}

// noGzip replaces a compressed message by one that cannot be decoded, so that Check denies it
// instead of failing with an RPC error. Without noGzip, gRPC decompresses gzip as soon as any
// package in the process registers it, as the trace exporter does, and a few kilobytes would
// expand to maxMessage. Envoy does not compress.
type noGzip struct{}

func (noGzip) Do(io.Reader) ([]byte, error) { return []byte{0xff}, nil } // a truncated tag

func (noGzip) Type() string { return "gzip" }
