package page

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// sampleEvery is the time between two samples. One costs a gathering of the
	// metrics, which /metrics costs as well.
	sampleEvery = 5 * time.Second
	// retained is how many points are kept: an hour of them. They take about 100 kB,
	// allocated at the start, however many requests there are.
	retained = int(time.Hour / sampleEvery)
)

// point is what happened between two samples.
type point struct {
	seconds       float32   // between them; 0: there is no such point
	rates         []float32 // decisions per second, by authz.Reason
	p50, p90, p99 float32   // of the time to decide, in seconds; 0: nothing was decided
}

// series keeps the points of the last hour.
type series struct {
	mu     sync.Mutex
	points [retained]point // a ring
	next   int
	last   sample
	full   bool // a sample was added
	heard  map[string]heard
}

// heard is when a dependency last answered and last failed, by authz.Clock.Boot, as
// exactly as samples are apart; 0: never.
type heard struct{ good, failed time.Duration }

func newSeries() *series {
	s := &series{heard: map[string]heard{}}
	rates := make([]float32, retained*len(reasons))
	for i := range s.points {
		s.points[i].rates, rates = rates[:len(reasons):len(reasons)], rates[len(reasons):]
	}
	return s
}

// add ends a point with a sample. A sample without metrics is passed over.
func (s *series) add(now sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	elapsed := (now.at - s.last.at).Seconds()
	if now.sections == 0 || s.full && elapsed <= 0 {
		return
	}
	for _, a := range now.asked { // as many as are configured
		h := s.heard[a.name]
		var was asked
		if i := slices.IndexFunc(s.last.asked, func(b asked) bool { return a.name == b.name }); i >= 0 {
			was = s.last.asked[i]
		}
		if a.good > was.good {
			h.good = now.at
		}
		if a.failed > was.failed {
			h.failed = now.at
		}
		s.heard[a.name] = h
	}
	if s.full {
		p := &s.points[s.next]
		s.next = (s.next + 1) % retained
		p.seconds = float32(elapsed)
		for i := range p.rates {
			p.rates[i] = float32(max(0, now.reasons[i]-s.last.reasons[i]) / elapsed)
		}
		p.p50, p.p90, p.p99 = float32(quantile(now.buckets, s.last.buckets, .5)), float32(quantile(now.buckets, s.last.buckets, .9)), float32(quantile(now.buckets, s.last.buckets, .99))
	}
	s.last, s.full = now, true
}

// window returns the last n points, oldest first, as groups averaged into one: the
// rates are means and the percentiles the highest of their group. A point that there
// is not, because the process is younger, has no seconds.
func (s *series) window(n, group int) []point {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]point, n/group)
	for i := range out {
		o := &out[i]
		o.rates = make([]float32, len(reasons))
		for j := range group {
			p := &s.points[(s.next+2*retained-n+i*group+j)%retained]
			o.seconds += p.seconds
			for k, rate := range p.rates {
				o.rates[k] += rate * p.seconds
			}
			o.p50, o.p90, o.p99 = max(o.p50, p.p50), max(o.p90, p.p90), max(o.p99, p.p99)
		}
		for k := range o.rates {
			if o.seconds > 0 {
				o.rates[k] /= o.seconds
			}
		}
	}
	return out
}

// sources returns what there is to say of the dependencies in m.
func (s *series) sources(m sample) []source {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]source, 0, len(m.asked))
	for _, a := range m.asked {
		h := s.heard[a.name]
		v := source{Name: a.name, About: a.about, State: "good", Word: "working", Age: "never"}
		if h.good > 0 {
			v.Age = ago(m.at - h.good)
		}
		switch {
		case h.failed > h.good:
			v.State, v.Word, v.Reason = "warning", "failing", "the last requests to it failed "+ago(m.at-h.failed)
		case h.good == 0:
			v.Word = "not asked yet"
		}
		out = append(out, v)
	}
	return out
}

// run adds samples until ctx ends.
func (p *page) run(ctx context.Context) error {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		p.series.add(p.take())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (p *page) take() sample { return take(p.api.Options().Gatherer, p.clock.Boot()) }
