package load

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/envoy/sidecar"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

var (
	fleetSizes     = flag.String("fleet.sizes", "100,1000", "numbers of sidecars behind pgbouncer, separated by commas")
	fleetDirect    = flag.Int("fleet.direct", 20, "number of sidecars that connect to Postgres directly, whose max_connections is 100; 0 means no such row")
	fleetRates     = flag.String("fleet.rates", "1,50", "revocations per second, separated by commas")
	fleetPhase     = flag.Duration("fleet.phase", 12*time.Second, "duration of each measurement")
	fleetLive      = flag.Int("fleet.revocations", 20_000, "number of live revocations in the store, which each sidecar loads at its start")
	fleetProcesses = flag.Int("fleet.processes", 2, "number of processes that run the sidecars")
	fleetShort     = flag.Bool("fleet.short", false, "measure in two minutes: 20 sidecars directly and 100 behind pgbouncer, 5 s each")
	fleetVerbose   = flag.Bool("fleet.verbose", false, "print the sidecars' warnings")
)

// installation is what a fleet runs on.
type installation struct {
	sidecars int
	pooled   bool // behind pgbouncer
	redis    bool
}

func (i installation) String() string {
	s := fmt.Sprintf("%d sidecars", i.sidecars)
	if i.redis {
		s += ", Redis"
	}
	if !i.pooled {
		s += ", no pgbouncer"
	}
	return s
}

// fleet is a running fleet and the accounts of what it uses.
type fleet struct {
	installation
	pg      *harness.PG
	conn    *pgx.Conn // for questions about the server
	pooler  *harness.Pooler
	redis   *harness.RedisServer
	revoker *sidecar.Headless // one more sidecar, on which revocations are requested
	issuer  *authztest.Issuer
	pipes   []*FleetPipe
	revoked int // number of revocations so far
}

// defaultPostgres undoes the settings of test/harness that save time.
func defaultPostgres() []string {
	return []string{
		"max_connections", "100", "shared_buffers", "'128MB'", "max_prepared_transactions", "0", "fsync", "on", "full_page_writes", "on",
		"wal_keep_size", "0", "autovacuum_naptime", "'1min'",
	}
}

// startFleet starts servers and processes, but no sidecar except the revoker.
func startFleet(t testing.TB, i installation, live, processes int) *fleet {
	t.Helper()
	f := &fleet{installation: i, pg: harness.OwnPostgres(t, defaultPostgres()...)}
	f.issuer = authztest.NewIssuer(authztest.Offline(), authztest.Named("https://issuer.example.com"), authztest.Algorithms("ES256"))
	dir := harness.Dir(t)
	url, redis := f.pg.URL, ""
	if i.pooled {
		f.pooler = harness.PgBouncer(t, f.pg, "transaction", fleetPooler(t)...)
		url = f.pg.Via(f.pooler.Addr)
	}
	if i.redis {
		f.redis = harness.Redis(t, "maxclients", "10000")
		redis = fmt.Sprintf("redis: %q\n", f.redis.URL)
	}
	config := harness.WriteFile(t, dir, "sidecar.yaml", fmt.Sprintf(`issuers:
- {issuer: https://issuer.example.com, audiences: [api], jwks: %s}
store: %q
%s# A watched replica is asked often, and must not sync because it was asked.
revocation: {catch_up_wait: 0s}
`, harness.WriteFile(t, dir, "jwks.json", string(f.issuer.JWKS())), url, redis))
	settings, err := sidecar.Load(config, nil)
	require.NoError(t, err)
	f.revoker, err = sidecar.NewHeadless(settings, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	installed, err := store.Open(t.Context(), f.pg.URL, store.Options{}) // a migration locks its session, which a pooler may change
	require.NoError(t, err)
	require.NoError(t, installed.Migrate(t.Context()))
	require.NoError(t, installed.Close())
	f.revoker.Start()
	t.Cleanup(func() { assert.NoError(t, f.revoker.Close()) })
	revoke(t, f.pg, "live", live)
	f.pg.Exec(t, "vacuum analyze authz.revocations")
	f.conn = f.pg.Connect(t)

	binary := filepath.Join(t.TempDir(), "sidecars")
	build := exec.Command("go", "build", "-o", binary, "./sidecars")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoErrorf(t, err, "go build\n%s", out)
	for p := range processes {
		n := (i.sidecars + p) / processes
		args := []string{"-config", config, "-n", strconv.Itoa(n)}
		if *fleetVerbose {
			args = append(args, "-verbose")
		}
		cmd := exec.Command(binary, args...)
		cmd.Env = []string{"PATH=/usr/bin:/bin"}
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _ = in.Close(); _, _ = io.Copy(io.Discard, out); _ = cmd.Wait() })
		f.pipes = append(f.pipes, NewFleetPipe(in, out))
	}
	return f
}

