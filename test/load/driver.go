package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// Check is an encoded request and the expected answer: a CheckRequest for the Driver of
// NewDriver, an HTTP/1.1 request for that of NewHTTPDriver.
type Check struct {
	Wire  []byte
	Allow bool
}

// Source returns the n-th check of a run, counted from 0 over all workers.
type Source func(n int64) Check

// Load describes the checks that a Driver sends.
type Load struct {
	Duration time.Duration // how long new checks are sent
	Checks   int64         // maximum number of checks; 0 means no limit
	InFlight int           // number of concurrent checks
	// Rate is the number of checks per second in an open loop: each check is
	// due at a fixed time, even if earlier ones are unanswered, and its latency
	// counts from then. 0 means a closed loop: a worker sends a check when the
	// last one is answered.
	Rate   float64
	Source Source
}

// Result holds the measurements of a run.
type Result struct {
	Checks  int64 // answered
	Wrong   int64 // answered, but not as expected
	Errors  int64 // RPC errors, not among Checks
	First   error // the first RPC error of one of the workers
	Elapsed time.Duration
	Latency *hdrhistogram.Histogram // nanoseconds
}

// PerSecond returns the number of answered checks per second.
func (r Result) PerSecond() float64 { return float64(r.Checks) / r.Elapsed.Seconds() }

// Quantile returns the latency at quantile q, between 0 and 1.
func (r Result) Quantile(q float64) time.Duration {
	return time.Duration(r.Latency.ValueAtQuantile(100 * q))
}

// Driver is a client of one server. Only one Run may use it at a time.
type Driver struct{ conns []connection }

// connection sends encoded requests.
type connection interface {
	// ask sends a request and reports whether the answer allows.
	ask(ctx context.Context, wire []byte) (allowed bool, err error)
	Close() error
}

// NewDriver returns a client with the given number of gRPC connections to target.
// Each is made when it is first used. Workers share them.
func NewDriver(target string, connections int) (*Driver, error) {
	d := &Driver{}
	for range max(connections, 1) {
		c, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wireCodec{}), grpc.WaitForReady(true))) // retry a refused connection
		if err != nil {
			return nil, errors.Join(fmt.Errorf("driver: %w", err), d.Close())
		}
		d.conns = append(d.conns, grpcConnection{c})
	}
	return d, nil
}

// Close closes the connections.
func (d *Driver) Close() error {
	var errs []error
	for _, c := range d.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

const (
	checkMethod = "/envoy.service.auth.v3.Authorization/Check"
	highest     = int64(10 * time.Second)
)

// Run sends the checks and returns the measurements.
func (d *Driver) Run(ctx context.Context, l Load) Result {
	ctx, cancel := context.WithTimeout(ctx, l.Duration+10*time.Second)
	defer cancel()
	var (
		count   atomic.Int64
		turn    sync.Mutex // held by the worker that waits for the next check to be due
		workers sync.WaitGroup
		start   = time.Now()
		end     = start.Add(l.Duration)
		results = make([]Result, l.InFlight)
	)
	next := func() (n int64, due time.Time) {
		if l.Rate == 0 {
			return count.Add(1) - 1, time.Now()
		}
		turn.Lock()
		defer turn.Unlock()
		n = count.Add(1) - 1
		due = start.Add(time.Duration(float64(n) / l.Rate * float64(time.Second)))
		sleepUntil(due)
		return n, due
	}
	for w := range results {
		workers.Go(func() {
			r := &results[w]
			r.Latency = hdrhistogram.New(1, highest, 3)
			for {
				n, due := next()
				if l.Checks > 0 && n >= l.Checks {
					return
				}
				if due.After(end) || ctx.Err() != nil {
					return
				}
				c := l.Source(n)
				allowed, err := d.conns[w%len(d.conns)].ask(ctx, c.Wire)
				if err != nil {
					r.Errors++
					if r.First == nil {
						r.First = err
					}
					continue
				}
				_ = r.Latency.RecordValue(min(int64(time.Since(due)), highest)) // never out of range
				r.Checks++
				if allowed != c.Allow {
					r.Wrong++
				}
			}
		})
	}
	workers.Wait()
	total := Result{Elapsed: time.Since(start), Latency: hdrhistogram.New(1, highest, 3)}
	for _, r := range results {
		total.Checks += r.Checks
		total.Wrong += r.Wrong
		total.Errors += r.Errors
		if total.First == nil {
			total.First = r.First
		}
		total.Latency.Merge(r.Latency)
	}
	return total
}

// sleepUntil keeps its thread. Go's own sleep would be late by up to a millisecond in an idle
// process, because the runtime waits in whole milliseconds.
func sleepUntil(due time.Time) {
	for d := time.Until(due); d > 0; d = time.Until(due) {
		ts := syscall.NsecToTimespec(int64(d))
		_ = syscall.Nanosleep(&ts, nil) // ends early on a signal
	}
}

type grpcConnection struct{ *grpc.ClientConn }

func (c grpcConnection) ask(ctx context.Context, wire []byte) (bool, error) {
	var answer []byte
	err := c.Invoke(ctx, checkMethod, &wire, &answer)
	return allowed(answer), err
}

// allowed reports whether the answer explicitly allows: its first field is a
// status with code 0. All servers compared here encode the status first.
func allowed(answer []byte) bool { return bytes.HasPrefix(answer, []byte{0x0a, 0x00}) }

// wireCodec sends and receives encoded messages as they are.
type wireCodec struct{}

var _ encoding.CodecV2 = wireCodec{}

func (wireCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("bytes are needed, not %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

func (wireCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("bytes are needed, not %T", v)
	}
	*b = data.Materialize()
	return nil
}

func (wireCodec) Name() string { return "proto" }
