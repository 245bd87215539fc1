package cache

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"

	"jwtbouncer/authz"
	"jwtbouncer/cache/rediscache"
)

var (
	simSchedules = flag.Int("schedules", 0, "random schedules to simulate; 0: 20,000 (fewer with -race or -short)")
	simSeed      = flag.Uint64("seed", 0, "replay only the schedule with this seed, printing its trace")
)

const (
	simStaleness = 3 * time.Second
	simInterval  = 500 * time.Millisecond
	simTimeout   = 800 * time.Millisecond
	simLength    = 16 * time.Second
	simTokens    = 4
	simIssuer    = "https://issuer.example"
)

// simVariant is a scheme to simulate. The zero variant is the product in replica
// mode. The others are the product in lookup mode, and wrong schemes that the
// simulation must find out.
type simVariant struct {
	lookup  bool    // replica: off
	feed    simRule // wrong way to follow
	message simRule // wrong way to use a message
	tier    simRule // wrong way to look up
	stops   bool    // the clock stands still while the machine is suspended
}

type simRule int

const (
	_ simRule = iota // the product's
	// of feeds
	naiveSequence   // watermark: the highest sequence number seen
	counterPosition // watermark: the counter of transaction ids
	trustStandby    // a standby's snapshot proves freshness
	ignoreEpoch     // no reload after a failover or a crash
	ignoreNonce     // an answer to another question counts
	ignoreOpen      // transactions running at the last snapshot are forgotten
	replacingPack   // a packed snapshot replaces what the replica holds
	mixedPacks      // a packed snapshot's chunks are not compared with its sums
	ignorePackEpoch // a packed snapshot of another life of the store counts
	liftingRow      // a later row takes back an earlier one
	// of messages
	messageProves   // a message proves freshness
	messageReplaces // a message replaces what is known about its keys
	messagePosition // a heartbeat proves freshness if no id is newer than the watermark; epochs are not compared
	// of tiers
	lateProof    // asof is read after the lookup
	seedScheme   // Redis, then Postgres, then fill for CACHE_TTL
	keyedByToken // a verdict that is filled answers every question about its token
)

// simNode is a sidecar.
type simNode struct {
	w       *simWorld
	name    string
	variant simVariant
	clock   *simClock
	skew    time.Duration // of the wall clock
	asleep  time.Duration // suspended or stopped until then
	slept   time.Duration // total
	cut     time.Duration // no connection to Postgres until then
	proxied time.Duration // a proxy answers from memory until then
	// onStandby: the feed is connected to a standby until then.
	onStandby time.Duration
	redisCut  time.Duration

	follower *Follower
	redis    *rediscache.Stepped
	seed     redis.UniversalClient // for the scheme with CACHE_TTL
	chain    *authz.Chain
	syncer   *simActor
	filler   *simActor
}

// simulation is one schedule.
type simulation struct {
	*simWorld
	postgres *simPostgres
	redis    *simRedis
	nodes    []*simNode
	tokens   [][]authz.Query // the questions about each token
	answers  [3]int          // by verdict
}

func newSimulation(seed uint64, v simVariant, scripts *simScripts) *simulation {
	w := newSimWorld(seed, simLength)
	s := &simulation{simWorld: w, postgres: newSimPostgres(w), redis: newSimRedis(w, scripts)}
	s.redis.store = s.postgres
	for i := range simTokens {
		t := authz.Token{Raw: fmt.Sprintf("h.%d.s", i), Issuer: simIssuer, ID: fmt.Sprint("jti-", i), Subject: fmt.Sprint("sub-", i%2),
			IssuedAt: now32 - 100 + int64(i), Expires: now32 + 3600}
		t.SetKeys()
		verified := t.Query()
		t.ID, t.IssuedAt = "", t.IssuedAt+2 // as introspection states it
		t.SetKeys()
		s.tokens = append(s.tokens, []authz.Query{verified, t.Query()})
	}
	for i := range 1 + w.rng.IntN(2) {
		s.nodes = append(s.nodes, s.newNode(fmt.Sprint("node", i), v))
	}
	for i := range 1 + w.rng.IntN(2) {
		w.spawn(fmt.Sprint("revoker", i), nil, w.upTo(simLength/4), s.revoke)
	}
	if v.message == messagePosition {
		w.spawn("heartbeat", nil, 0, s.redis.beat)
	}
	w.spawn("writer", nil, w.upTo(simLength/2), s.write)
	w.spawn("packs", nil, 0, s.packs)
	w.spawn("faults", nil, w.upTo(simLength/2), s.faults)
	return s
}

