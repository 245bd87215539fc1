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
	Audit  auditCmd  `cmd:"" help:"Print who revoked what, when, through what and with what effect, expired revocations included that are still stored."`
	Export exportCmd `cmd:"" help:"Print every live revocation as JSON lines, for audits, for analysis, and for importing them again (docs/operations.md)."`
}

type filterFlags struct {
	Kind    string `enum:",jti,sub,sid,kid,iss,token,client,actor,claim,all_issuers" default:"" help:"Only revocations of this kind."`
	Iss     string `name:"iss" help:"Only revocations of this issuer's tokens."`
	Value   string `help:"Only revocations of this value: a jti, sub, sid, kid, client or actor, or NAME=VALUE of a claim."`
	Since   string `placeholder:"TIME" help:"Only revocations requested then or later (RFC 3339 or Unix seconds)."`
	By      string `placeholder:"NAME" help:"Only revocations of this requester, such as cli:bob, or through this source: cli:, api:, page:, client:, logout:, ssf:, keycloak: or gtr:."`
	Expired bool   `help:"Include expired revocations that are still stored."`
}

func (f filterFlags) filter() (authz.Filter, error) {
	kind, _ := authz.ParseKind(f.Kind) // the enum admits no other value
	out := authz.Filter{Kind: kind, Issuer: f.Iss, Value: f.Value, By: f.By, IncludeExpired: f.Expired}
	var err error
	if f.Since != "" {
		if out.Since, err = authz.ParseTime(f.Since); err != nil {
			err = usage(fmt.Errorf("--since: %w", err))
		}
	}
	return out, err
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
	return runList(ctx, c, p, l.filterFlags, l.Limit, l.outputFlag)
}

type exportCmd struct {
	Output string `short:"o" placeholder:"FORM" enum:"table,json,yaml" default:"json" help:"Form of the result: json (one object per line), yaml or table."`
	filterFlags
}

// Run implements the command.
func (e *exportCmd) Run(ctx context.Context, c *command, p *Process) error {
	return runList(ctx, c, p, e.filterFlags, 0, outputFlag{e.Output})
}

func runList(ctx context.Context, c *command, p *Process, flags filterFlags, limit int, output outputFlag) error {
	return withFilter(ctx, c, p, flags, func(ctx context.Context, l *ledger, f authz.Filter) error {
		return p.list(ctx, l, f, limit, output)
	})
}

func withFilter(ctx context.Context, c *command, p *Process, flags filterFlags, do func(context.Context, *ledger, authz.Filter) error) error {
	f, err := flags.filter()
	if err != nil {
		return err
	}
	s, err := c.settings(p)
	if err != nil {
		return err
	}
	return withSchema(ctx, s, p, func(ctx context.Context, l *ledger) error { return do(ctx, l, f) })
}

// list prints the revocations that filter selects, newest first: at most limit,
// or all if limit is 0.
func (p *Process) list(ctx context.Context, l authz.Lister, filter authz.Filter, limit int, output outputFlag) error {
	var table *tabwriter.Writer
	if output.isTable() {
		table = tabwriter.NewWriter(p.Out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(table, "ID\tKIND\tISSUER\tVALUE\tISSUED BEFORE\tEXPIRES\tREVOKED\tBY\tREASON")
	}
	printed := 0
	more, err := eachRevocation(ctx, l, filter, limit, func(r authz.Revocation) error {
		printed++
		if table == nil {
			return output.printEntry(p.Out, newRevocationJSON(r))
		}
		_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.ID, r.Kind, cell(r.Issuer), cell(r.Value), stamp(r.NotBefore), stamp(r.ExpiresAt), stamp(r.RevokedAt), cell(r.RevokedBy), cell(r.Reason))
		return err
	})
	if err != nil {
		return err
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

// eachRevocation calls do for the revocations that filter selects, newest first: at
// most limit, or all if limit is 0. more: there are others.
func eachRevocation(ctx context.Context, l authz.Lister, filter authz.Filter, limit int, do func(authz.Revocation) error) (more bool, err error) {
	const pageSize = 1000
	for done := 0; ; {
		filter.Limit = pageSize
		if limit > 0 {
			filter.Limit = min(pageSize, limit-done)
		}
		page, next, err := l.List(ctx, filter)
		if err != nil {
			return false, withHint(err)
		}
		for _, r := range page {
			if err := do(r); err != nil {
				return false, err
			}
		}
		done += len(page)
		if next == "" || limit > 0 && done >= limit {
			return next != "", nil
		}
		filter.After = next
	}
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
	RevokedBy string     `json:"revoked_by,omitempty"`
	Reason    string     `json:"reason,omitempty"`
}

func newRevocationJSON(r authz.Revocation) revocationJSON {
	out := revocationJSON{ID: r.ID, Kind: r.Kind.String(), Issuer: r.Issuer, Value: r.Value, ExpiresAt: r.ExpiresAt.UTC(), RevokedAt: r.RevokedAt.UTC(), RevokedBy: r.RevokedBy, Reason: r.Reason}
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
