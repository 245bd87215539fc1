package console

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"jwtbouncer/authz"
)

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