// run runs the actors until all have ended.
func (s *simulation) run() {
	s.simWorld.run()
	for _, n := range s.nodes {
		n.redis.Close()
	}
}

func (s *simulation) newNode(name string, v simVariant) *simNode {
	w := s.simWorld
	n := &simNode{w: w, name: name, variant: v, skew: w.upTo(time.Minute) - 30*time.Second}
	n.clock = &simClock{w: w, node: n, base: w.upTo(24 * time.Hour), stops: v.stops}
	n.redis, n.seed = s.newRedis(n), s.redis.client(n)
	point := simPoint{s.postgres, n}
	switch {
	case v.tier == seedScheme:
		n.chain = authz.NewChain(nil, simSeedTier{n, point})
		return s.users(n)
	case v.lookup:
		n.chain = authz.NewChain(nil, n.redis, point)
		if v.tier == keyedByToken {
			n.chain = authz.NewChain(nil, simTokenTier{n.redis}, point)
		}
		w.spawn(name+"/epoch", n, w.upTo(time.Second), func() { s.runEpochs(n) })
	default:
		s.startFollower(n)
		n.syncer = w.spawn(name+"/sync", n, w.upTo(time.Second), func() { s.follow(n) })
		s.redis.subscribers = append(s.redis.subscribers, n)
	}
	n.filler = w.spawn(name+"/fill", n, 0, func() { s.fill(n) })
	return s.users(n)
}

// newRedis returns a client whose loops are actors here.
func (s *simulation) newRedis(n *simNode) *rediscache.Stepped {
	cfg := rediscache.DefaultConfig()
	cfg.Timeout = time.Hour // real time, of which none passes here
	return rediscache.NewStepped(s.redis.client(n), cfg, rediscache.Options{MaxStaleness: simStaleness, Fill: n.variant.lookup, Clock: n.clock})
}

// users spawns the actors that use the node.
func (s *simulation) users(n *simNode) *simNode {
	for i := range 2 {
		s.spawn(fmt.Sprint(n.name, "/check", i), n, s.upTo(time.Second), func() { s.check(n) })
	}
	s.spawn(n.name+"/publish", n, 0, func() {
		for !s.over() {
			_ = n.redis.StepPublish(context.Background())
			s.sleep(s.upTo(simStaleness / 2))
		}
	})
	return n
}

// follow is Follower.Run by the world's clock: the same syncs at the same intervals.
func (s *simulation) follow(n *simNode) {
	for !s.over() {
		err := n.follower.Sync(context.Background())
		s.logf("sync: %v, at %+v", err, n.follower.position)
		s.sleep(n.follower.pause(n.follower.syncs.snapshot().failed))
	}
}

// await waits for a sync, as a check does.
func (n *simNode) await(_ context.Context, ended <-chan struct{}) bool {
	n.w.hurry(n.syncer, 0)
	for range 15 {
		n.w.sleep(10 * time.Millisecond)
		select {
		case <-ended:
			return true
		default:
		}
	}
	return false
}

func (s *simulation) fill(n *simNode) {
	for !s.over() {
		if n.redis.Fills() == 0 {
			s.sleep(time.Second)
			continue
		}
		s.point()
		verdict, err := n.redis.StepFill(context.Background())
		s.logf("fill %v: %v", verdict, err)
	}
}

func (s *simulation) runEpochs(n *simNode) {
	for !s.over() {
		every, _ := n.redis.StepEpoch(context.Background())
		s.sleep(every*3/4 + s.upTo(every/2))
	}
}

