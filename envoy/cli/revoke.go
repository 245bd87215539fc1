// Package console is what the command line prints and asks: receipts, tables,
// explanations, progress. It never prints a token.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"

	"golang.org/x/sys/unix"
)

type revokeCmd struct {
	JTI   *string `name:"jti" xor:"what" help:"One token, by its jti."`
	Sub   *string `name:"sub" xor:"what" help:"The tokens of a subject issued until now (or --not-before)."`
	SID   *string `name:"sid" xor:"what" help:"The tokens of a login session."`
	KID   *string `name:"kid" xor:"what" help:"The tokens signed with a key."`
	Token *string `name:"token" xor:"what" placeholder:"-|TOKEN|SHA256" help:"One token; '-' reads it from standard input, where no other user can see it. Or, in hex, the SHA-256 of its header.payload; of an opaque token, of its whole text."`
	All   bool    `xor:"what" help:"All tokens of the issuer issued until now (or --not-before); so does --iss alone."`
	Bulk  bool    `xor:"what" help:"Read orders from standard input, as POST /v1/revocations takes them: JSON objects one after another, or in arrays of any length."`

	SkipExpired bool `help:"With --bulk: pass over orders whose expires_at has passed, of which nothing is left to revoke."`

	Iss       *string `name:"iss" help:"The issuer; may be left out when one is configured."`
	NotBefore *string `placeholder:"TIME" help:"Only tokens issued before this time (RFC 3339 or Unix seconds)."`
	ExpiresAt *string `placeholder:"TIME" help:"When the last such token has expired; default: now + max_token_ttl."`
	Reason    string  `help:"For the audit trail."`
	Wait      string  `enum:"none,enforced" default:"none" help:"enforced: return when no sidecar can allow it any more."`
	JSON      bool    `name:"json" help:"Print JSON."`
}

// Validate is called by the parser.
func (r *revokeCmd) Validate() error {
	if r.Bulk && (r.Iss != nil || r.NotBefore != nil || r.ExpiresAt != nil || r.Reason != "") {
		return errors.New("--bulk can't be used together with --iss, --not-before, --expires-at or --reason: each order says its own")
	}
	if r.SkipExpired && !r.Bulk {
		return errors.New("--skip-expired is for --bulk")
	}
	return nil
}

// Run implements the command.
func (r *revokeCmd) Run(ctx context.Context, c *command, io *Process) error {
	wait := authz.WaitCommitted
	if r.Wait == "enforced" {
		wait = authz.WaitEnforced
	}
	p := Printer{Out: io.Out, Err: io.Err, JSON: r.JSON, Progress: isTerminal(io.Err)}
	s, err := c.settings(io)
	if err != nil {
		return err
	}
	parse := func(text []byte) ([]authz.Revocation, error) {
		if r.SkipExpired && httpapi.OrderExpired(text, time.Now()) {
			return nil, nil
		}
		orders, err := httpapi.ParseOrders(text, s.OrderIssuers(), time.Now())
		for i := range orders {
			orders[i].Actor = actor()
		}
		return orders, err
	}
	var orders []authz.Revocation
	if !r.Bulk {
		body, err := r.order(io.In)
		if err != nil {
			return err
		}
		if orders, err = parse(body); err != nil {
			return usageError{err}
		}
	}
	return administer(ctx, s, io, func(a *admin) error {
		switch err := a.Usable(ctx); {
		case err != nil:
			return err
		case r.Bulk:
			return p.RevokeAll(ctx, a.Revoker(), io.In, parse, wait)
		}
		err := p.Revoke(ctx, a.Revoker(), orders, wait)
		if errors.Is(err, authz.ErrInvalid) {
			return usageError{err}
		}
		return err
	})
}

