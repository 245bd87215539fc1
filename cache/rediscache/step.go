package rediscache

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"jwtbouncer/authz"
)

// Stepped is a Client without background work, for simulations. The work of each
// loop is done one step at a time, on the goroutine of the caller.
type Stepped struct{ *Client }

// NewStepped returns a Stepped client that reaches its server through client.
// Its breaker never closes by itself, because probes go by the real clock.
func NewStepped(client redis.UniversalClient, cfg Config, o Options) *Stepped {
	c := newClient(client, cfg, o)
	c.breaker = c.newBreaker(neverHealed)
	return &Stepped{c}
}

func neverHealed(context.Context) error { return errors.New("a simulation has no probes") }

// Fills returns the number of fills in the queue.
func (s *Stepped) Fills() int { return len(s.fills) }

// StepFill makes the next fill in the queue, waiting for one if there is none,
// and returns its verdict.
func (s *Stepped) StepFill(ctx context.Context) (authz.Verdict, error) {
	job := <-s.fills
	return job.verdict, s.fill(ctx, job)
}

// StepEpoch makes one round of the freshness epoch and returns the mean time
// until the next one.
func (s *Stepped) StepEpoch(ctx context.Context) (time.Duration, error) {
	return s.epochs.every, s.stepEpoch(ctx)
}

// StepPublish publishes the queue. If the breaker is open, it closes the breaker
// instead.
func (s *Stepped) StepPublish(ctx context.Context) error {
	if !s.breaker.Ready() {
		go s.breaker.Close() // waits for calls that the simulation has suspended
		s.breaker = s.newBreaker(neverHealed)
		return nil
	}
	return s.publisher.flush(ctx)
}

// Decode reads a message as Subscribe does.
func (*Stepped) Decode(message string) (entries []authz.Entry, complete bool) {
	return decodeMessage(message)
}

// Close ends the breaker. All calls must have returned.
func (s *Stepped) Close() { s.breaker.Close() }
