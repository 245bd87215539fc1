package authz

import "sync"

// background counts what outlives the request that started it, so that its owner can
// wait for all of it in the end. A WaitGroup alone must not grow while it is
// waited for.
type background struct {
	mu     sync.Mutex
	closed bool
	inside sync.WaitGroup
}

// enter reports whether the owner is open; whoever entered leaves.
func (b *background) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.inside.Add(1)
	}
	return !b.closed
}

func (b *background) leave() { b.inside.Done() }

// start runs f beside its caller, unless the owner is closed.
func (b *background) start(f func()) bool {
	if !b.enter() {
		return false
	}
	go func() {
		defer b.leave()
		f()
	}()
	return true
}

// close lets nobody in any more and waits until all have left.
func (b *background) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.inside.Wait()
}
