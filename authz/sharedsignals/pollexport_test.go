package sharedsignals

import (
	"context"
	"time"
)

// Step polls once and returns how long Run would wait before the next poll.
func (p *Poller) Step(ctx context.Context) time.Duration { return p.step(ctx) }

// End closes the poller's connections, as the end of Run does.
func (p *Poller) End() { p.t.Close() }
