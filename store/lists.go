package store

import (
	"context"
	"fmt"

	"jwtbouncer/authz"
)

const (
	// listsRunning is how many lists run at once. People read them, and they must
	// not take the database from lookups and revocations.
	listsRunning = 2
	// listsWaiting is how many more may wait for their turn.
	listsWaiting = 64
)

// lists bounds the lists of a store: few run, few wait until their caller's
// deadline, and any more are refused at once.
type lists struct{ admitted, running chan struct{} }

func newLists() lists {
	return lists{admitted: make(chan struct{}, listsRunning+listsWaiting), running: make(chan struct{}, listsRunning)}
}

// enter waits for a turn; leave gives it back. Errors wrap authz.ErrUnavailable.
func (l lists) enter(ctx context.Context) (leave func(), err error) {
	select {
	case l.admitted <- struct{}{}:
	default:
		return nil, ErrBusy
	}
	select {
	case l.running <- struct{}{}:
		return func() { <-l.running; <-l.admitted }, nil
	case <-ctx.Done():
		<-l.admitted
		return nil, fmt.Errorf("%w: other lists are running: %w", authz.ErrUnavailable, ctx.Err())
	}
}
