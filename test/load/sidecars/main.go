// Command sidecars runs many sidecars without listeners in one process: the
// product's own wiring, from the Authorizer to the store and Redis. It obeys the
// commands of test/load on standard input, and ends when that is closed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/envoy/sidecar"
	"jwtbouncer/test/load"
)

func main() {
	n := flag.Int("n", 1, "number of sidecars")
	config := flag.String("config", "", "their configuration file")
	watchers := flag.Int("watchers", 4, "number of sidecars that are asked about a revoked token")
	verbose := flag.Bool("verbose", false, "log warnings of the sidecars")
	flag.Parse()
	f := &fleet{n: *n, config: *config, watchers: *watchers, log: slog.New(slog.DiscardHandler), acked: map[int]time.Duration{}}
	if *verbose {
		f.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var c load.FleetCommand
		if err := in.Decode(&c); err != nil { // the parent has ended
			if err := f.stop(); err != nil {
				fmt.Fprintln(os.Stderr, "sidecars:", err)
			}
			return
		}
		if reply, answered := f.do(c); answered {
			if err := out.Encode(reply); err != nil {
				fmt.Fprintln(os.Stderr, "sidecars:", err)
				os.Exit(1)
			}
		}
	}
}

// fleet is the sidecars of this process.
type fleet struct {
	n, watchers int
	config      string
	log         *slog.Logger

	settings sidecar.Settings
	sidecars []*sidecar.Headless
	sampling context.CancelFunc
	watching sync.WaitGroup

	mu        sync.Mutex
	acked     map[int]time.Duration // by revocation, CLOCK_BOOTTIME
	watches   []load.FleetWatch
	staleness []time.Duration
}

var clock authz.SystemClock

func (f *fleet) do(c load.FleetCommand) (reply load.FleetReply, answered bool) {
	var err error
	switch c.Op {
	case "start":
		reply.Ready, err = f.start(c.Wait)
	case "watch":
		for _, i := range rand.Perm(len(f.sidecars))[:min(f.watchers, len(f.sidecars))] {
			f.watching.Go(func() { f.watch(f.sidecars[i], c) })
		}
		return reply, false
	case "acked":
		f.mu.Lock()
		f.acked[c.ID] = c.At
		f.mu.Unlock()
		return reply, false
	case "account": // every reply has the bytes
	case "begin":
		f.mu.Lock()
		f.watches, f.staleness = nil, nil
		f.mu.Unlock()
	case "collect":
		f.watching.Wait() // a watch ends by itself
		f.mu.Lock()
		reply.Watches, reply.Staleness = f.watches, f.staleness
		f.mu.Unlock()
	case "stop":
		err = f.stop()
	default:
		err = fmt.Errorf("unknown command %q", c.Op)
	}
	if err == nil {
		reply.Bytes, err = load.SocketBytes()
	}
	if err != nil {
		reply.Error = err.Error()
	}
	return reply, true
}

// start starts all sidecars in the same instant, as after an outage of the whole
// cluster, and waits until they are ready.
func (f *fleet) start(wait time.Duration) ([]time.Duration, error) {
	var err error
	if f.settings, err = sidecar.Load(f.config, nil); err != nil {
		return nil, err
	}
	for range f.n {
		h, err := sidecar.NewHeadless(f.settings, f.log, prometheus.NewRegistry())
		if err != nil {
			return nil, err
		}
		f.sidecars = append(f.sidecars, h)
	}
	began := time.Now()
	for _, h := range f.sidecars {
		h.Start()
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.sampling = cancel
	go f.sample(ctx)
	var ready []time.Duration
	seen := make([]bool, f.n)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for time.Since(began) < wait && len(ready) < f.n {
		<-tick.C
		for i, h := range f.sidecars {
			if !seen[i] && h.Ready() {
				seen[i] = true
				ready = append(ready, time.Since(began))
			}
		}
	}
	return ready, nil
}

func (f *fleet) stop() error {
	if f.sampling == nil { // not started, or stopped already
		return nil
	}
	f.sampling()
	f.sampling = nil
	f.watching.Wait()
	errs := make([]error, len(f.sidecars))
	var closing sync.WaitGroup
	for i, h := range f.sidecars {
		closing.Go(func() { errs[i] = h.Close() })
	}
	closing.Wait()
	f.sidecars = nil
	return errors.Join(errs...)
}

// sample records the staleness of every sidecar twice a second.
func (f *fleet) sample(ctx context.Context) {
	sidecars := f.sidecars // stop replaces the slice
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		f.mu.Lock()
		for _, h := range sidecars {
			f.staleness = append(f.staleness, h.Staleness())
		}
		f.mu.Unlock()
	}
}

// watch asks one sidecar about a token until its replica has the revocation, and
// then lets the whole sidecar decide: it must deny. The replica is asked because
// the other tiers would answer for it, and each question would be a load that the
// fleet does not have. The intervals grow with the time that has passed, so that
// a late denial is dated to two per cent.
func (f *fleet) watch(h *sidecar.Headless, c load.FleetCommand) {
	ctx := context.Background()
	w := load.FleetWatch{ID: c.ID}
	query := &authz.Query{
		Keys:     []authz.Key{authz.RevocationKey(authz.KindJTI, f.settings.Issuers[0].Issuer, c.JTI)},
		IssuedAt: time.Now().Unix() - 1, Expires: time.Now().Unix() + 3600,
	}
	bound, began := f.settings.Revocation.MaxStaleness, clock.Boot()
	for {
		asked := clock.Boot()
		verdict, _ := h.Replica(ctx, query) // the error says why it is Unknown
		if verdict == authz.Revoked {
			w.Denied = clock.Boot()
			d := h.Authorize(ctx, &authz.Request{Method: "GET", Path: "/", Headers: []authz.Header{{Name: "authorization", Value: "Bearer " + c.Token}}})
			w.Allowed = w.Allowed || d.Reason != authz.ReasonRevoked
			break
		}
		f.mu.Lock()
		acked, known := f.acked[c.ID]
		f.mu.Unlock()
		if known && asked > acked+bound && verdict == authz.NotRevoked {
			w.Allowed = true
		}
		if asked > began+bound+5*time.Second {
			break
		}
		<-time.After(max(time.Millisecond, (clock.Boot()-began)/50))
	}
	f.mu.Lock()
	f.watches = append(f.watches, w)
	f.mu.Unlock()
}
