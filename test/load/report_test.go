package load

import (
	"context"
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

var (
	report      = flag.String("load.report", "", "Markdown file whose measured sections are rewritten, with plots beside it; empty means only the log")
	only        = flag.String("load.only", "", "sections to measure, separated by commas; empty means all")
	revocations = flag.Int("load.revocations", 1_000_000, "number of live revocations in rows that mention them")
)

// section is a part of the report.
type section struct {
	name  string
	write func(b *testing.B, w *world) string
}

var sections = []section{
	{"hot", hotSection},
	{"half", halfSection},
	{"cold", coldSection},
	{"mixes", mixesSection},
	{"calls", callsSection},
	{"envoy", envoySection},
	{"envoy-cold", envoyColdSection},
	{"envoy-low", envoyLowSection},
	{"envoy-two", envoyTwoSection},
	{"streams", streamsSection},
	{"growth", growthSection},
}

// BenchmarkReport measures everything side by side. `make bench-load` runs it.
func BenchmarkReport(b *testing.B) {
	for b.Loop() {
		for _, s := range sections {
			if *only != "" && !slices.Contains(strings.Split(*only, ","), s.name) {
				continue
			}
			b.Run(s.name, func(b *testing.B) {
				for b.Loop() {
					text := s.write(b, newWorld(b))
					b.Log("\n" + text)
					if *report != "" {
						splice(b, *report, s.name, fmt.Sprintf("%d rounds of %s, medians", *rounds, *length), text)
					}
				}
			})
		}
	}
}

// splice replaces the text between the section's markers. how says how it was
// measured.
func splice(t testing.TB, file, name, how, text string) {
	t.Helper()
	old, err := os.ReadFile(file)
	require.NoError(t, err)
	begin, end := "<!-- measured: "+name+" -->\n", "<!-- end: "+name+" -->"
	before, rest, ok := strings.Cut(string(old), begin)
	_, after, ok2 := strings.Cut(rest, end)
	require.Falsef(t, !ok || !ok2, "%s has no section %q", file, name)
	stamp := fmt.Sprintf("*%d CPUs, %s, %s; load average before: %s.*\n\n", runtime.NumCPU(), runtime.Version(), how, loadAverage())
	require.NoError(t, os.WriteFile(file, []byte(before+begin+wrapped(stamp+text)+end+after), 0o644))
}

// wrapped breaks paragraphs at 100 columns, as the pages under docs do. Rows of
// tables stay whole.
func wrapped(text string) string {
	const columns = 100
	var b strings.Builder
	for line := range strings.Lines(text) {
		for !strings.HasPrefix(line, "|") && len(strings.TrimSuffix(line, "\n")) > columns {
			at := strings.LastIndexByte(line[:columns+1], ' ')
			if at <= 0 {
				break
			}
			b.WriteString(line[:at] + "\n")
			line = line[at+1:]
		}
		b.WriteString(line)
	}
	return b.String()
}

func TestReportIsWrapped(t *testing.T) {
	t.Parallel()
	words := strings.Repeat("word ", 50)
	row := "| " + words + "|\n"
	got := wrapped("short\n" + words + "\n" + row)
	require.Equal(t, strings.Join(strings.Fields("short "+words+row), " "), strings.Join(strings.Fields(got), " "))
	require.Contains(t, got, row)
	for line := range strings.Lines(strings.ReplaceAll(got, row, "")) {
		require.LessOrEqual(t, len(line), 101)
	}
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(text))[0]
}

func closed() Load { return Load{Duration: *length, InFlight: 32} }

// hotSection compares the product on known tokens with servers that do less. Two
// of them are there twice: as examples show them, and with the product's
// collector pacing and gRPC settings, so that what remains is the work on a check.
func hotSection(b *testing.B, w *world) string {
	hot := InTurn(w.checks("RS256", "hot", 100))
	const stock, equal, floor, product = 0, 1, 3, 4
	rows := compare(b, []contender{
		stock:   {"stock no-op (generated types, does nothing)", w.baseline(b, "noop"), hot},
		equal:   {"the same no-op, with the product's settings", w.tuned(b, "noop"), hot},
		2:       {"transport floor (nothing decoded, constant answer)", w.baseline(b, "floor"), hot},
		floor:   {"the same floor, with the product's settings", w.tuned(b, "floor"), hot},
		product: {"**jwt-bouncer**, token seen before", w.product(b, "", "", ""), hot},
		5:       {"verify only (jwx, RS256), every time", w.baseline(b, "verify"), hot},
		6:       {"verify + Redis GET", w.baseline(b, "redis"), hot},
		7:       {"verify + Postgres SELECT", w.baseline(b, "postgres"), hot},
	}, stock, closed())
	plot(b, "performance-cpu.svg", "server CPU per check, µs (less is better)", rows, func(r row) float64 { return float64(r.cpu) / 1e3 })
	ours := rows[product]
	return tableTo("32 in flight, 4 connections", rows, rows[equal]) + fmt.Sprintf(
		"\nA check costs **%.2f** of the stock no-op, and **%.2f** of the same no-op with equal settings. It costs %.2f of the equally tuned floor: the difference is everything that the product does with a check.\n",
		ours.ratio, ours.ratioTo(rows[equal]), ours.ratioTo(rows[floor]))
}

