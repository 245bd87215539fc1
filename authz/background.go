package authz

import "sync"

// Background counts goroutines that outlive the call that started them, so that
// their owner can wait for all of them. A sync.WaitGroup alone must not grow
// during Wait. The zero value is open.
type Background struct {
	mu     sync.Mutex
	closed bool
	inside sync.WaitGroup
}

// Enter reports whether b is open. If so, the caller must call Leave.
func (b *Background) Enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.inside.Add(1)
	}
	return !b.closed
}

// Leave undoes one Enter that returned true.
func (b *Background) Leave() { b.inside.Done() }

// Start runs f in a goroutine. It returns false, without running f, if b is closed.
func (b *Background) Start(f func()) bool {
	open := b.Enter()
	if open {
		go func() {
			defer b.Leave()
			f()
		}()
	}
	return open
}

// Close makes Enter return false and waits until every Enter has had its Leave.
func (b *Background) Close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.inside.Wait()
}
