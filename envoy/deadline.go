package envoy

import (
	"context"
	"sync"
	"time"
)

// checkDeadline returns the time by which a check that arrived at start must be decided. If the
// caller's own deadline is earlier, a tenth of the remaining time is left for the response to
// reach the caller.
func checkDeadline(parent context.Context, start time.Time) time.Time {
	limit := start.Add(checkTime)
	if callers, ok := parent.Deadline(); ok {
		if callers = callers.Add(-callers.Sub(start) / 10); callers.Before(limit) {
			return callers
		}
	}
	return limit
}

// deadlineContext is a context.WithDeadline that is created on the first call of Done. A check
// that is decided from memory never calls it, and saves the timer and the entry in the parent.
//
// It only informs the Authorizer of the deadline. The worker enforces it.
type deadlineContext struct {
	parent   context.Context // it is a context
	deadline time.Time

	mu     sync.Mutex
	child  context.Context // nil before the first call of Done
	cancel context.CancelFunc
}

var _ context.Context = (*deadlineContext)(nil)

func (c *deadlineContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *deadlineContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.child == nil {
		c.child, c.cancel = context.WithDeadline(c.parent, c.deadline)
	}
	return c.child.Done()
}

func (c *deadlineContext) Err() error {
	c.mu.Lock()
	child := c.child
	c.mu.Unlock()
	if child != nil {
		return child.Err()
	}
	if err := c.parent.Err(); err != nil {
		return err
	}
	if !time.Now().Before(c.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// Value asks the child if there is one, so that package context finds the cancelCtx that belongs
// to Done. Otherwise every derived context would need a goroutine.
func (c *deadlineContext) Value(key any) any {
	c.mu.Lock()
	child := c.child
	c.mu.Unlock()
	if child != nil {
		return child.Value(key)
	}
	return c.parent.Value(key)
}

// release stops the timer, if there is one.
func (c *deadlineContext) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
	}
}
