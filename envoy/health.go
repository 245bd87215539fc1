package envoy

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// healthServer is the standard health service, except that a drain ends its
// watches: they are open without end, and the drain would wait for them.
type healthServer struct {
	*health.Server
	draining context.Context //nolint:containedctx // ends all watches
	drain    context.CancelFunc
}

var _ healthpb.HealthServer = (*healthServer)(nil)

func newHealthServer() *healthServer {
	h := &healthServer{Server: health.NewServer()}
	h.draining, h.drain = context.WithCancel(context.Background())
	return h
}

// Shutdown reports not serving, whatever is set later, and ends the watches.
func (h *healthServer) Shutdown() {
	h.Server.Shutdown()
	h.drain()
}

// Watch streams status changes; the last one before a drain is "not serving".
func (h *healthServer) Watch(req *healthpb.HealthCheckRequest, stream healthpb.Health_WatchServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(h.draining, cancel)()
	w := &watchStream{ServerStreamingServer: stream, ctx: ctx}
	err := h.Server.Watch(req, w)
	if h.draining.Err() != nil && w.last == healthpb.HealthCheckResponse_SERVING {
		return stream.Send(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING})
	}
	return err
}

type watchStream struct {
	grpc.ServerStreamingServer[healthpb.HealthCheckResponse]
	ctx  context.Context //nolint:containedctx // a stream has one
	last healthpb.HealthCheckResponse_ServingStatus
}

// Context ends with the watch.
func (w *watchStream) Context() context.Context { return w.ctx }

// Send remembers what the watcher was told last.
func (w *watchStream) Send(r *healthpb.HealthCheckResponse) error {
	w.last = r.GetStatus()
	return w.ServerStreamingServer.Send(r)
}