// check asks about tokens and compares every answer with the committed revocations.
func (s *simulation) check(n *simNode) {
	for !s.over() {
		i, which := s.rng.IntN(simTokens), s.rng.IntN(2)
		q := s.tokens[i][which]
		arrived := s.now
		verdict, err := n.chain.Lookup(context.Background(), &q)
		s.answers[verdict]++
		if n.filler != nil {
			s.hurry(n.filler, s.upTo(20*time.Millisecond))
		}
		s.logf("token %d, question %d: %v, arrived %.3fs (%v)", i, which, verdict, arrived.Seconds(), err)
		revoked := false
		for _, o := range s.postgres.revocations {
			if !slices.Contains(q.Keys, o.entry.Key) || !o.entry.Revokes(q.IssuedAt) {
				continue
			}
			revoked = true
			if verdict == authz.NotRevoked && o.committed+simStaleness < arrived {
				s.violate("%s allowed token %d at %.3fs, revoked since %.3fs", n.name, i, arrived.Seconds(), o.committed.Seconds())
			}
		}
		if verdict == authz.Revoked && !revoked {
			s.violate("%s denied token %d, which was not revoked", n.name, i)
		}
		s.sleep(s.upTo(300 * time.Millisecond))
	}
}

// revoke revokes through the product.
func (s *simulation) revoke() {
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	var publisher authz.Publisher = n.redis
	if n.variant.tier == seedScheme {
		publisher = simSeedPublisher{n}
	}
	r := authz.NewRevoker(s.postgres, publisher, n.clock)
	for range 2 {
		_, err := r.Revoke(context.Background(), []authz.Revocation{s.pick()})
		s.logf("revoke: %v", err)
		s.sleep(s.upTo(simLength / 4))
	}
}

func (s *simulation) pick() authz.Revocation {
	i := s.rng.IntN(simTokens)
	if s.chance(30) {
		return authz.Revocation{Kind: authz.KindSub, Issuer: simIssuer, Value: fmt.Sprint("sub-", i%2), NotBefore: time.Unix(now32-100+s.rng.Int64N(5), 0)}
	}
	return authz.Revocation{Kind: authz.KindJTI, Issuer: simIssuer, Value: fmt.Sprint("jti-", i)}
}

// write is a plain SQL client with transactions of any length.
func (s *simulation) write() {
	for range 4 {
		var entries []authz.Entry
		for range s.rng.IntN(3) {
			r := s.pick()
			r.ExpiresAt = simEpoch.Add(24 * time.Hour)
			entries = append(entries, r.Entry())
		}
		entries = append(entries, entry(1000+s.rng.IntN(1000))) // of other tokens
		s.postgres.transact(entries, s.upTo(simStaleness/2), s.chance(20))
		if s.nodes[0].variant.feed == liftingRow {
			s.postgres.lift()
		}
		s.sleep(s.upTo(simLength / 6))
	}
}

func (s *simulation) faults() {
	for !s.over() {
		n := s.nodes[s.rng.IntN(len(s.nodes))]
		d := s.upTo(2 * simStaleness)
		if s.chance(30) {
			s.redis.older = maps.Clone(s.redis.keys) // the state of the replica
		}
		switch s.rng.IntN(15) {
		case 0, 1:
			n.asleep = s.now + d
			n.slept += d
			s.logf("%s suspended for %v", n.name, d)
		case 2:
			s.postgres.crash(false)
		case 3:
			s.postgres.crash(true)
		case 4:
			s.postgres.down = s.now + d
		case 5:
			s.postgres.standby, s.postgres.standbyPacks = slices.Clone(s.postgres.rows), slices.Clone(s.postgres.packs)
			n.onStandby = s.now + d
		case 6:
			n.proxied = s.now + d
		case 7:
			n.cut = s.now + d
		case 8:
			n.redisCut = s.now + d
		case 9:
			s.redis.restart(false)
		case 10:
			s.redis.restart(true)
		case 11:
			s.redis.skew += d - simStaleness
		case 12:
			n.skew += s.upTo(2*time.Hour) - time.Hour
		case 13:
			s.restart(n)
		case 14:
			s.postgres.move()
		}
		s.sleep(s.upTo(simStaleness))
	}
}

// simSet lets other actors run between the parts of a lookup and of a sync.
type simSet struct {
	revocationSet
	w *simWorld
}

func (h simSet) Add(e authz.Entry) { h.w.point(); h.revocationSet.Add(e) }

func (h simSet) Revokes(keys []authz.Key, iat int64) bool {
	h.w.point()
	defer h.w.point()
	return h.revocationSet.Revokes(keys, iat)
}

