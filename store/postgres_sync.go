package store

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"jwtbouncer/authz"
)

// serverFacts are what authz.sync sends only to a caller that does not know it
// yet. They hold for one start of one primary and one epoch of its store.
type serverFacts struct {
	started, epoch int64 // in microseconds since 1970; meta.epoch
	timeline       string
	system         string
	staleness, ttl time.Duration
	previous       time.Duration
	raised         int64
}

// errMany: there are more rows than authz.sync sends.
var errMany = errors.New("more changes than one answer holds")

// sync asks authz.sync, which costs the server a few times a "select 1". It
// returns errMany if authz.changes has to be read instead.
func (p *postgresStore) sync(ctx context.Context, since authz.Position, nonce string, row func(authz.Row)) (authz.Snapshot, error) {
	known := p.feed.facts
	var line string
	err := p.onFeed(ctx, func(ctx context.Context, c *pgx.Conn, _ func()) (err error) {
		line, err = p.calls.call(ctx, c, "authz.sync(bigint,bigint[],pg_catalog.text,bigint,pg_catalog.text,bigint)",
			strconv.FormatUint(since.Last, 10), bigints(since.Open), nonce, strconv.FormatInt(known.started, 10), known.timeline, strconv.FormatInt(known.epoch, 10))
		return err
	})
	if err != nil {
		return authz.Snapshot{}, err
	}
	snap, rows, facts, err := parseSync(line, known)
	switch {
	case err != nil:
		p.feed.drop(ctx)
		return authz.Snapshot{}, p.fail(err)
	case snap.Nonce != nonce: // the answer to another question, whose caller may have known other facts
		p.feed.drop(ctx)
		return authz.Snapshot{Nonce: snap.Nonce}, nil
	case rows == nil:
		return snap, errMany
	}
	p.feed.facts = facts
	for _, r := range rows {
		row(r)
	}
	p.met.rows.Add(float64(len(rows)))
	return snap, nil
}

// Fields of the line that authz.sync returns.
const (
	syncSchema = iota
	syncNonce
	syncStarted
	syncEpoch
	syncTimeline
	syncFollows
	syncFresh
	syncClock
	syncSnapshot
	syncFacts
	syncRows
	syncFields
)

// Fields of the line if nothing has changed and all is as the caller knows.
const (
	idleNonce = iota
	idleClock
	idleSnapshot
	idleFields
)

// parseSync reads the line. rows is nil if there are too many of them.
func parseSync(line string, known serverFacts) (snap authz.Snapshot, rows []authz.Row, facts serverFacts, err error) {
	f := strings.Split(line, " ")
	if len(f) == idleFields {
		f = []string{
			syncSchema: strconv.Itoa(SchemaVersion), syncNonce: f[idleNonce],
			syncStarted: strconv.FormatInt(known.started, 10), syncEpoch: strconv.FormatInt(known.epoch, 10), syncTimeline: known.timeline,
			syncFollows: "f", syncFresh: "t", syncClock: f[idleClock], syncSnapshot: f[idleSnapshot], syncFacts: "-", syncRows: "{}",
		}
	}
	var bad error
	number := func(text string) int64 {
		n, err := strconv.ParseInt(text, 10, 64)
		bad = errors.Join(bad, err)
		return n
	}
	secs := func(text string) time.Duration {
		n, err := strconv.ParseFloat(text, 64)
		bad = errors.Join(bad, err)
		return time.Duration(n * float64(time.Second))
	}
	version := number(f[syncSchema])
	if err := checkSchema(int(version)); bad == nil && err != nil {
		return snap, nil, facts, err
	}
	if len(f) != syncFields {
		return snap, nil, facts, fmt.Errorf("%w: sync returned %d fields", ErrSchema, len(f))
	}
	facts = known
	started, epoch := number(f[syncStarted]), number(f[syncEpoch])
	if f[syncFacts] != "-" {
		v := strings.Split(f[syncFacts], "/")
		if len(v) != 5 {
			return snap, nil, facts, fmt.Errorf("%w: sync returned %d facts", ErrSchema, len(v))
		}
		facts = serverFacts{started: started, epoch: epoch, system: v[0], staleness: secs(v[1]), ttl: secs(v[2]), previous: secs(v[3]), raised: number(v[4])}
	}
	facts.timeline = strings.TrimPrefix(f[syncTimeline], "-") // none in recovery
	xmin, rest, ok1 := strings.Cut(f[syncSnapshot], ":")
	xmax, open, ok2 := strings.Cut(rest, ":")
	number(xmin)
	if facts.started != started || facts.epoch != epoch || !ok1 || !ok2 {
		bad = errors.Join(bad, errors.New("sync contradicts itself"))
	}
	snap = authz.Snapshot{
		Nonce: f[syncNonce], Epoch: facts.system + "/" + facts.timeline + "/" + f[syncEpoch], Xmax: uint64(number(xmax)),
		Proves:       f[syncFollows] == "f" && f[syncFresh] == "t",
		Clock:        time.Unix(0, int64(secs(f[syncClock]))),
		MaxStaleness: facts.staleness, MaxTokenTTL: facts.ttl, RaisedFrom: facts.previous, Raised: facts.raised,
	}
	for x := range strings.SplitSeq(open, ",") {
		if x != "" {
			snap.Open = append(snap.Open, uint64(number(x)))
		}
	}
	rows, err = syncedRows(f[syncRows])
	bad = errors.Join(bad, err)
	if bad != nil {
		return authz.Snapshot{}, nil, facts, fmt.Errorf("%w: sync: %w", ErrSchema, bad)
	}
	if len(rows) > maxSynced {
		rows = nil
	}
	return snap, rows, facts, nil
}

// maxSynced is the number of rows above which authz.sync leaves some out.
const maxSynced = 1000

// syncedRows reads an array of rows in hex: key, not_before, expires, xid. It
// never returns nil without an error.
func syncedRows(array string) ([]authz.Row, error) {
	list, err := elements(array)
	rows := make([]authz.Row, 0, len(list))
	for _, text := range list {
		b, bad := hex.DecodeString(text)
		if bad != nil || len(b) != 40 || b[32] > 127 {
			return nil, errors.New("malformed row")
		}
		number := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }
		rows = append(rows, authz.Row{Entry: authz.Entry{Key: authz.Key(b), NotBefore: int64(number(16)), Expires: int64(number(24))}, XID: number(32)})
	}
	return rows, err
}

// elements splits the text of an array whose elements need no quotes.
func elements(array string) ([]string, error) {
	inner, ok := strings.CutPrefix(array, "{")
	inner, ok2 := strings.CutSuffix(inner, "}")
	switch {
	case !ok || !ok2:
		return nil, errors.New("malformed array")
	case inner == "":
		return nil, nil
	}
	return strings.Split(inner, ","), nil
}

// bigints is the text of an array of ids.
func bigints(ids []uint64) string {
	text := make([]string, len(ids))
	for i, x := range ids {
		text[i] = strconv.FormatUint(x, 10)
	}
	return "{" + strings.Join(text, ",") + "}"
}
