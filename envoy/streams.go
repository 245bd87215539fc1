package envoy

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"jwtbouncer/authz"
)

const (
	// recheckInterval is the time after which every open stream is examined again, whatever
	// happened: tokens expire, and proofs of freshness end.
	recheckInterval = time.Second
	// askInterval is the least time between two questions about one stream to the store or to an
	// issuer.
	askInterval = 5 * time.Second
	// askTime limits one such question. It is the longest introspection[].timeout: nobody waits for
	// the answer, and a slow issuer must not end streams.
	askTime = 10 * time.Second
	// maxAsking is the maximum number of such questions at the same time: to the store, and to
	// issuers.
	maxAsking = 8
	// retryInterval is the time after which a question is asked again that was refused because too
	// many are under way.
	retryInterval = 100 * time.Millisecond
)

// StreamAuthorizer decides again about the token of an open stream; see authz.Authorizer.
type StreamAuthorizer interface {
	Recheck(ctx context.Context, g *authz.Grant) authz.Decision
	RecheckNow(g *authz.Grant) (d authz.Decision, decided bool)
}

// streams holds the open streams that end with their tokens. It examines all of them when
// revocations arrive and every recheckInterval: an examination is a few lookups in memory, and needs
// no index from revocations to streams that could be wrong. Streams that memory alone cannot decide
// about are asked about by two other goroutines, one for those whose issuer is asked: so a slow issuer
// delays no stream that needs only the store, and a slow store none that needs neither.
type streams struct {
	authorizer StreamAuthorizer
	responder  *responder

	mu   sync.Mutex
	open []*openStream

	undecided [2]chan struct{} // wakes the goroutine that asks the store, and the one for issuers
	ctx       context.Context  // of the questions; it ends with close
	cancel    context.CancelFunc
	loops     sync.WaitGroup
}

// openStream is a stream that ends when its token does.
type openStream struct {
	streams   *streams
	end       func(plan []byte)
	grant     atomic.Pointer[authz.Grant]
	requestID string
	grpc      bool
	issuer    bool // its token's issuer is asked
	opened    time.Time
	asked     time.Time // when the last question was sent; used by ask alone
	index     int       // in streams.open; -1: not there any more; under streams.mu
}

// newStreams starts the examinations. revoked receives when revocations have become known.
func newStreams(a StreamAuthorizer, r *responder, revoked <-chan struct{}) *streams {
	s := &streams{authorizer: a, responder: r}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for i, issuer := range []bool{false, true} {
		wake := make(chan struct{}, 1)
		s.undecided[i] = wake
		s.loops.Go(func() { s.loop(wake, func() { s.ask(issuer) }) })
	}
	s.loops.Go(func() { s.loop(revoked, s.examine) })
	return s
}

func (s *streams) close() {
	s.cancel()
	s.loops.Wait()
}

func (s *streams) add(w *openStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.index = len(s.open)
	s.open = append(s.open, w)
	s.responder.metrics.openStreams.Inc()
}

// remove reports whether w was still there.
func (s *streams) remove(w *openStream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.index < 0 {
		return false
	}
	last := len(s.open) - 1
	s.open[w.index] = s.open[last]
	s.open[w.index].index = w.index
	s.open[last], w.index = nil, -1
	s.open = s.open[:last]
	s.responder.metrics.openStreams.Dec()
	if cap(s.open) > 1024 && last < cap(s.open)/4 {
		s.open = slices.Clip(slices.Clone(s.open))
	}
	return true
}

// all returns the open streams, in a copy: worker threads of Envoy must not wait for an examination.
func (s *streams) all() []*openStream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.open)
}

// loop calls sweep after each wake, and every recheckInterval. After a sweep it rests three times as
// long, so that a flood of revocations keeps no core busy.
func (s *streams) loop(wake <-chan struct{}, sweep func()) {
	tick := time.NewTicker(recheckInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		case <-wake:
		}
		start := time.Now()
		sweep()
		rest := time.NewTimer(min(3*time.Since(start), recheckInterval))
		select {
		case <-s.ctx.Done():
			rest.Stop()
			return
		case <-rest.C:
		}
	}
}

// examine ends the streams that memory proves to be over.
func (s *streams) examine() {
	decided := true
	for _, w := range s.all() {
		decided = w.recheckNow() && decided
	}
	if decided {
		return
	}
	for _, wake := range s.undecided {
		select {
		case wake <- struct{}{}:
		default: // it is awake
		}
	}
}

// ask ends the streams about which memory proves nothing unless the store confirms them or, of those
// with issuer, the issuer.
func (s *streams) ask(issuer bool) {
	var asking sync.WaitGroup
	defer asking.Wait()
	slots := make(chan struct{}, maxAsking)
	for _, w := range s.all() {
		if w.issuer != issuer || time.Since(w.asked) < askInterval || w.recheckNow() {
			continue
		}
		w.asked = time.Now()
		select {
		case slots <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
		asking.Go(func() {
			defer func() { <-slots }()
			w.recheck()
		})
	}
}

// recheckNow reports whether memory alone has decided about the stream.
func (w *openStream) recheckNow() bool {
	d, decided := w.streams.authorizer.RecheckNow(w.grant.Load())
	if decided {
		w.judge(&d)
	}
	return decided
}

func (w *openStream) recheck() {
	ctx, cancel := context.WithTimeout(w.streams.ctx, askTime)
	defer cancel()
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	for {
		d := w.streams.authorizer.Recheck(ctx, w.grant.Load())
		if d.Reason != authz.ReasonOverloaded || ctx.Err() != nil { // others' questions must not end it
			w.judge(&d)
			return
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
		}
	}
}

// judge ends the stream unless d allows it. A stream is ended once.
func (w *openStream) judge(d *authz.Decision) {
	if d.Allowed() && d.Grant != nil {
		w.grant.Store(d.Grant)
		return
	}
	if w.streams.remove(w) {
		w.finish(d)
	}
}

// finish ends the stream first, and then records that. A panic ends there: it must not end Envoy.
func (w *openStream) finish(d *authz.Decision) {
	defer func() { _ = recover() }()
	r := w.streams.responder
	w.end(endingPlan(r.denials.response(d, w.grpc)))
	r.metrics.streamsEnded.WithLabelValues(d.Reason.String()).Inc()
	r.log.ended(w.requestID, d, time.Since(w.opened))
}

// endingPlan returns a denial as the plan that ends a stream.
func endingPlan(denial []byte) []byte {
	plan := slices.Clone(denial)
	plan[0] = PlanEndStream
	return plan
}

// Watch watches the stream of an allowed request. It calls end with the plan that ends the stream
// once the token is no longer good: at most once, from any goroutine, perhaps before Watch returns,
// and after stop only if the call has begun before. end must not block. A revocation that arrives
// between the decision and the call of Watch is not missed. The caller calls stop when the stream has
// ended by itself; further calls do nothing.
type Watch = func(end func(plan []byte)) (stop func())

// watch returns the Watch of a decided request; nil: its stream is not watched. It keeps no part of
// the request.
func (s *streams) watch(req *authz.Request, d *authz.Decision, grpc bool) Watch {
	if d.Grant == nil {
		return nil
	}
	grant, id := d.Grant, strings.Clone(requestID(req))
	return func(end func(plan []byte)) (stop func()) {
		w := &openStream{streams: s, end: end, requestID: id, grpc: grpc, issuer: grant.Introspected(), opened: time.Now()}
		w.grant.Store(grant)
		s.add(w)
		w.recheckNow() // what has become known since the decision, nobody else would notice
		return func() { s.remove(w) }
	}
}
