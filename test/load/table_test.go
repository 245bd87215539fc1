package load

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	rounds = flag.Int("load.rounds", 5, "number of rounds over all servers of a comparison")
	length = flag.Duration("load.length", 3*time.Second, "duration of the load on each server in a round")
)

// sample holds the measurements of one server in one round.
type sample struct {
	perSecond     float64
	p50, p99, max time.Duration // max: the 99.9th percentile
	cpu           time.Duration // of the server, per check
	peak          int64
	checks        int64
}

// measure puts s under load once. Every answer must be right.
func measure(t testing.TB, s *server, d *Driver, l Load) sample {
	t.Helper()
	before, err := UsageOf(s.pid)
	require.NoError(t, err)
	r := d.Run(context.Background(), l)
	after, err := UsageOf(s.pid)
	require.NoError(t, err)
	require.Zerof(t, r.Wrong, "%s: %d checks, wrong, %d errors, the first: %v", s.name, r.Checks, r.Errors, r.First)
	require.Zerof(t, r.Errors, "%s: %d checks, %d wrong, errors, the first: %v", s.name, r.Checks, r.Wrong, r.First)
	require.NotZerof(t, r.Checks, "%s: checks, %d wrong, %d errors, the first: %v", s.name, r.Wrong, r.Errors, r.First)
	return sample{
		perSecond: r.PerSecond(), p50: r.Quantile(0.5), p99: r.Quantile(0.99), max: r.Quantile(0.999),
		cpu: (after.CPU - before.CPU) / time.Duration(r.Checks), peak: after.Peak, checks: r.Checks,
	}
}

// median returns a sample of each column's median.
func median(all []sample) sample {
	of := func(get func(sample) float64) float64 {
		v := make([]float64, len(all))
		for i, s := range all {
			v[i] = get(s)
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return sample{
		perSecond: of(func(s sample) float64 { return s.perSecond }),
		p50:       time.Duration(of(func(s sample) float64 { return float64(s.p50) })),
		p99:       time.Duration(of(func(s sample) float64 { return float64(s.p99) })),
		max:       time.Duration(of(func(s sample) float64 { return float64(s.max) })),
		cpu:       time.Duration(of(func(s sample) float64 { return float64(s.cpu) })),
		peak:      int64(of(func(s sample) float64 { return float64(s.peak) })),
	}
}

// contender is a server and the checks that it receives.
type contender struct {
	name   string
	server *server
	source Source
}

// row holds a contender's medians over the rounds. ratio is the median of its
// CPU time relative to the base contender's in the same round.
type row struct {
	name string
	sample
	ratio  float64
	rounds []sample
}

// ratioTo returns the median of r's CPU time relative to base's in the same round.
func (r row) ratioTo(base row) float64 {
	ratios := make([]float64, len(r.rounds))
	for i := range ratios {
		ratios[i] = float64(r.rounds[i].cpu) / float64(base.rounds[i].cpu)
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/2]
}

// compare measures the contenders in turns, so that other load on the machine
// affects all of them. base is the index of the contender that ratios refer to.
func compare(t testing.TB, contenders []contender, base int, l Load) []row {
	t.Helper()
	drivers := make([]*Driver, len(contenders))
	samples := make([][]sample, len(contenders))
	for i, c := range contenders {
		drivers[i] = c.server.driver(t, 4)
		warm := l
		warm.Duration, warm.Source = 500*time.Millisecond, c.source
		drivers[i].Run(context.Background(), warm)
	}
	for range *rounds {
		for i, c := range contenders {
			l.Source = c.source
			samples[i] = append(samples[i], measure(t, c.server, drivers[i], l))
		}
	}
	rows := make([]row, len(contenders))
	for i, c := range contenders {
		rows[i] = row{name: c.name, sample: median(samples[i]), rounds: samples[i]}
	}
	for i := range rows {
		rows[i].ratio = rows[i].ratioTo(rows[base])
	}
	return rows
}

// table renders rows as Markdown.
func table(first string, rows []row) string { return tableTo(first, rows, row{}) }

// tableTo is table with a second ratio, to the row equal, if that has rounds.
func tableTo(first string, rows []row, equal row) string {
	var b strings.Builder
	more, line := "", ""
	if equal.rounds != nil {
		more, line = " ratio, equal settings |", "---:|"
	}
	fmt.Fprintf(&b, "| %s | checks/s | p50 | p99 | p99.9 | server CPU per check | ratio |%s peak memory |\n|---|---:|---:|---:|---:|---:|---:|%s---:|\n", first, more, line)
	for _, r := range rows {
		if equal.rounds != nil {
			more = fmt.Sprintf(" %.2f |", r.ratioTo(equal))
		}
		fmt.Fprintf(&b, "| %s | %.0f | %s | %s | %s | %.1f µs | %.2f |%s %d MB |\n",
			r.name, r.perSecond, micro(r.p50), micro(r.p99), micro(r.max), float64(r.cpu)/1e3, r.ratio, more, r.peak>>20)
	}
	return b.String()
}

func micro(d time.Duration) string {
	if d >= 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.2f ms", float64(d)/1e6)
}
