package authz

import (
	"time"

	"golang.org/x/sys/unix"
)

// SystemClock is the machine's Clock.
type SystemClock struct{}

var _ Clock = SystemClock{}

// Now returns the wall clock's time.
func (SystemClock) Now() time.Time { return time.Now() }

// Boot returns CLOCK_BOOTTIME. A kernel without it (older than 2.6.39) cannot
// prove freshness, and no sidecar may run there.
func (SystemClock) Boot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("authz: CLOCK_BOOTTIME is not available: " + err.Error())
	}
	return time.Duration(ts.Nano())
}
