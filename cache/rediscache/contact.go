package rediscache

import (
	"time"

	"jwtbouncer/authz/breaker"
)

// Contact returns the time since the server last answered in the background, where a
// sidecar without requests asks as well (on the subscription, or for the freshness
// epoch); negative: never. err is why it does not answer now; nil: it does, or has
// not been asked yet.
func (c *Client) Contact() (age time.Duration, err error) {
	age, err = c.contact.Last()
	if err == nil && !c.breaker.Ready() {
		err = breaker.ErrOpen
	}
	return age, err
}
