package rediscache

import (
	"sync"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
)

// contact remembers when the server last answered in the background, where a
// sidecar without requests asks as well: on the subscription, or for the freshness
// epoch.
type contact struct {
	clock authz.Clock

	mu  sync.Mutex
	at  time.Duration // Clock.Boot of the last answer; 0: none yet
	err error         // why there was none since; nil: the last call was answered
}

func (c *contact) record(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err = err; err == nil {
		c.at = c.clock.Boot()
	}
}

// Contact returns the time since the server last answered (negative: never), and
// why it does not answer now; nil: it does, or has not been asked yet.
func (c *Client) Contact() (age time.Duration, err error) {
	c.contact.mu.Lock()
	defer c.contact.mu.Unlock()
	age, err = -1, c.contact.err
	if c.contact.at != 0 {
		age = c.clock.Boot() - c.contact.at
	}
	if err == nil && !c.breaker.Ready() {
		err = breaker.ErrOpen
	}
	return age, err
}