// fleetPooler returns the settings of pgbouncer that k8s/components/pgbouncer has,
// without those about addresses and passwords.
func fleetPooler(t testing.TB) (settings []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(harness.Root(), "k8s/components/pgbouncer/pgbouncer.ini"))
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(text), "[pgbouncer]\n")
	require.True(t, ok)
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "listen_") && !strings.HasPrefix(line, "auth_") && !strings.HasPrefix(line, ";") {
			settings = append(settings, strings.TrimSpace(line))
		}
	}
	return settings
}

// tell sends a command to all processes.
func (f *fleet) tell(t testing.TB, c FleetCommand) {
	t.Helper()
	for _, p := range f.pipes {
		require.NoError(t, p.Send(c))
	}
}

// ask sends a command to all processes and joins their replies.
func (f *fleet) ask(t testing.TB, c FleetCommand) FleetReply {
	t.Helper()
	f.tell(t, c)
	return f.replies(t)
}

func (f *fleet) replies(t testing.TB) FleetReply {
	t.Helper()
	var all FleetReply
	for _, p := range f.pipes {
		r, err := p.Receive()
		require.NoError(t, err)
		all.Ready = append(all.Ready, r.Ready...)
		all.Watches = append(all.Watches, r.Watches...)
		all.Staleness = append(all.Staleness, r.Staleness...)
		all.Bytes += r.Bytes
	}
	slices.Sort(all.Ready)
	slices.Sort(all.Staleness)
	return all
}

// account is what the servers have done so far.
type account struct {
	at                     time.Time
	postgres, pool, redis  time.Duration // CPU time
	statements, redisBytes int64
	clients, sessions      int // connections of the fleet; those of Postgres
}

func (f *fleet) account(t testing.TB) account {
	t.Helper()
	a := account{at: time.Now()}
	var err error
	a.postgres, err = TreeCPU(f.pg.PID())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	require.NoError(t, f.conn.QueryRow(ctx, `select xact_commit + xact_rollback, (select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid())
		from pg_stat_database where datname = current_database()`).Scan(&a.statements, &a.sessions))
	a.clients = a.sessions
	if f.pooler != nil {
		a.pool = usage(t, f.pooler.PID()).CPU
		a.clients = f.poolerClients(t)
	}
	if f.redis != nil {
		a.redis = usage(t, f.redis.PID()).CPU
		text, _ := f.redis.Do(t, "info", "stats").(string)
		for _, name := range []string{"total_net_input_bytes:", "total_net_output_bytes:"} {
			_, rest, _ := strings.Cut(text, name)
			var n int64
			_, err := fmt.Sscan(rest, &n)
			require.NoError(t, err)
			a.redisBytes += n
		}
	}
	return a
}

// poolerClients returns the number of connections that pgbouncer has accepted.
func (f *fleet) poolerClients(t testing.TB) int {
	t.Helper()
	config, err := pgx.ParseConfig("postgres://postgres@" + f.pooler.Addr + "/pgbouncer?sslmode=disable")
	require.NoError(t, err)
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := pgx.ConnectConfig(ctx, config)
	require.NoError(t, err)
	defer c.Close(ctx)
	rows, err := c.Query(ctx, "show lists")
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var name string
		var n int
		require.NoError(t, rows.Scan(&name, &n))
		if name == "used_clients" {
			return n - 1 // this one
		}
	}
	t.Fatal("pgbouncer does not tell the number of its clients")
	return 0
}

// revocation is one that was requested during a measurement.
type revocation struct {
	asked, acked time.Duration // CLOCK_BOOTTIME; acked is 0 if it failed
}

// revokeAt requests revocations at a rate until ctx ends. If watched, a few
// sidecars of each process are asked about each of them.
func (f *fleet) revokeAt(ctx context.Context, t testing.TB, rate float64, watched bool) map[int]revocation {
	t.Helper()
	var clock authz.SystemClock
	var mu sync.Mutex
	var group sync.WaitGroup
	done := map[int]revocation{}
	start := time.Now()
	for n := 0; ; n++ {
		harness.Pause(ctx, time.Until(start.Add(time.Duration(float64(n)/rate*float64(time.Second)))))
		if ctx.Err() != nil {
			break
		}
		f.revoked++
		id := f.revoked
		jti := fmt.Sprintf("fleet-%d", id)
		if watched {
			f.tell(t, FleetCommand{Op: "watch", ID: id, JTI: jti, Token: f.issuer.Mint(map[string]any{"jti": jti, "sub": "user"}, authztest.Alg("ES256"), authztest.Lifetime(time.Hour))})
		}
		group.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			r := revocation{asked: clock.Boot()}
			_, err := f.revoker.Revoke(ctx, authz.Revocation{Kind: authz.KindJTI, Issuer: f.issuer.Name, Value: jti, ExpiresAt: time.Now().Add(time.Hour)})
			if err == nil {
				r.acked = clock.Boot()
			} else if !errors.Is(err, authz.ErrUnavailable) && !errors.Is(err, authz.ErrOutcomeUnknown) {
				t.Errorf("revoke: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			done[id] = r
			if watched && err == nil {
				f.tell(t, FleetCommand{Op: "acked", ID: id, At: r.acked})
			}
		})
	}
	group.Wait()
	return done
}

