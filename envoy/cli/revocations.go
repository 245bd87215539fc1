package cli

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"jwtbouncer/authz"
)

type revocationsCmd struct {
	List   listCmd   `cmd:"" default:"withargs" help:"List revocations, newest first."`
	Export exportCmd `cmd:"" help:"Print every live revocation as JSON lines, for audits, for analysis, and for importing them again (docs/operations.md)."`
}

type filterFlags struct {
	Kind    string `enum:",jti,sub,sid,kid,iss,token,client,actor,claim,all_issuers" default:"" help:"Only revocations of this kind."`
	Iss     string `name:"iss" help:"Only revocations of this issuer's tokens."`
	Value   string `help:"Only revocations of this value: a jti, sub, sid, kid, client or actor, or NAME=VALUE of a claim."`
	Expired bool   `help:"Include expired revocations that are still stored."`
}

func (f filterFlags) filter() authz.Filter {
	kind, _ := authz.ParseKind(f.Kind) // the enum admits no other value
	return authz.Filter{Kind: kind, Issuer: f.Iss, Value: f.Value, IncludeExpired: f.Expired}
}

type listCmd struct {
	outputFlag
	filterFlags
	Limit int `default:"100" help:"Maximum entries to print; 0 means no limit."`
}

// Help is shown by list --help.
func (*listCmd) Help() string {
	return "With -o json, each revocation is an object on a line of its own; with -o yaml, an entry of one list."
}

// Run implements the command.
func (l *listCmd) Run(ctx context.Context, c *command, p *Process) error {
	return runList(ctx, c, p, l.filter(), l.Limit, l.outputFlag)
}

type exportCmd struct {
	Output string `short:"o" placeholder:"FORM" enum:"table,json,yaml" default:"json" help:"Form of the result: json (one object per line), yaml or table."`
	filterFlags
}

// Run implements the command.
func (e *exportCmd) Run(ctx context.Context, c *command, p *Process) error {
	return runList(ctx, c, p, e.filter(), 0, outputFlag{e.Output})
}

func runList(ctx context.Context, c *command, p *Process, f authz.Filter, limit int, output outputFlag) error {
	s, err := c.settings(p)
	if err != nil {
		return err
	}
	return withSchema(ctx, s, p, func(ctx context.Context, l *ledger) error {
		return p.list(ctx, l, f, limit, output)
	})
}

// list prints the revocations that filter selects, newest first: at most limit,
// or all if limit is 0.
func (p *Process) list(ctx context.Context, l authz.Lister, filter authz.Filter, limit int, output outputFlag) error {
	const pageSize = 1000
	var table *tabwriter.Writer
	if output.isTable() {
		table = tabwriter.NewWriter(p.Out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(table, "ID\tKIND\tISSUER\tVALUE\tISSUED BEFORE\tEXPIRES\tREVOKED\tBY\tREASON")
	}
	filter.Limit = pageSize
	printed := 0
	var more bool
	for {
		if limit > 0 {
			filter.Limit = min(pageSize, limit-printed)
		}
		page, next, err := l.List(ctx, filter)
		if err != nil {
			return withHint(err)
		}
		for _, r := range page {
			if table == nil {
				if err := output.printEntry(p.Out, newRevocationJSON(r)); err != nil {
					return err
				}
				continue
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.ID, r.Kind, cell(r.Issuer), cell(r.Value), stamp(r.NotBefore), stamp(r.ExpiresAt), stamp(r.RevokedAt), cell(r.Actor), cell(r.Reason))
		}
		printed += len(page)
		if more = next != ""; !more || limit > 0 && printed >= limit {
			break
		}
		filter.After = next
	}
	switch {
	case table != nil:
		if err := table.Flush(); err != nil {
			return err
		}
		if printed == 0 {
			fmt.Fprintln(p.Err, "no revocations match")
		}
	case printed == 0 && output.Output == outputYAML:
		fmt.Fprintln(p.Out, "[]")
	}
	if more {
		fmt.Fprintf(p.Err, "there are more; these are the newest %d (--limit 0 prints all)\n", printed)
	}
	return nil
}

// revocationJSON is the JSON form of a revocation; its members are those of the
// HTTP API.
type revocationJSON struct {
	ID        string     `json:"id,omitempty"` // empty, and RevokedAt zero, if it is not stored
	Kind      string     `json:"kind"`
	Issuer    string     `json:"iss,omitempty"` // empty for all_issuers
	Value     string     `json:"value,omitempty"`
	NotBefore *time.Time `json:"not_before,omitempty"`
	ExpiresAt time.Time  `json:"expires_at,omitzero"`
	RevokedAt time.Time  `json:"revoked_at,omitzero"`
	Actor     string     `json:"actor,omitempty"`
	Reason    string     `json:"reason,omitempty"`
}

func newRevocationJSON(r authz.Revocation) revocationJSON {
	out := revocationJSON{ID: r.ID, Kind: r.Kind.String(), Issuer: r.Issuer, Value: r.Value, ExpiresAt: r.ExpiresAt.UTC(), RevokedAt: r.RevokedAt.UTC(), Actor: r.Actor, Reason: r.Reason}
	if !r.NotBefore.IsZero() {
		nb := r.NotBefore.UTC()
		out.NotBefore = &nb
	}
	return out
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}
