package authz

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Clock tells the time. Tests and the simulator inject their own.
type Clock interface {
	Now() time.Time // wall clock, for comparison with NumericDates only
	// Boot is the time since boot, suspend included (CLOCK_BOOTTIME). Freshness
	// is measured with it: Go's monotonic clock stops while suspended.
	Boot() time.Duration
}

// SystemClock is the machine's Clock.
type SystemClock struct{}

var _ Clock = SystemClock{}

// Now returns the wall clock's time.
func (SystemClock) Now() time.Time { return time.Now() }

// Boot returns CLOCK_BOOTTIME. A kernel without it (older than 2.6.39) cannot
// prove freshness, and no sidecar may run there.
func (SystemClock) Boot() time.Duration {
	var ts unix.Timespec
	// Every check calls this, and the call never blocks: the scheduler need not
	// hear of it, which saves a fifth of the time.
	if _, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 { //nolint:gosec // the kernel writes into ts
		panic("authz: CLOCK_BOOTTIME is not available: " + errno.Error())
	}
	return time.Duration(ts.Nano())
}
