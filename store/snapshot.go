package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"jwtbouncer/authz"
	"jwtbouncer/authz/breaker"
)

// packer is an engine that keeps a packed snapshot for full loads. SQLite needs
// none: its only followers are beside the file.
type packer interface {
	// pack makes the database pack its revocations if that is due.
	pack(ctx context.Context) error
	packed(ctx context.Context, nonce string) (*authz.Pack, error)
	chunks(ctx context.Context, p *authz.Pack, chunk func(authz.PackSum, []byte) error) error
}

var _ packer = (*postgresStore)(nil)

// Pack implements authz.PackedFeed. If there is no pack of the store's life, the
// database packs now, when it has enough revocations to be worth it.
func (s *Store) Pack(ctx context.Context, nonce string) (*authz.Pack, error) {
	if p, ok := s.engine.(packer); ok {
		return p.packed(ctx, nonce)
	}
	return nil, nil
}

// Chunks implements authz.PackedFeed. It asks the standbys first, and the primary
// for what they do not have.
func (s *Store) Chunks(ctx context.Context, p *authz.Pack, chunk func(authz.PackSum, []byte) error) error {
	if e, ok := s.engine.(packer); ok {
		return e.chunks(ctx, p, chunk)
	}
	return nil
}

// packTimeout bounds one packing, of which a million revocations need about three
// seconds.
const packTimeout = 5 * time.Minute

