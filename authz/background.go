package authz

import "sync"

// Background counts what outlives the call that started it, so that its owner
// can wait for all of it in the end. A WaitGroup alone must not grow while it
// is waited for. The zero value is open.
type Background struct {
	mu     sync.Mutex
	closed bool
	inside sync.WaitGroup
}

// Enter reports whether the owner is open; whoever entered calls Leave.
func (b *Background) Enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.inside.Add(1)
	}
	return !b.closed
}

// Leave ends what Enter began.
func (b *Background) Leave() { b.inside.Done() }

// Start runs f beside its caller; false: the owner is closed, and f is not run.
func (b *Background) Start(f func()) bool {
	if !b.Enter() {
		return false
	}
	go func() {
		defer b.Leave()
		f()
	}()
	return true
}

// Close lets nobody in any more and waits until all have left.
func (b *Background) Close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.inside.Wait()
}