// halfSection measures latency at half of the no-op server's throughput.
func halfSection(b *testing.B, w *world) string {
	hot := InTurn(w.checks("RS256", "half", 100))
	noop, tuned, product := w.baseline(b, "noop"), w.tuned(b, "noop"), w.product(b, "", "", "")
	full := compare(b, []contender{{"no-op", noop, hot}}, 0, closed())[0].perSecond
	l := closed()
	l.InFlight, l.Rate = 128, math.Round(full/2)
	rows := compare(b, []contender{{"stock no-op", noop, hot}, {"the same no-op, with the product's settings", tuned, hot}, {"**jwt-bouncer**, token seen before", product, hot}}, 0, l)
	return fmt.Sprintf("Open loop at %.0f checks/s, half of what the stock no-op server did at most.\n\n", l.Rate) + tableTo("half load", rows, rows[1])
}

// coldSection measures the verification of new tokens. Each round starts a new
// process.
func coldSection(b *testing.B, w *world) string {
	var rows []row
	for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
		const n = 8000
		checks := w.checks(alg, "cold", n)
		verify := w.baseline(b, "verify")
		var samples [2][]sample
		for range *rounds {
			l := Load{Duration: time.Minute, Checks: n, InFlight: 32, Source: InTurn(checks)}
			samples[0] = append(samples[0], measure(b, verify, verify.driver(b, 4), l))
			fresh := w.product(b, "", "", "")
			d := fresh.driver(b, 4)
			samples[1] = append(samples[1], measure(b, fresh, d, l))
			fresh.stop()
		}
		var ratios []float64
		for r := range samples[0] {
			ratios = append(ratios, float64(samples[1][r].cpu)/float64(samples[0][r].cpu))
		}
		slices.Sort(ratios)
		rows = append(rows,
			row{name: "verify only, " + alg, sample: median(samples[0]), ratio: 1},
			row{name: "**jwt-bouncer**, " + alg + ", every token new", sample: median(samples[1]), ratio: ratios[len(ratios)/2]})
	}
	return table("every token new", rows)
}

// revoke inserts n revocations of the jti PREFIX-0, PREFIX-1, … into the database.
func revoke(t testing.TB, pg *harness.PG, prefix string, n int) {
	t.Helper()
	const part = 50_000
	for from := 0; from < n; from += part {
		pg.Exec(t, `insert into authz.revocations (kind, iss, value, expires_at)
			select 1, 'https://issuer.example.com', $1::text || '-' || i, now() + interval '2 hours' from generate_series($2::int, $3::int - 1) i`,
			prefix, from, min(from+part, n))
	}
}

// mixesSection measures realistic mixes of known, new and revoked tokens.
func mixesSection(b *testing.B, w *world) string {
	pg := w.needPostgres(b)
	first := w.product(b, pg.URL, "", "") // creates the schema
	first.stop()
	hot := w.checks("ES256", "hot", 100)
	wide := w.checks("ES256", "wide", 100_000)
	one, half := w.checks("ES256", "one", 1000), w.checks("ES256", "half", 1000)
	revoke(b, pg, "filler", *revocations)
	revoke(b, pg, "one", 10)
	revoke(b, pg, "half", 500)
	for i := range 10 {
		one[i].Allow = false
	}
	for i := range 500 {
		half[i].Allow = false
	}
	empty, full := w.product(b, "", "", ""), w.product(b, pg.URL, "", "")
	live := fmt.Sprintf("%d live revocations", *revocations)
	return table("ES256", compare(b, []contender{
		{"100 tokens", empty, InTurn(hot)},
		{"100 000 tokens, Zipf, many of them new", empty, Zipf(wide, 1)},
		{"100 tokens, " + live, full, InTurn(hot)},
		{"1 % revoked, " + live, full, InTurn(one)},
		{"50 % revoked, " + live, full, InTurn(half)},
	}, 0, closed()))
}

// callsSection counts the calls to Redis and PostgreSQL under load.
func callsSection(b *testing.B, w *world) string {
	pg, rd := w.needPostgres(b), w.needRedis(b)
	s := w.product(b, pg.URL, rd.URL, "")
	d := s.driver(b, 4)
	l := closed()
	l.Duration, l.Source = 10*time.Second, InTurn(w.checks("ES256", "calls", 5000))
	conn := pg.Connect(b)
	statements := func() (n int64) {
		require.NoError(b, conn.QueryRow(b.Context(), "select xact_commit + xact_rollback from pg_stat_database where datname = $1", pg.Database).Scan(&n))
		return n
	}
	commands := func() (n int64) {
		text, _ := rd.Do(b, "info", "stats").(string)
		_, rest, _ := strings.Cut(text, "total_commands_processed:")
		_, err := fmt.Sscan(rest, &n)
		require.NoError(b, err)
		return n
	}
	pgBefore, redisBefore := statements(), commands()
	r := d.Run(context.Background(), l)
	require.Zerof(b, r.Wrong, "wrong, %d errors", r.Errors)
	require.Zerof(b, r.Errors, "%d wrong, errors", r.Wrong)
	harness.Pause(b.Context(), time.Second) // a session reports its statistics at most once a second
	pgCalls, redisCalls := statements()-pgBefore, commands()-redisBefore
	million := func(n int64) float64 { return float64(n) * 1e6 / float64(r.Checks) }
	return fmt.Sprintf("%d checks in %s, replica mode, Redis and Postgres connected: %d Postgres transactions and %d Redis commands, those of this measurement included. "+
		"That is %.0f and %.0f per million checks; they come with time (a sync every 2 s, PINGs), not with checks.\n",
		r.Checks, r.Elapsed.Round(time.Second), pgCalls, redisCalls, million(pgCalls), million(redisCalls))
}
