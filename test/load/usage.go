package load

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// userHertz is the number of ticks per second in /proc/PID/stat. It is the same
// on every Linux that Go supports.
const userHertz = 100

// Usage is the CPU time and memory that a process has used so far.
type Usage struct {
	CPU  time.Duration // user and system time of all threads; resolution 10 ms
	RSS  int64         // resident bytes now
	Peak int64         // peak resident bytes
}

// UsageOf reads a process's usage from /proc.
func UsageOf(pid int) (Usage, error) {
	var u Usage
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, fmt.Errorf("usage: %w", err)
	}
	// The name in parentheses may contain ')', so cut at the last one.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return u, fmt.Errorf("usage: unexpected /proc/%d/stat", pid)
	}
	for _, f := range fields[11:13] {
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return u, fmt.Errorf("usage: %w", err)
		}
		u.CPU += time.Duration(ticks) * time.Second / userHertz
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, fmt.Errorf("usage: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		to := map[string]*int64{"VmRSS": &u.RSS, "VmHWM": &u.Peak}[name]
		if to == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
		if err != nil {
			return u, fmt.Errorf("usage: %w", err)
		}
		*to = kib << 10
	}
	return u, nil
}