// phase is the measurement of a running fleet.
type phase struct {
	installation
	rate             float64
	postgres, pool   float64 // cores
	redis            float64
	statements       float64 // per second
	bytes            float64 // per second and sidecar
	redisBytes       float64
	clients          int
	sessions         int
	revoke, deny     []time.Duration // sorted
	failed, never    int             // revocations not acknowledged; watches without a denial
	watches, allowed int
	staleness        []time.Duration
	perRevocation    float64 // statements per revocation and sidecar beyond the idle ones
}

func (f *fleet) measure(t testing.TB, rate float64, length time.Duration) phase {
	t.Helper()
	f.ask(t, FleetCommand{Op: "begin"})
	bytesBefore := f.ask(t, FleetCommand{Op: "account"}).Bytes
	before := f.account(t)
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	var done map[int]revocation
	if rate > 0 {
		done = f.revokeAt(ctx, t, rate, true)
	} else {
		harness.Pause(ctx, length)
	}
	bytes := f.ask(t, FleetCommand{Op: "account"}).Bytes - bytesBefore
	after := f.account(t)
	ended := f.ask(t, FleetCommand{Op: "collect"})
	seconds := after.at.Sub(before.at).Seconds()
	n := float64(f.sidecars)
	p := phase{
		installation: f.installation, rate: rate, staleness: ended.Staleness, clients: after.clients, sessions: after.sessions, watches: len(ended.Watches),
		postgres: (after.postgres - before.postgres).Seconds() / seconds, pool: (after.pool - before.pool).Seconds() / seconds,
		redis:      (after.redis - before.redis).Seconds() / seconds,
		statements: float64(after.statements-before.statements) / seconds,
		redisBytes: float64(after.redisBytes-before.redisBytes) / seconds / n,
	}
	p.bytes = float64(bytes) / seconds / n
	for _, r := range done {
		if r.acked == 0 {
			p.failed++
			continue
		}
		p.revoke = append(p.revoke, r.acked-r.asked)
	}
	for _, w := range ended.Watches {
		r := done[w.ID]
		switch {
		case w.Allowed:
			p.allowed++
		case r.acked == 0:
		case w.Denied == 0:
			p.never++
		default:
			p.deny = append(p.deny, max(w.Denied-r.asked, 0))
		}
	}
	slices.Sort(p.revoke)
	slices.Sort(p.deny)
	return p
}

// storm is the start of all sidecars in one instant.
type storm struct {
	installation
	ready     []time.Duration // sorted
	postgres  time.Duration   // CPU time, until the last one was ready
	revoke    []time.Duration // of revocations meanwhile
	failed    int
	lasted    time.Duration
	statement int64
}

func (f *fleet) start(t testing.TB, wait time.Duration) storm {
	t.Helper()
	before := f.account(t)
	f.tell(t, FleetCommand{Op: "start", Wait: wait})
	ctx, cancel := context.WithCancel(context.Background())
	var done map[int]revocation
	var group sync.WaitGroup
	group.Go(func() { done = f.revokeAt(ctx, t, 10, false) })
	reply := f.replies(t)
	cancel()
	group.Wait()
	after := f.account(t)
	s := storm{installation: f.installation, ready: reply.Ready, postgres: after.postgres - before.postgres, lasted: after.at.Sub(before.at), statement: after.statements - before.statements}
	for _, r := range done {
		if r.acked == 0 {
			s.failed++
		} else {
			s.revoke = append(s.revoke, r.acked-r.asked)
		}
	}
	slices.Sort(s.revoke)
	return s
}

// at returns a quantile of sorted durations as text; "–" if there are none.
func at(sorted []time.Duration, q float64) string {
	if len(sorted) == 0 {
		return "–"
	}
	return short(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)])
}

func short(d time.Duration) string {
	switch {
	case d < 0:
		return "never loaded"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// TestFleet runs a small fleet: every measurement is there, and every sidecar that
// is asked denies.
func TestFleet(t *testing.T) {
	f := startFleet(t, installation{sidecars: 7, pooled: true, redis: true}, 100, 2)
	s := f.start(t, time.Minute)
	require.Len(t, s.ready, 7)
	assert.Positive(t, s.statement)
	p := f.measure(t, 20, 2*time.Second)
	assert.Zero(t, p.failed, "revocations that failed")
	assert.NotEmpty(t, p.revoke)
	assert.GreaterOrEqual(t, len(p.deny), 7*len(p.revoke), "three and four sidecars are watched for each revocation")
	assert.Zero(t, p.never, "watched sidecars that did not deny")
	assert.Zero(t, p.allowed, "sidecars that vouched for a revoked token beyond the bound, or did not deny it for that reason")
	assert.NotEmpty(t, p.staleness)
	assert.Positive(t, p.bytes)
	assert.Positive(t, p.redisBytes)
	assert.GreaterOrEqual(t, p.clients, 7)
	assert.Positive(t, p.sessions)
	assert.Less(t, p.sessions, 100)
	assert.Positive(t, p.statements)
	f.ask(t, FleetCommand{Op: "stop"})
}
