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
		cpu: (after.CPU - before.CPU) / time.Duration(r.Checks), peak: after.Peak,
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
	ratio float64
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
		rows[i] = row{name: c.name, sample: median(samples[i])}
		ratios := make([]float64, *rounds)
		for r := range ratios {
			ratios[r] = float64(samples[i][r].cpu) / float64(samples[base][r].cpu)
		}
		slices.Sort(ratios)
		rows[i].ratio = ratios[len(ratios)/2]
	}
	return rows
}

// table renders rows as Markdown.
func table(first string, rows []row) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | checks/s | p50 | p99 | p99.9 | server CPU per check | ratio | peak memory |\n|---|---:|---:|---:|---:|---:|---:|---:|\n", first)
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %.0f | %s | %s | %s | %.1f µs | %.2f | %d MB |\n",
			r.name, r.perSecond, micro(r.p50), micro(r.p99), micro(r.max), float64(r.cpu)/1e3, r.ratio, r.peak>>20)
	}
	return b.String()
}

func micro(d time.Duration) string {
	if d >= 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.2f ms", float64(d)/1e6)
}
