package store

import (
	"time"

	"jwtbouncer/authz"
)

// cautiousClock tells the time for what cannot be undone. A wall clock that
// was set forward by mistake must not make rows vanish that matter again once
// it has been corrected.
type cautiousClock struct {
	clock authz.Clock
	wall  time.Time     // what the wall clock showed
	boot  time.Duration // when the boot clock showed this
}

func newCautiousClock(c authz.Clock) cautiousClock {
	return cautiousClock{clock: c, wall: c.Now(), boot: c.Boot()}
}

// now is the wall clock's time, but no later than what it showed at first and
// the time that has passed since.
func (c cautiousClock) now() time.Time {
	now, passed := c.clock.Now(), c.wall.Add(c.clock.Boot()-c.boot)
	if passed.Before(now) {
		return passed
	}
	return now
}
