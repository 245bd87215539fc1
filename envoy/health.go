package envoy

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// healthServer is the standard health service whose watches end when the server drains. A watch
// never ends by itself, so the drain would wait for it.
type healthServer struct {
	*health.Server
	draining context.Context // its end ends all watches
	drain    context.CancelFunc
}

var _ healthpb.HealthServer = (*healthServer)(nil)

func newHealthServer() *healthServer {
	h := &healthServer{Server: health.NewServer()}
	h.draining, h.drain = context.WithCancel(context.Background())
	return h
}

// Shutdown ends all watches. From now on the status is NOT_SERVING, even if another one is set.
func (h *healthServer) Shutdown() {
	h.Server.Shutdown()
	h.drain()
}

// Watch streams status changes. The last one before a drain is NOT_SERVING.
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

// watchStream is the stream of a watch, with a context that ends when the server drains.
type watchStream struct {
	grpc.ServerStreamingServer[healthpb.HealthCheckResponse]
	ctx  context.Context // of the stream
	last healthpb.HealthCheckResponse_ServingStatus
}

// Context ends with the watch.
func (w *watchStream) Context() context.Context { return w.ctx }

// Send records the last status that was sent.
func (w *watchStream) Send(r *healthpb.HealthCheckResponse) error {
	w.last = r.GetStatus()
	return w.ServerStreamingServer.Send(r)
}
