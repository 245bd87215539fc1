package envoy

import (
	"context"
	"sync"
	"time"
)

// deadlineContext is context.WithDeadline made when somebody first waits on
// it. A check that is answered from memory never does, and saves the timer and
// its entry in the parent.
type deadlineContext struct {
	parent   context.Context //nolint:containedctx // it is a context
	deadline time.Time

	mu     sync.Mutex
	child  context.Context //nolint:containedctx // nil until needed
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

// Value asks the child where there is one, so that package context finds the
// cancelCtx that belongs to Done and needs no goroutine to follow it.
func (c *deadlineContext) Value(key any) any {
	c.mu.Lock()
	child := c.child
	c.mu.Unlock()
	if child != nil {
		return child.Value(key)
	}
	return c.parent.Value(key)
}

// release frees the timer, if there is one.
func (c *deadlineContext) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
	}
}
