package load

import (
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/cache"
)

// BenchmarkFleet measures what a fleet of sidecars costs the store and how soon
// they deny. `make bench-fleet` runs it.
func BenchmarkFleet(b *testing.B) {
	for b.Loop() {
		began := time.Now()
		length, direct := *fleetPhase, *fleetDirect
		sizes, rates := numbers(b, *fleetSizes), numbers(b, *fleetRates)
		if *fleetShort {
			length, direct, sizes = 5*time.Second, min(direct, 20), []int{100}
		}
		var all []installation
		for _, redis := range []bool{false, true} {
			if direct > 0 {
				all = append(all, installation{sidecars: direct, redis: redis})
			}
			for _, n := range sizes {
				all = append(all, installation{sidecars: n, pooled: true, redis: redis})
			}
		}
		var phases []phase
		var storms []storm
		for _, i := range all {
			b.Run(i.String(), func(b *testing.B) {
				for b.Loop() {
					f := startFleet(b, i, *fleetLive, *fleetProcesses)
					storms = append(storms, f.start(b, 3*time.Minute))
					b.Logf("start: %d of %d ready in %s", len(storms[len(storms)-1].ready), i.sidecars, storms[len(storms)-1].lasted.Round(time.Millisecond))
					// The syncs that follow a storm at once are not those of an idle fleet.
					f.measure(b, 0, 3*time.Second)
					idle := f.measure(b, 0, length)
					phases = append(phases, idle)
					for _, rate := range rates {
						p := f.measure(b, float64(rate), length)
						// Beyond the idle fleet's and the revocations themselves.
						p.perRevocation = max(p.statements-idle.statements-p.rate, 0) / p.rate / float64(i.sidecars)
						phases = append(phases, p)
						b.Logf("%s at %d/s: postgres %.2f cores, deny p50 %s", i, rate, p.postgres, at(p.deny, 0.5))
					}
					f.ask(b, FleetCommand{Op: "stop"})
				}
			})
		}
		text := fleetTable(phases) + "\n" + stormTable(storms) + "\n" + extrapolation(phases, storms)
		b.Log("\n" + text)
		for _, p := range phases {
			assert.Zerof(b, p.allowed, "%s at %.0f/s: sidecars that vouched for a revoked token beyond the bound", p.installation, p.rate)
		}
		if *report != "" {
			splice(b, *report, "fleet", fmt.Sprintf("%s each, %d live revocations, %d processes, %s in all", length, *fleetLive, *fleetProcesses, time.Since(began).Round(time.Second)), text)
			rows := make([]row, len(phases))
			for i, p := range phases {
				rows[i] = row{name: p.installation.String() + ": " + p.what(), ratio: p.postgres}
				if p.rate == 0 {
					rows[i].name = "**" + rows[i].name + "**"
				}
			}
			plot(b, "performance-fleet.svg", "Postgres CPU, cores (less is better)", rows, func(r row) float64 { return r.ratio })
		}
	}
}

func numbers(t testing.TB, list string) (out []int) {
	t.Helper()
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		require.NoErrorf(t, err, "%q is not a list of numbers", list)
		out = append(out, n)
	}
	return out
}

func (p phase) what() string {
	if p.rate == 0 {
		return "idle"
	}
	return fmt.Sprintf("%.0f revocations/s", p.rate)
}

// interval is the default sync_interval in seconds.
func interval() float64 { return cache.DefaultRevocationConfig().SyncInterval.Seconds() }

// behind reports whether an idle fleet synced less often than it is configured to:
// the machine was too small, and CPU time measured on it is a lower bound.
func (p phase) behind() bool {
	return p.rate == 0 && p.statements < 0.85*float64(p.sidecars)/interval()
}

