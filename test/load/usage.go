package load

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
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
	ticks, err := statTicks(pid, 11, 12) // utime, stime
	if err != nil {
		return u, err
	}
	u.CPU = time.Duration(ticks) * time.Second / userHertz
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

// TreeCPU returns the CPU time of a process, of its children, and of those
// children that have ended: for a PostgreSQL server, of all sessions and workers
// so far. Resolution 10 ms.
func TreeCPU(pid int) (time.Duration, error) {
	// utime, stime, and those of children that have ended and were waited for.
	ticks, err := statTicks(pid, 11, 12, 13, 14)
	if err != nil {
		return 0, err
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0, err
	}
	for _, file := range tasks {
		text, err := os.ReadFile(file)
		if err != nil {
			return 0, fmt.Errorf("usage: %w", err)
		}
		for _, child := range strings.Fields(string(text)) {
			id, err := strconv.Atoi(child)
			if err != nil {
				return 0, fmt.Errorf("usage: %w", err)
			}
			// A child that has ended meanwhile is in the next account of its parent.
			n, err := statTicks(id, 11, 12)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
				return 0, err
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * time.Second / userHertz, nil
}

// statTicks returns the sum of some fields of /proc/PID/stat, counted from 0 behind
// the name.
func statTicks(pid int, fields ...int) (ticks int64, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("usage: %w", err)
	}
	// The name in parentheses may contain ')', so cut at the last one.
	all := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, f := range fields {
		if f >= len(all) {
			return 0, fmt.Errorf("usage: unexpected /proc/%d/stat", pid)
		}
		n, err := strconv.ParseInt(all[f], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("usage: %w", err)
		}
		ticks += n
	}
	return ticks, nil
}