// simRuledFeed applies a wrong rule to a feed that the product's follower trusts.
type simRuledFeed struct {
	authz.Feed
	rule simRule
	own  *authz.Position
}

func (f simRuledFeed) Changes(ctx context.Context, since authz.Position, nonce string, row func(authz.Row)) (authz.Snapshot, error) {
	switch f.rule {
	case counterPosition:
		since = *f.own
	case ignoreOpen:
		since.Open = nil
	}
	snap, err := f.Feed.Changes(ctx, since, nonce, row)
	if err != nil {
		return snap, err
	}
	switch f.rule {
	case counterPosition:
		*f.own = authz.Position{Epoch: snap.Epoch, Last: snap.Xmax - 1, Open: snap.Open}
	case trustStandby:
		snap.Proves = true
	case ignoreEpoch:
		snap.Epoch = "t"
	case ignoreNonce:
		snap.Nonce = nonce
	}
	return snap, nil
}

// simRuledTier makes the steps of the product's tier in a wrong order.
type simRuledTier struct {
	*ReplicaTier
	rule simRule
	w    *simWorld
}

func (t simRuledTier) Lookup(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	f := t.f
	var asof, now int64
	switch t.rule {
	case lateProof:
		if f.replica.Revokes(q.Keys, q.IssuedAt) {
			return authz.Revoked, nil
		}
		asof, now = f.asof.Load(), int64(f.clock.Boot())
	default:
		return t.ReplicaTier.Lookup(ctx, q)
	}
	if asof != never && now-asof <= f.maxStaleness.Load() {
		return authz.NotRevoked, nil
	}
	return authz.Unknown, errStale
}

// simSeedTier is the scheme with a cache of valid tokens for CACHE_TTL.
type simSeedTier struct {
	node  *simNode
	point simPoint
}

const simCacheTTL = time.Hour

func (simSeedTier) Name() string { return "seed" }

func (simSeedTier) LookupNow(*authz.Query) (authz.Verdict, bool) { return authz.Unknown, false }

func (t simSeedTier) Lookup(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	c, key := t.node.seed, fmt.Sprintf("%x", q.TokenKey)
	if c.Get(ctx, "token:revoked:"+q.ID).Err() == nil {
		return authz.Revoked, nil
	}
	if c.Get(ctx, "token:valid:"+key).Err() == nil {
		return authz.NotRevoked, nil
	}
	v, err := t.point.Lookup(ctx, q)
	if v == authz.NotRevoked {
		c.Set(ctx, "token:valid:"+key, "1", simCacheTTL)
	}
	return v, err
}

// simTokenTier is Redis with entries that are keyed by the token alone.
type simTokenTier struct{ *rediscache.Stepped }

func (t simTokenTier) Lookup(ctx context.Context, q *authz.Query) (authz.Verdict, error) {
	if v, err := t.Stepped.Lookup(ctx, q); v != authz.Unknown || err != nil {
		return v, err
	}
	return t.Stepped.Lookup(ctx, &authz.Query{Keys: []authz.Key{q.TokenKey}, TokenKey: q.TokenKey, Expires: q.Expires})
}

func (t simTokenTier) Fill(q authz.Query, v authz.Verdict, mark time.Duration) {
	if v == authz.NotRevoked {
		q = authz.Query{Keys: []authz.Key{q.TokenKey}, TokenKey: q.TokenKey, Expires: q.Expires}
	}
	t.Stepped.Fill(q, v, mark)
}

type simSeedPublisher struct{ node *simNode }

func (a simSeedPublisher) Publish(ctx context.Context, revocations []authz.Revocation) bool {
	for _, r := range revocations {
		if err := a.node.seed.Set(ctx, "token:revoked:"+r.Value, "1", simCacheTTL).Err(); err != nil {
			return false
		}
	}
	return true
}

// simFirst is the seed at which the search for violations of wrong schemes begins.
// Even the rarest violation is near it. The product gets other seeds in every run.
const simFirst = 1