func fleetTable(phases []phase) string {
	var b strings.Builder
	b.WriteString("| fleet | revocations/s | Postgres CPU, cores | statements/s | statements per revocation and sidecar | pgbouncer, Redis CPU | bytes/s per sidecar, to the store + to Redis | revoke p50, p99 | revoke to deny p50, p99 | staleness p99 |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, p := range phases {
		per, rate, note := "–", "idle", ""
		if p.rate > 0 {
			per, rate = fmt.Sprintf("%.2f", p.perRevocation), fmt.Sprintf("%.0f", p.rate)
		}
		if p.behind() {
			note = " (behind)"
		}
		pool, redis, toRedis := "–", "–", "–"
		if p.pooled {
			pool = fmt.Sprintf("%.2f", p.pool)
		}
		if p.installation.redis {
			redis, toRedis = fmt.Sprintf("%.2f", p.redis), fmt.Sprintf("%.0f", p.redisBytes)
		}
		denied := at(p.deny, 0.5) + ", " + at(p.deny, 0.99)
		if p.never > 0 {
			denied += fmt.Sprintf(" (%d of %d not in 35 s)", p.never, p.watches)
		}
		revoked := at(p.revoke, 0.5) + ", " + at(p.revoke, 0.99)
		if p.failed > 0 {
			revoked += fmt.Sprintf(" (%d failed)", p.failed)
		}
		fmt.Fprintf(&b, "| %s | %s | %.2f%s | %.0f | %s | %s, %s | %.0f + %s | %s | %s | %s |\n",
			p.installation, rate, p.postgres, note, p.statements, per, pool, redis, max(p.bytes-p.redisBytes, 0), toRedis, revoked, denied, at(p.staleness, 0.99))
	}
	return b.String()
}

func stormTable(storms []storm) string {
	var b strings.Builder
	b.WriteString("| all start at once | ready | half, all ready after | Postgres CPU | per sidecar | revoke p50, p99 meanwhile |\n|---|---:|---:|---:|---:|---:|\n")
	for _, s := range storms {
		revoked := at(s.revoke, 0.5) + ", " + at(s.revoke, 0.99)
		if s.failed > 0 {
			revoked += fmt.Sprintf(" (%d failed)", s.failed)
		}
		fmt.Fprintf(&b, "| %s | %d | %s, %s | %.1f s | %.1f ms | %s |\n", s.installation, len(s.ready), at(s.ready, 0.5), at(s.ready, 1),
			s.postgres.Seconds(), 1e3*s.postgres.Seconds()/float64(s.sidecars), revoked)
	}
	return b.String()
}

// notKeptUp names the phases in which staleness was above the bound.
func notKeptUp(phases []phase) (names []string) {
	for _, p := range phases {
		if n := len(p.staleness); n > 0 && p.staleness[99*n/100] > cache.DefaultRevocationConfig().MaxStaleness {
			names = append(names, p.installation.String()+" ("+p.what()+")")
		}
	}
	return names
}

