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

	_ "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3" // descriptors for reflection
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"jwtbouncer/authz"
	"jwtbouncer/envoy/wire"
)

// Authorizer decides about a request. The request, and the memory its strings
// alias, belong to it until it returns.
type Authorizer interface {
	Authorize(ctx context.Context, req *authz.Request) authz.Decision
}

var _ Authorizer = (*authz.Authorizer)(nil)

// Options are what a Server needs besides its configuration.
type Options struct {
	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // nil: metrics are kept, but nobody sees them
	// TracerProvider makes one span per check, a child of the trace that the
	// request or Envoy belongs to. nil: no tracing, at no cost.
	TracerProvider trace.TracerProvider
}

const (
	serviceName = "envoy.service.auth.v3.Authorization"

	// checkTime is how long a check may be undecided. Its answer is out within
	// 190 ms, which is what is promised: Envoy's default timeout is 200 ms, and
	// what it does then is not ours to say.
	checkTime = 180 * time.Millisecond

	// maxMessage is far above any CheckRequest without a body: Envoy takes 60
	// KiB of headers by default. Bodies (with_request_body) are not looked at,
	// but are held in memory, one for each check that is under way. Above it
	// grpc answers with an RPC error before anybody else can.
	maxMessage = 16 << 20

	streamWorkers = 64

	// drainQuiet is how long no check must have been under way for a drain to
	// close what is still open: streams on which nobody asks anything. A
	// question follows the beginning of its stream much sooner.
	drainQuiet = time.Second
)

// Server is the ext_authz gRPC service, with gRPC health and reflection.
type Server struct {
	authorizer Authorizer
	identity   *identity
	denials    *denials
	metrics    *metrics
	log        *decisionLog
	tracer     trace.Tracer // nil: off
	grpc       *grpc.Server
	health     *healthServer
	checks     checkPool
	asked      atomic.Int64 // checks that are being answered
}

// NewServer returns a Server that is not ready yet. The errors are those of
// Config.Validate, of TLS files that cannot be read, and of metrics that are
// registered already.
func NewServer(a Authorizer, cfg Config, o Options) (*Server, error) {
	cfg = cfg.withDefaults()
	var faults []error
	cfg.Validate(func(path, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
	})
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(wire.NewCodec()),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.RPCDecompressor(noGzip{}), //nolint:staticcheck // the other way is a registry of the whole process, which others fill
		grpc.MaxConcurrentStreams(cfg.Listen.MaxStreams),
		// Envoy's keepalive pings must not be answered with GOAWAY.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		// Connections whose other end vanished are found and closed.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 10 * time.Second}),
		// Who does not even greet in time holds a descriptor for nothing.
		grpc.ConnectionTimeout(5 * time.Second),
		// A stream on a goroutine that has served others before finds its stack
		// grown already. When all are busy there is one goroutine per stream.
		grpc.NumStreamWorkers(streamWorkers),
		// The decision log closes after the last check.
		grpc.WaitForHandlers(true),
	}
	if cfg.Listen.TLS.Certificate != "" {
		t, err := newServerTLS(cfg.Listen.TLS, o.Logger)
		if err != nil {
			return nil, err
		}
		opts = append(opts, grpc.Creds(credentials.NewTLS(t.config())))
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	id, _ := newIdentity(cfg.Headers)
	s := &Server{
		authorizer: a,
		identity:   id,
		denials:    newDenials(cfg.Replies),
		metrics:    m,
		log:        newDecisionLog(cfg.DecisionLog, o.Logger, m.logDropped),
		health:     newHealthServer(),
	}
	if o.TracerProvider != nil {
		s.tracer = o.TracerProvider.Tracer("jwtbouncer/envoy")
	}
	s.grpc = grpc.NewServer(opts...)
	s.grpc.RegisterService(&serviceDesc, s)
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	s.SetReady(false)
	return s, nil
}

// serviceDesc declares Check as if the client streamed. On the wire there is
// no difference, and it saves waiting for the end of the stream, which a
// half-open client never sends: one message is a question, and is answered.
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
	if err := stream.RecvMsg(&request); err != nil && !errors.Is(err, io.EOF) {
		return err // the stream is broken, or the message too large, and grpc has answered
	}
	s.asked.Add(1)
	defer s.asked.Add(-1)
	return stream.SendMsg(&wire.RawResponse{Bytes: s.answer(stream.Context(), request.Bytes)})
}

// SetReady sets what gRPC health reports.
func (s *Server) SetReady(ready bool) {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if ready {
		status = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", status)
	s.health.SetServingStatus(serviceName, status)
}

// Serve answers on l until Drain, and then returns nil. It closes l.
func (s *Server) Serve(l net.Listener) error {
	if err := s.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("gRPC on %s: %w", l.Addr(), err)
	}
	return nil
}

// noGzip makes compressed messages undecodable: so Check denies, rather than
// to fail with an RPC error. Without it gzip works where anything in the
// process imports it, as the exporter of traces does, and a few kilobytes
// unpack to maxMessage. Envoy does not compress.
type noGzip struct{}

func (noGzip) Do(io.Reader) ([]byte, error) { return []byte{0xff}, nil } // a tag that is cut off

func (noGzip) Type() string { return "gzip" }

// Drain stops: health reports not serving, clients are told to go away,
// accepted checks are answered, streams on which nothing was asked are closed.
// When ctx ends first, what is left is cut off and ctx's error returned.
func (s *Server) Drain(ctx context.Context) error {
	s.health.Shutdown()
	done := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	err := s.awaitQuiet(ctx, done)
	s.grpc.Stop()
	<-done
	s.checks.close()
	s.log.close()
	return err
}

// awaitQuiet returns when the graceful stop is done, or when nobody has waited
// for an answer for drainQuiet: it does not end as long as a client leaves a
// stream open (reflection, a Check without a message). Its error is ctx's.
func (s *Server) awaitQuiet(ctx context.Context, done <-chan struct{}) error {
	const looks = 10
	tick := time.NewTicker(drainQuiet / looks)
	defer tick.Stop()
	for quiet := 0; quiet < looks; {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("drain: connections were cut off: %w", ctx.Err())
		case <-tick.C:
			if quiet++; s.asked.Load() > 0 {
				quiet = 0
			}
		}
	}
	return nil
}
