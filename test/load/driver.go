package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// Check is an encoded CheckRequest and the expected answer.
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

// Driver is a client of one server.
type Driver struct{ conns []*grpc.ClientConn }

// NewDriver returns a client with the given number of connections to target.
// Each is made when it is first used.
func NewDriver(target string, connections int) (*Driver, error) {
	d := &Driver{}
	for range max(connections, 1) {
		c, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wireCodec{}), grpc.WaitForReady(true))) // retry a refused connection
		if err != nil {
			return nil, errors.Join(fmt.Errorf("driver: %w", err), d.Close())
		}
		d.conns = append(d.conns, c)
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
		next    atomic.Int64
		workers sync.WaitGroup
		start   = time.Now()
		end     = start.Add(l.Duration)
		results = make([]Result, l.InFlight)
	)
	for w := range results {
		workers.Go(func() {
			r := &results[w]
			r.Latency = hdrhistogram.New(1, highest, 3)
			var answer []byte
			for {
				n := next.Add(1) - 1
				if l.Checks > 0 && n >= l.Checks {
					return
				}
				due := time.Now()
				if l.Rate > 0 {
					due = start.Add(time.Duration(float64(n) / l.Rate * float64(time.Second)))
					time.Sleep(time.Until(due)) // the open loop's schedule
				}
				if due.After(end) || ctx.Err() != nil {
					return
				}
				c := l.Source(n)
				answer = nil
				if err := d.conns[w%len(d.conns)].Invoke(ctx, checkMethod, &c.Wire, &answer); err != nil {
					r.Errors++
					if r.First == nil {
						r.First = err
					}
					continue
				}
				_ = r.Latency.RecordValue(min(int64(time.Since(due)), highest)) // never out of range
				r.Checks++
				if allowed(answer) != c.Allow {
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