// order writes the flags as the HTTP API would take them, so that both doors
// have one set of rules.
func (r *revokeCmd) order(stdin io.Reader) ([]byte, error) {
	if r.Token != nil {
		text, err := readToken(*r.Token, stdin)
		if err != nil {
			return nil, err
		}
		r.Token = &text
	}
	doc := map[string]any{}
	// An empty text is passed on and refused, as a time below, too: it is a
	// variable that was not set, and without it the order would be about more
	// than was meant.
	for name, value := range map[string]*string{"jti": r.JTI, "sub": r.Sub, "sid": r.SID, "kid": r.KID, "token": r.Token, "iss": r.Iss} {
		if value != nil {
			doc[name] = *value
		}
	}
	if _, named := doc["iss"]; r.All || named && len(doc) == 1 {
		doc["all"] = true
	}
	if r.Reason != "" {
		doc["reason"] = r.Reason
	}
	for name, value := range map[string]*string{"not_before": r.NotBefore, "expires_at": r.ExpiresAt} {
		if value == nil {
			continue
		}
		// JSON has no NaN and no infinity; as texts they are refused as such.
		if seconds, err := strconv.ParseFloat(*value, 64); err == nil && !math.IsNaN(seconds) && !math.IsInf(seconds, 0) {
			doc[name] = seconds
		} else {
			doc[name] = *value
		}
	}
	return json.Marshal(doc)
}

// actor names who ordered a revocation on the command line.
func actor() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return "cli:" + name
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Revoker is the write path that the commands order revocations from.
type Revoker interface {
	Revoke(ctx context.Context, revocations []authz.Revocation, wait authz.Wait) (authz.Receipt, error)
}

// Printer writes results to people or to programs.
type Printer struct {
	Out      io.Writer // results
	Err      io.Writer // progress and hints
	JSON     bool      // results as JSON, one document a line
	Progress bool      // Err is a terminal: draw a progress bar
}

// Revoke orders the revocations in one piece and prints the receipt.
func (p Printer) Revoke(ctx context.Context, r Revoker, revocations []authz.Revocation, wait authz.Wait) error {
	rec, err := r.Revoke(ctx, revocations, wait)
	if err != nil && len(rec.Revocations) == 0 {
		return hint(err)
	}
	if p.JSON {
		if werr := p.receiptJSON(rec); werr != nil {
			return werr
		}
	} else {
		for _, rv := range rec.Revocations {
			fmt.Fprintf(p.Out, "revoked %s  %s\n", rv.ID, describe(rv))
		}
		fmt.Fprintf(p.Out, "committed %s, enforced everywhere within %s", rec.Committed.UTC().Format(time.RFC3339Nano), rec.EnforcedWithin)
		switch {
		case wait == authz.WaitEnforced && err == nil:
			fmt.Fprintln(p.Out, " (which has passed: no sidecar allows it any more)")
		case rec.Published:
			fmt.Fprintln(p.Out, ", announced (normally enforced in milliseconds)")
		default:
			fmt.Fprintln(p.Out, ", not announced (each sidecar learns it by its own sync)")
		}
	}
	return hint(err)
}

// receipt is the JSON form of authz.Receipt; its members are those of the HTTP API.
type receipt struct {
	IDs            []string  `json:"ids"`
	Committed      time.Time `json:"committed"`
	EnforcedWithin float64   `json:"enforced_within"` // seconds
	Published      bool      `json:"published"`
}

func (p Printer) receiptJSON(rec authz.Receipt) error {
	out := receipt{Committed: rec.Committed.UTC(), EnforcedWithin: rec.EnforcedWithin.Seconds(), Published: rec.Published}
	for _, rv := range rec.Revocations {
		out.IDs = append(out.IDs, rv.ID)
	}
	return json.NewEncoder(p.Out).Encode(out)
}

// bulkBatch is how many revocations one transaction of a bulk run holds.
const bulkBatch = 1000

