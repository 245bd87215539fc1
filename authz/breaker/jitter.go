package breaker

import (
	"math/rand/v2"
	"time"
)

// Jitter returns d, more or less by up to share of it (0.25: a quarter), so that what
// many processes begin at the same moment does not stay in step.
func Jitter(d time.Duration, share float64) time.Duration {
	return time.Duration(float64(d) * (1 + share*(2*rand.Float64()-1))) //nolint:gosec // spreads load, guards nothing
}
