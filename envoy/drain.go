package envoy

import (
	"context"
	"fmt"
	"time"
)

// drainQuiet is how long no check must be in flight before a drain closes the remaining streams.
// They are idle: Envoy sends the message of a check as soon as it opens the stream.
const drainQuiet = time.Second

// Drain stops the server. Health reports NOT_SERVING, clients receive GOAWAY, checks in flight are
// answered, and idle streams are closed. If ctx ends first, the remaining connections are closed and
// the error of ctx is returned.
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
	s.workers.close()
	s.log.stop()
	return err
}

// awaitQuiet returns when done is closed by the graceful stop, or when no check has been in flight
// for drainQuiet. The graceful stop alone never ends while a client keeps a stream open, such as
// reflection or a Check without a message. The error is that of ctx.
func (s *Server) awaitQuiet(ctx context.Context, done <-chan struct{}) error {
	const ticks = 10
	tick := time.NewTicker(drainQuiet / ticks)
	defer tick.Stop()
	for quiet := 0; quiet < ticks; {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("drain: open connections were closed: %w", ctx.Err())
		case <-tick.C:
			if quiet++; s.inFlight.Load() > 0 {
				quiet = 0
			}
		}
	}
	return nil
}
