package authz

import (
	"sync"
	"time"
)

// Contact remembers when a dependency last answered. Its methods may be called
// concurrently.
type Contact struct {
	Clock Clock

	mu  sync.Mutex
	at  time.Duration // Clock.Boot of the last answer; 0: none yet
	err error         // why there was none since
}

// Record records a call: nil is an answer, an error says why there was none.
func (c *Contact) Record(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err = err; err == nil {
		c.at = c.Clock.Boot()
	}
}

// Last returns the time since the last answer (negative: never), and why there has
// been none since; nil: the last call was answered, or there was none yet.
func (c *Contact) Last() (age time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == 0 {
		return -1, c.err
	}
	return c.Clock.Boot() - c.at, c.err
}
