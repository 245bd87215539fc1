package store

import (
	"time"

	"jwtbouncer/authz"
)

// cautiousClock tells the time for deleting, which cannot be undone. A wall
// clock that was set forward by mistake must not delete revocations that matter
// again once it has been corrected.
//
// The authority's clock alone does not decide, although that would be simpler:
// a database whose clock is set forward by more than authz.ExpiredKept would
// hide and delete revocations of tokens that are valid everywhere else, and
// after the correction nothing would tell that they are missing
// (TestClockForward). So a revocation ends only when the database's clock, the
// wall clock here, and the time that has really passed here all say so.
type cautiousClock struct {
	clock authz.Clock
	wall  time.Time     // wall clock at the start
	boot  time.Duration // boot clock at the same moment
}

func newCautiousClock(c authz.Clock) cautiousClock {
	return cautiousClock{clock: c, wall: c.Now(), boot: c.Boot()}
}

// now returns the wall clock's time, but no more than its first reading plus
// the time that has passed since.
func (c cautiousClock) now() time.Time {
	now, passed := c.clock.Now(), c.wall.Add(c.clock.Boot()-c.boot)
	if passed.Before(now) {
		return passed
	}
	return now
}