// pack runs on a connection of its own, so that it keeps no pool waiting.
func (p *postgresStore) pack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, packTimeout)
	defer cancel()
	config := p.config.Copy()
	if err := p.dial(ctx, config); err != nil {
		return p.fail(err)
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return p.fail(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	p.met.connects.WithLabelValues("ok").Inc()
	_, err = conn.Exec(ctx, `select authz.pack()`)
	return p.fail(err)
}

func (p *postgresStore) packed(ctx context.Context, nonce string) (*authz.Pack, error) {
	if !nonceForm.MatchString(nonce) {
		return nil, errors.New("postgres: nonce must be 1 to 64 letters, digits, - or _")
	}
	if err := p.vacancy(ctx); err != nil {
		return nil, err
	}
	pack, err := p.describe(ctx, nonce)
	if pack != nil || err != nil {
		return pack, err
	}
	err = p.onFeed(ctx, func(ctx context.Context, c *pgx.Conn, _ func()) error {
		return c.PgConn().Exec(ctx, `select authz.pack()`).Close()
	})
	if err != nil {
		return nil, err
	}
	return p.describe(ctx, nonce)
}

func (p *postgresStore) describe(ctx context.Context, nonce string) (pack *authz.Pack, err error) {
	err = p.onFeed(ctx, func(ctx context.Context, c *pgx.Conn, _ func()) error {
		results, err := c.PgConn().Exec(ctx, fmt.Sprintf(`select authz.packed('%s')`, nonce)).ReadAll()
		switch {
		case err != nil:
			return err
		case len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 1:
			return fmt.Errorf("%w: packed returned no line", ErrSchema)
		}
		pack, err = parsePack(string(results[0].Rows[0][0]))
		return err
	})
	return pack, err
}

// parsePack reads the line that authz.packed returns; nil: there is no pack.
func parsePack(line string) (*authz.Pack, error) {
	f := strings.Split(line, " ")
	version, err := strconv.Atoi(f[0])
	if err == nil {
		err = checkSchema(version)
	}
	switch {
	case err != nil:
		return nil, err
	case len(f) >= 5 && f[4] == "-":
		return nil, nil
	case len(f) != 8:
		return nil, fmt.Errorf("%w: packed returned %d fields", ErrSchema, len(f))
	}
	pack := &authz.Pack{Nonce: f[1], Primary: f[3] == "f"}
	pack.Position.Epoch = f[2]
	last, err1 := strconv.ParseUint(f[4], 10, 63)
	entries, err2 := strconv.Atoi(f[5])
	open, err3 := elements(f[6])
	sums, err4 := elements(f[7])
	bad := errors.Join(err1, err2, err3, err4)
	for _, text := range open {
		x, err := strconv.ParseUint(text, 10, 63)
		bad = errors.Join(bad, err)
		pack.Position.Open = append(pack.Position.Open, x)
	}
	for _, text := range sums {
		b, err := hex.DecodeString(text)
		if err != nil || len(b) != len(authz.PackSum{}) {
			return nil, fmt.Errorf("%w: packed: malformed sum", ErrSchema)
		}
		pack.Sums = append(pack.Sums, authz.PackSum(b))
	}
	if bad != nil {
		return nil, fmt.Errorf("%w: packed: %w", ErrSchema, bad)
	}
	pack.Position.Last, pack.Entries = last, entries
	return pack, nil
}

func (p *postgresStore) chunks(ctx context.Context, pack *authz.Pack, chunk func(authz.PackSum, []byte) error) error {
	wanted := make(map[authz.PackSum]bool, len(pack.Sums))
	for _, sum := range pack.Sums {
		wanted[sum] = true
	}
	got := func(data []byte) error {
		// Whatever came is judged by the caller. Here the sum only says what need not
		// be asked for again.
		sum := authz.SumChunk(data)
		if !wanted[sum] {
			return nil
		}
		delete(wanted, sum)
		return chunk(sum, data)
	}
	for _, i := range rand.Perm(len(p.standbys)) { //nolint:gosec // spreads load, guards nothing
		if len(wanted) == 0 {
			return nil
		}
		err := p.fromStandby(ctx, p.standbys[i], wanted, got)
		if err != nil {
			p.o.Logger.WarnContext(ctx, "a standby did not serve a full load; asking the next server", "standby", i, "error", err)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	admitted, err := p.inTurn(true, func(gate string) (admitted bool, err error) {
		err = p.onFeed(ctx, func(ctx context.Context, c *pgx.Conn, progress func()) error {
			admitted, err = readChunks(ctx, c, wanted, gate, progress, got)
			return err
		})
		return admitted, err
	})
	if err == nil && !admitted {
		err = fmt.Errorf("postgres %s: %w", p.where, authz.ErrTurn)
	}
	return err
}

// fromStandby reads chunks over a connection that it opens for that.
func (p *postgresStore) fromStandby(ctx context.Context, config *pgx.ConnConfig, wanted map[authz.PackSum]bool, got func([]byte) error) error {
	config = config.Copy()
	if err := p.dial(ctx, config); err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	p.met.connects.WithLabelValues("ok").Inc()
	return p.listen(ctx, conn, func(ctx context.Context, c *pgx.Conn, progress func()) error {
		_, err := readChunks(ctx, c, wanted, "", progress, got)
		return err
	})
}

// readChunks asks for the wanted chunks. The first row of the answer is null, and
// is missing if there was no turn.
func readChunks(ctx context.Context, c *pgx.Conn, wanted map[authz.PackSum]bool, gate string, progress func(), got func([]byte) error) (admitted bool, err error) {
	sums := make([]string, 0, len(wanted))
	for sum := range wanted {
		sums = append(sums, `'\x`+hex.EncodeToString(sum[:])+`'`)
	}
	reader := &blobReader{progress: progress, blob: func(data []byte) error {
		if data == nil {
			admitted = true
			return nil
		}
		return got(data)
	}}
	_, err = c.PgConn().CopyTo(ctx, reader, `copy (select authz.pack_data(array[`+strings.Join(sums, ",")+`]::bytea[])`+gate+`) to stdout (format binary)`)
	if err == nil {
		err = reader.end()
	}
	return admitted, err
}

// turn is how long a full load has been waiting to be admitted.
type turn struct {
	since time.Time // zero: it is not waiting
	limit time.Duration
}

// maxTurn is how long a full load waits for its turn, ±50 %. The places are
// advisory locks, which any login may hold, so they must not be able to keep a
// sidecar from loading.
const maxTurn = time.Minute

// over reports whether it has waited long enough to load without a place.
func (t *turn) over() bool { return !t.since.IsZero() && time.Since(t.since) > t.limit }

func (t *turn) wait() {
	if t.since.IsZero() {
		*t = turn{since: time.Now(), limit: breaker.Jitter(maxTurn, 0.5)}
	}
}

// inTurn makes a full load wait for its turn. load puts gate behind what it
// selects, and reports whether it was admitted.
func (p *postgresStore) inTurn(full bool, load func(gate string) (bool, error)) (bool, error) {
	t := &p.feed.turn
	gate := " from (select authz.admit() as ok offset 0) a where a.ok"
	if !full || t.over() {
		gate = ""
	}
	admitted, err := load(gate)
	switch {
	case err != nil || !full:
	case admitted:
		*t = turn{}
	default:
		t.wait()
	}
	return admitted, err
}

// vacancy returns authz.ErrTurn if all places are taken at the moment, and no standby
// may serve instead. It takes none. A fleet that waits asks this again and again, so
// it must cost next to nothing: a description of the pack, and the question for its
// chunks, are long.
func (p *postgresStore) vacancy(ctx context.Context) error {
	if len(p.standbys) > 0 || p.feed.turn.over() {
		return nil
	}
	var vacant string
	err := p.onFeed(ctx, func(ctx context.Context, c *pgx.Conn, _ func()) (err error) {
		vacant, err = p.calls.call(ctx, c, "authz.admit()")
		return err
	})
	if err == nil && !strings.HasPrefix(vacant, "t") {
		p.feed.turn.wait()
		err = fmt.Errorf("postgres %s: %w", p.where, authz.ErrTurn)
	}
	return err
}

// openStandbys reads the URLs of the standbys. It makes no connection.
func (p *postgresStore) openStandbys(urls []string) error {
	for _, raw := range urls {
		if err := CheckStandbyURL(raw); err != nil {
			return fmt.Errorf("store: standby: %w", err)
		}
		c, err := pgx.ParseConfig(raw)
		if err != nil {
			return fmt.Errorf("store: standby: %w", err) // pgconn masks the password
		}
		p.session(c)
		p.standbys = append(p.standbys, c)
	}
	return nil
}