// RevokeAll reads orders from in, as POST /v1/revocations takes them: JSON
// objects one after another, such as one a line, or arrays of them, of any
// length. It stores them in batches. A malformed order stops the run before
// anything of its batch is stored; the error says where it was and how many were
// stored before, so that the run can be repeated: orders are idempotent. What
// parse reads as no revocation is passed over and counted.
func (p Printer) RevokeAll(ctx context.Context, r Revoker, in io.Reader, parse func([]byte) ([]authz.Revocation, error), wait authz.Wait) error {
	var (
		input  = newOrders(in)
		at     place
		batch  []authz.Revocation
		stored int
		passed int
		last   authz.Receipt
	)
	flush := func(w authz.Wait) error {
		if len(batch) == 0 {
			return nil
		}
		rec, err := r.Revoke(ctx, batch, w)
		if err != nil && len(rec.Revocations) == 0 {
			return fmt.Errorf("lines up to %d: %w (%d stored before; repeating the whole input is safe)", at.line, hint(err), stored)
		}
		stored += len(batch)
		last, batch = rec, batch[:0]
		p.progress(stored)
		return hint(err)
	}
	for {
		var text []byte
		var err error
		text, at, err = input.next()
		if errors.Is(err, io.EOF) {
			break
		}
		var order []authz.Revocation
		if err == nil {
			order, err = parse(text)
		}
		if err != nil {
			return fmt.Errorf("%s: %w (%d stored before; repeating the whole input is safe)", at, err, stored)
		}
		if len(order) == 0 {
			passed++
		}
		if batch = append(batch, order...); len(batch) >= bulkBatch {
			if err := flush(authz.WaitCommitted); err != nil {
				return err
			}
		}
	}
	if passed > 0 {
		fmt.Fprintf(p.Err, "passed over %d orders whose expires_at has passed\n", passed)
	}
	if stored == 0 && len(batch) == 0 && passed > 0 {
		return nil
	}
	if stored == 0 && len(batch) == 0 {
		return errors.New("the input holds no revocation; JSON objects are expected, one a line or in an array, such as {\"jti\":\"…\"}")
	}
	if len(batch) == 0 && wait == authz.WaitEnforced {
		// The last batch was full and has been stored: order its last entry
		// again, which changes nothing, to wait from then on.
		batch = append(batch, last.Revocations[len(last.Revocations)-1])
		stored--
	}
	if err := flush(wait); err != nil {
		return err
	}
	if p.Progress {
		fmt.Fprintln(p.Err)
	}
	if p.JSON {
		return json.NewEncoder(p.Out).Encode(map[string]any{"stored": stored, "committed": last.Committed.UTC(), "enforced_within": last.EnforcedWithin.Seconds(), "published": last.Published})
	}
	fmt.Fprintf(p.Out, "revoked %d, committed %s, enforced everywhere within %s\n", stored, last.Committed.UTC().Format(time.RFC3339), last.EnforcedWithin)
	return nil
}

// progress redraws the bar. The length of a stream is unknown, so it counts
// and turns rather than fills.
func (p Printer) progress(n int) {
	if !p.Progress {
		return
	}
	const width = 24
	at := n / bulkBatch % width
	fmt.Fprintf(p.Err, "\r[%s>%s] %d revoked", strings.Repeat("=", at), strings.Repeat(" ", width-at-1), n)
}

// hint adds what to do to the errors a person can do something about.
func hint(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, authz.ErrOutcomeUnknown):
		return fmt.Errorf("%w\nhint: order it again; an order that is stored already changes nothing", err)
	case errors.Is(err, authz.ErrUnavailable):
		return fmt.Errorf("%w\nhint: nothing was stored; `jwt-bouncer health` tells what is away", err)
	}
	return err
}

// describe names a revocation in one line.
func describe(r authz.Revocation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", r.Kind)
	if r.Value != "" {
		fmt.Fprintf(&b, " %q", r.Value)
	}
	fmt.Fprintf(&b, " of %q", r.Issuer)
	if !r.NotBefore.IsZero() {
		fmt.Fprintf(&b, " issued before %s", r.NotBefore.UTC().Format(time.RFC3339))
	}
	fmt.Fprintf(&b, " until %s", r.ExpiresAt.UTC().Format(time.RFC3339))
	return b.String()
}