// simulate runs n schedules, or ends at the first one with a violation and returns
// it. With find, a violation is what the caller expects.
func simulate(t *testing.T, v simVariant, n int, find bool) (broken *simulation) {
	t.Helper()
	scripts := newSimScripts()
	defer scripts.state.Close()
	first := rand.Uint64N(1 << 40)
	if find {
		first = simFirst
	}
	if *simSeed != 0 {
		first, n = *simSeed, 1
	}
	var answers [3]int
	for i := range uint64(n) {
		s := newSimulation(first+i, v, scripts)
		if *simSeed != 0 {
			s.trace = new(strings.Builder)
		}
		s.run()
		for i, k := range s.answers {
			answers[i] += k
		}
		if s.trace != nil {
			t.Logf("trace of seed %d:\n%s", s.seed, s.trace)
		}
		if s.broken != "" {
			if find {
				t.Logf("found in schedule %d (-seed %d): %s", i+1, s.seed, s.broken)
				return s
			}
			t.Errorf("-seed %d: %s", s.seed, s.broken)
			return s
		}
	}
	t.Logf("%d schedules from seed %d: %d allowed, %d denied, %d unknown", n, first, answers[authz.NotRevoked], answers[authz.Revoked], answers[authz.Unknown])
	if sum := answers[0] + answers[1] + answers[2]; *simSeed == 0 && (answers[authz.NotRevoked] < sum/4 || answers[authz.Revoked] < sum/20) {
		t.Errorf("the simulation is hollow: of %d checks only %d were allowed and %d denied", sum, answers[authz.NotRevoked], answers[authz.Revoked])
	}
	return nil
}

func TestSimulatedProductKeepsTheGuarantee(t *testing.T) {
	t.Parallel()
	n := *simSchedules
	switch {
	case n > 0:
	case raceEnabled || testing.Short():
		n = 600
	default:
		n = 20_000
	}
	for name, c := range map[string]struct {
		v simVariant
		n int
	}{
		"replica mode": {simVariant{}, n * 6 / 10},
		"lookup mode":  {simVariant{lookup: true}, n * 4 / 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			simulate(t, c.v, c.n, false)
		})
	}
}

// The simulation must find a violation in every scheme that is known to be wrong.
// The first two of them are in use elsewhere.
func TestSimulationFindsWrongSchemes(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]simVariant{
		"cache of valid tokens for CACHE_TTL": {tier: seedScheme},
		"follower by sequence number":         {feed: naiveSequence},
		"follower by transaction counter":     {feed: counterPosition},
		"running transactions forgotten":      {feed: ignoreOpen},
		"standby trusted":                     {feed: trustStandby},
		"epoch ignored":                       {feed: ignoreEpoch},
		"a packed snapshot that replaces":     {feed: replacingPack},
		"chunks of two packed snapshots":      {feed: mixedPacks},
		"packed snapshot of another life":     {feed: ignorePackEpoch},
		"a row that lifts an earlier one":     {feed: liftingRow},
		"nonce ignored":                       {feed: ignoreNonce},
		"message as proof":                    {message: messageProves},
		"message replaces":                    {message: messageReplaces},
		"message of another incarnation":      {message: messagePosition},
		"proof read after the lookup":         {tier: lateProof},
		"clock that stops while suspended":    {stops: true},
		"verdicts keyed by the token":         {lookup: true, tier: keyedByToken},
	} {
		t.Run(name, func(t *testing.T) {
			assert.NotNil(t, simulate(t, v, 20_000, true), "no violation found")
		})
	}
}

// The seed that a failure prints replays the same schedule.
func TestSimulationReplays(t *testing.T) {
	t.Parallel()
	scripts := newSimScripts()
	defer scripts.state.Close()
	for seed := range uint64(30) {
		v := simVariant{lookup: seed%2 == 0}
		var traces [2]string
		for i := range traces {
			s := newSimulation(seed, v, scripts)
			s.trace = new(strings.Builder)
			s.run()
			traces[i] = s.trace.String()
		}
		if traces[0] != traces[1] || len(traces[0]) < 1000 {
			a, b := strings.Split(traces[0], "\n"), strings.Split(traces[1], "\n")
			i := 0
			for i < min(len(a), len(b))-1 && a[i] == b[i] {
				i++
			}
			t.Fatalf("seed %d: line %d of %d\n%s\nbecame, of %d,\n%s", seed, i+1, len(a), a[i], len(b), b[i])
		}
	}
}