// extrapolation says what the rows mean for 10,000 sidecars. It multiplies the CPU
// time of a statement and the number of statements, which do not depend on the
// fleet's size; it does not draw a line through saturated rows.
func extrapolation(phases []phase, storms []storm) string {
	const fleet = 10_000
	var b strings.Builder
	var last phase
	if late := notKeptUp(phases); len(late) > 0 {
		fmt.Fprintf(&b, "**Did not keep up on this machine:** %s. At least one sidecar in a hundred was older than max_staleness there, and answered 503.\n", strings.Join(late, "; "))
	}
	for _, redis := range []bool{false, true} {
		// The largest pooled fleet that the machine could serve tells what a
		// statement costs.
		var idle *phase
		for i, p := range phases {
			if p.rate == 0 && p.pooled && p.installation.redis == redis && p.statements > 0 && (idle == nil || !p.behind() || idle.behind()) {
				idle = &phases[i]
			}
		}
		if idle == nil {
			continue
		}
		last = *idle
		with := "Without Redis"
		if redis {
			with = "With Redis"
		}
		statement := idle.postgres / idle.statements
		syncs := fleet / interval()
		fmt.Fprintf(&b, "%s, an idle sync cost %.2f ms of Postgres CPU (row: %s). **10,000 idle sidecars** send %.0f a second: **%.1f cores**", with, 1e3*statement, idle.installation, syncs, syncs*statement)
		if idle.behind() {
			b.WriteString(", more than this machine has: the measured fleet was behind already")
		}
		for _, p := range phases {
			if p.installation == idle.installation && p.rate > 0 {
				fmt.Fprintf(&b, "; at %.0f/s, a revocation adds %.2f statements per sidecar, which are %.1f cores", p.rate, p.perRevocation, p.perRevocation*p.rate*fleet*statement)
				if redis {
					fmt.Fprintf(&b, " and %.1f MB/s from Redis", p.redisBytes*fleet/1e6)
				}
			}
		}
		b.WriteString(".\n")
	}
	if last.statements > 0 && last.sessions > 0 {
		fmt.Fprintf(&b, "A sidecar held %.1f connections; pgbouncer needed %d to the server. 10,000 sidecars hold %.0f, more than one pgbouncer should have: [operations.md](operations.md#a-fleet) says how many to run.\n",
			float64(last.clients)/float64(last.sidecars), last.sessions, float64(last.clients)/float64(last.sidecars)*fleet)
	}
	if i := slices.IndexFunc(storms, func(s storm) bool { return s.pooled }); i >= 0 {
		s := storms[i]
		for _, other := range storms {
			if other.pooled && other.sidecars > s.sidecars && len(other.ready) == other.sidecars {
				s = other
			}
		}
		each := s.postgres.Seconds() / float64(s.sidecars)
		fmt.Fprintf(&b, "A cold start cost %.0f ms of Postgres CPU per sidecar with %d live revocations; 10,000 at once would keep one core busy for %.0f s.\n", 1e3*each, *fleetLive, each*fleet)
	}
	fmt.Fprintf(&b, "What was extrapolated is CPU time per statement times the number of statements; it was measured on %d processors that the sidecars, pgbouncer and Redis shared.\n", runtime.NumCPU())
	return strings.ReplaceAll(b.String(), ".\n", ".\n\n")
}

func TestFleetReport(t *testing.T) {
	t.Parallel()
	idle := phase{installation: installation{sidecars: 100, pooled: true, redis: true}, postgres: 0.5, statements: 50, clients: 300, sessions: 20}
	busy := idle
	busy.rate, busy.perRevocation, busy.redisBytes = 50, 0.1, 1000
	busy.deny, busy.never, busy.watches = []time.Duration{time.Millisecond, time.Millisecond, time.Second}, 1, 4
	late := phase{installation: installation{sidecars: 1000, pooled: true, redis: true}, postgres: 1.9, statements: 200, staleness: []time.Duration{time.Second, 31 * time.Second}}
	text := fleetTable([]phase{idle, busy, late})
	assert.Contains(t, text, "| 100 sidecars, Redis | idle | 0.50 | 50 |")
	assert.Contains(t, text, "1.0 ms, 1.0 s (1 of 4 not in 35 s)")
	assert.Contains(t, text, "| 1000 sidecars, Redis | idle | 1.90 (behind) |")
	text = extrapolation([]phase{idle, busy, late}, []storm{{installation: late.installation, ready: make([]time.Duration, 1000), postgres: 10 * time.Second}})
	for _, want := range []string{
		"an idle sync cost 10.00 ms of Postgres CPU (row: 100 sidecars, Redis)", "**50.0 cores**", // 5,000 syncs a second
		"at 50/s, a revocation adds 0.10 statements per sidecar, which are 500.0 cores and 10.0 MB/s from Redis", // 0.1 × 50 × 10,000 × 10 ms
		"Did not keep up on this machine:** 1000 sidecars, Redis (idle). At least", "3.0 connections", "hold 30000", "keep one core busy for 100 s",
	} {
		assert.Contains(t, text, want)
	}
}
