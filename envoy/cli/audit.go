package cli

import (
	"context"
	"encoding/csv"
	"strconv"
	"strings"
	"time"

	"jwtbouncer/authz"
)

type auditCmd struct {
	Output string `short:"o" placeholder:"FORM" enum:"csv,json,yaml" default:"csv" help:"Form of the result: csv, json (one object per line) or yaml."`
	filterFlags
}

// auditEntry says who revoked what, when, through what, and with what effect.
type auditEntry struct {
	ID        string     `json:"id"`
	RevokedAt time.Time  `json:"revoked_at"`
	By        string     `json:"by"`
	Through   string     `json:"through"`
	Kind      string     `json:"kind"`
	Issuer    string     `json:"iss,omitempty"`
	Value     string     `json:"value,omitempty"`
	NotBefore *time.Time `json:"not_before,omitempty"` // absent: every matching token
	InForce   bool       `json:"in_force"`             // until ExpiresAt, at every sidecar
	ExpiresAt time.Time  `json:"expires_at"`
	Reason    string     `json:"reason,omitempty"`
}

// Run implements the command.
func (a *auditCmd) Run(ctx context.Context, c *command, p *Process) error {
	a.Expired = true
	return withFilter(ctx, c, p, a.filterFlags, func(ctx context.Context, l *ledger, f authz.Filter) error {
		table := csv.NewWriter(p.Out)
		if a.Output == "csv" {
			_ = table.Write([]string{"id", "revoked_at", "by", "through", "kind", "iss", "value", "not_before", "in_force", "expires_at", "reason"}) // Flush says what failed
		}
		_, err := eachRevocation(ctx, l, f, 0, func(r authz.Revocation) error {
			name, through := authz.Requester(r.RevokedBy)
			inForce := r.ExpiresAt.After(time.Now())
			if a.Output != "csv" {
				j := newRevocationJSON(r)
				return outputFlag{a.Output}.printEntry(p.Out, auditEntry{
					ID: r.ID, RevokedAt: j.RevokedAt, By: name, Through: through, Kind: j.Kind, Issuer: r.Issuer, Value: r.Value,
					NotBefore: j.NotBefore, InForce: inForce, ExpiresAt: j.ExpiresAt, Reason: r.Reason,
				})
			}
			notBefore := ""
			if !r.NotBefore.IsZero() {
				notBefore = stamp(r.NotBefore)
			}
			return table.Write([]string{
				r.ID, stamp(r.RevokedAt), csvText(name), through, r.Kind.String(), csvText(r.Issuer), csvText(r.Value), notBefore, strconv.FormatBool(inForce), stamp(r.ExpiresAt), csvText(r.Reason),
			})
		})
		table.Flush()
		if err != nil {
			return err
		}
		return table.Error()
	})
}

// csvText keeps a spreadsheet from taking text for a formula: whoever may revoke, or
// has a token made for him, could otherwise run one at the auditor's.
func csvText(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}
