package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"jwtbouncer/authz"
)

type revocationsCmd struct {
	List   listCmd   `cmd:"" default:"withargs" help:"Newest first."`
	Export exportCmd `cmd:"" help:"Every live revocation as JSON lines: for audit, analysis, and to order them again (docs/operations.md)."`
}

type filterFlags struct {
	Kind    string `enum:",jti,sub,sid,kid,iss,token" default:"" help:"Only this kind."`
	Iss     string `name:"iss" help:"Only this issuer."`
	Value   string `help:"Only this jti, sub, sid or kid."`
	Expired bool   `help:"Also those that have expired but are still kept."`
}

func (f filterFlags) filter() authz.Filter {
	kind, _ := authz.ParseKind(f.Kind) // the enum lets nothing else through
	return authz.Filter{Kind: kind, Issuer: f.Iss, Value: f.Value, IncludeExpired: f.Expired}
}

type listCmd struct {
	filterFlags
	Limit int  `default:"100" help:"At most so many; 0: all."`
	JSON  bool `name:"json" help:"Print JSON, one object a line."`
}

// Run implements the command.
func (l *listCmd) Run(ctx context.Context, c *command, io *Process) error {
	return listRevocations(ctx, c, io, l.filter(), l.Limit, l.JSON)
}

type exportCmd struct{ filterFlags }

// Run implements the command.
func (e *exportCmd) Run(ctx context.Context, c *command, io *Process) error {
	return listRevocations(ctx, c, io, e.filter(), 0, true)
}

func listRevocations(ctx context.Context, c *command, io *Process, f authz.Filter, limit int, asJSON bool) error {
	return c.admin(ctx, io, func(a *admin) error {
		if err := a.Usable(ctx); err != nil {
			return err
		}
		return Printer{Out: io.Out, Err: io.Err, JSON: asJSON}.List(ctx, a.Store, f, limit)
	})
}

// record is the JSON form of a revocation; its members are those of the HTTP API.
type record struct {
	ID        string     `json:"id"`
	Kind      string     `json:"kind"`
	Issuer    string     `json:"iss"`
	Value     string     `json:"value,omitempty"`
	NotBefore *time.Time `json:"not_before,omitempty"`
	ExpiresAt time.Time  `json:"expires_at"`
	RevokedAt time.Time  `json:"revoked_at"`
	Actor     string     `json:"actor,omitempty"`
	Reason    string     `json:"reason,omitempty"`
}

func recordOf(r authz.Revocation) record {
	out := record{ID: r.ID, Kind: r.Kind.String(), Issuer: r.Issuer, Value: r.Value, ExpiresAt: r.ExpiresAt.UTC(), RevokedAt: r.RevokedAt.UTC(), Actor: r.Actor, Reason: r.Reason}
	if !r.NotBefore.IsZero() {
		nb := r.NotBefore.UTC()
		out.NotBefore = &nb
	}
	return out
}

// List prints the revocations that filter selects, newest first: at most
// limit of them, or all when limit is 0.
func (p Printer) List(ctx context.Context, l authz.Lister, filter authz.Filter, limit int) error {
	var tw *tabwriter.Writer
	enc := json.NewEncoder(p.Out)
	if !p.JSON {
		tw = tabwriter.NewWriter(p.Out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(tw, "ID\tKIND\tISSUER\tVALUE\tISSUED BEFORE\tEXPIRES\tREVOKED\tBY\tREASON")
	}
	filter.Limit = 1000
	printed := 0
	var more bool
	for {
		if limit > 0 {
			filter.Limit = min(1000, limit-printed)
		}
		page, next, err := l.List(ctx, filter)
		if err != nil {
			return hint(err)
		}
		for _, r := range page {
			if p.JSON {
				if err := enc.Encode(recordOf(r)); err != nil {
					return err
				}
				continue
			}
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.ID, r.Kind, safe(r.Issuer), safe(r.Value), stamp(r.NotBefore), stamp(r.ExpiresAt), stamp(r.RevokedAt), safe(r.Actor), safe(r.Reason))
		}
		printed += len(page)
		if more = next != ""; !more || limit > 0 && printed >= limit {
			break
		}
		filter.After = next
	}
	if tw != nil {
		if err := tw.Flush(); err != nil {
			return err
		}
		if printed == 0 {
			fmt.Fprintln(p.Err, "no revocations match")
		}
	}
	if more {
		fmt.Fprintf(p.Err, "there are more: these are the newest %d (--limit N: N of them; --limit 0: all)\n", printed)
	}
	return nil
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

// safe keeps text that others chose from steering the terminal or breaking the table.
func safe(s string) string {
	if s == "" {
		return "-"
	}
	const longest = 60
	q := strconv.Quote(s)
	q = q[1 : len(q)-1]
	if len(q) > longest {
		q = q[:longest-1] + "…"
	}
	return q
}
