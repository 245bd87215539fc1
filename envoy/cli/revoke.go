package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/user"
	"strings"
	"time"

	"jwtbouncer/authz"
)

type revokeCmd struct {
	outputFlag
	JTI        *string `name:"jti" xor:"selector" help:"Revoke the token with this jti."`
	Sub        *string `name:"sub" xor:"selector" help:"Revoke the subject's tokens issued before now, or before --not-before."`
	SID        *string `name:"sid" xor:"selector" help:"Revoke the tokens of a login session."`
	KID        *string `name:"kid" xor:"selector" help:"Revoke the tokens signed with a key."`
	Client     *string `name:"client" xor:"selector" help:"Revoke the tokens issued to a client (client_id, else azp) before now, or before --not-before."`
	Actor      *string `name:"actor" xor:"selector" help:"Revoke the tokens with which a party acts for another (act.sub, at any depth), issued before now, or before --not-before."`
	Claim      *string `name:"claim" xor:"selector" placeholder:"NAME=VALUE" help:"Revoke the tokens with a claim of revocation.claims issued before now, or before --not-before."`
	Token      *string `name:"token" xor:"selector" placeholder:"-|TOKEN|SHA256" help:"Revoke one token; '-' reads it from standard input, which hides it from other users. Also accepted, in hex: the SHA-256 of a JWT's header.payload, or of an opaque token."`
	All        bool    `xor:"selector" help:"Revoke all tokens of the issuer issued before now, or before --not-before; --iss alone does the same."`
	AllIssuers bool    `xor:"selector" help:"Revoke all tokens of all issuers issued before now, or before --not-before; needs --yes."`
	Bulk       bool    `xor:"selector" help:"Read revocation requests from standard input: JSON objects as in POST /v1/revocations, one after another or in arrays of any length."`

	SkipExpired bool `help:"With --bulk: skip requests whose expires_at has passed."`

	Iss       *string `name:"iss" help:"Issuer of the tokens; optional if exactly one is configured."`
	Yes       bool    `help:"Confirm --all-issuers."`
	NotBefore *string `placeholder:"TIME" help:"Revoke only tokens issued before this time (RFC 3339 or Unix seconds)."`
	ExpiresAt *string `placeholder:"TIME" help:"When the last matching token expires (RFC 3339 or Unix seconds); default: now + max_token_ttl."`
	Reason    string  `help:"Free text for the audit trail."`
	DryRun    bool    `help:"Check the request and print what would be stored, but store nothing."`
	Wait      string  `enum:"none,enforced" default:"none" help:"enforced: return only when no sidecar can allow the tokens any more."`
}

// Validate is called by the parser.
func (r *revokeCmd) Validate() error {
	if r.Bulk && (r.Iss != nil || r.NotBefore != nil || r.ExpiresAt != nil || r.Reason != "") {
		return errors.New("--bulk can't be used together with --iss, --not-before, --expires-at or --reason: each request has its own")
	}
	switch {
	case r.AllIssuers && !r.Yes:
		return errors.New("--all-issuers logs everybody out of everything; repeat the command with --yes if that is what you want")
	case r.Yes && !r.AllIssuers:
		return errors.New("--yes belongs to --all-issuers")
	}
	if r.DryRun && (r.Bulk || r.Wait != "none") {
		return errors.New("--dry-run can't be used together with --bulk or --wait")
	}
	if r.SkipExpired && !r.Bulk {
		return errors.New("--skip-expired needs --bulk")
	}
	return nil
}

// Run implements the command.
func (r *revokeCmd) Run(ctx context.Context, c *command, p *Process) error {
	s, err := c.settings(p)
	if err != nil {
		return err
	}
	if r.Bulk {
		i := importer{Process: p, issuers: s.RevocableIssuers(), skipExpired: r.SkipExpired, wait: r.Wait == "enforced", output: r.outputFlag}
		return withSchema(ctx, s, p, func(ctx context.Context, l *ledger) error {
			i.revoker = l.revoker
			return i.run(ctx)
		})
	}
	request, err := r.request(p.In)
	if err != nil {
		return err
	}
	revocations, err := request.Normalize(s.RevocableIssuers(), time.Now())
	if err != nil {
		return usage(err)
	}
	if r.DryRun {
		would := make([]revocationJSON, len(revocations))
		for i, rv := range revocations {
			would[i] = newRevocationJSON(rv)
		}
		return r.print(p, would, func(w io.Writer) {
			for _, rv := range revocations {
				fmt.Fprintf(w, "would revoke %s\n", describe(rv))
			}
		})
	}
	return withSchema(ctx, s, p, func(ctx context.Context, l *ledger) error {
		err := r.revoke(ctx, p, l.revoker, revocations)
		if errors.Is(err, authz.ErrInvalid) {
			return usage(err)
		}
		return err
	})
}

// request returns the request that the flags describe. An empty value is passed
// on and refused: it is usually a variable that was not set, and without it the
// request would revoke more than intended.
func (r *revokeCmd) request(stdin io.Reader) (authz.RevocationRequest, error) {
	q := authz.RevocationRequest{
		Issuer: r.Iss, JTI: r.JTI, Sub: r.Sub, SID: r.SID, KID: r.KID, Client: r.Client, Actor: r.Actor, Claim: r.Claim, Token: r.Token, All: r.All,
		AllIssuers: r.AllIssuers,
		Reason:     r.Reason, RevokedBy: actor(),
	}
	if r.Token != nil {
		text, err := readToken(*r.Token, stdin)
		if err != nil {
			return q, err
		}
		q.Token = &text
	}
	if r.Yes {
		q.Confirm = authz.KindAll.String()
	}
	if r.JTI == nil && r.Sub == nil && r.SID == nil && r.KID == nil && r.Client == nil && r.Actor == nil && r.Claim == nil && r.Token == nil && !r.AllIssuers {
		q.All = q.All || r.Iss != nil
	}
	for _, t := range []struct {
		name string
		text *string
		to   *time.Time
	}{{"not_before", r.NotBefore, &q.NotBefore}, {"expires_at", r.ExpiresAt, &q.ExpiresAt}} {
		if t.text == nil {
			continue
		}
		var err error
		if *t.to, err = authz.ParseTime(*t.text); err != nil {
			return q, usage(fmt.Errorf("%s: %w", t.name, err))
		}
	}
	return q, nil
}

// actor names the user for the audit trail.
func actor() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return "cli:" + name
}

// revoke stores the revocations, all or none, and prints the receipt.
func (r *revokeCmd) revoke(ctx context.Context, p *Process, to *authz.Revoker, revocations []authz.Revocation) error {
	receipt, err := to.Revoke(ctx, revocations)
	if err != nil {
		return withHint(err)
	}
	var waitErr error
	if r.Wait == "enforced" {
		waitErr = receipt.Wait(ctx)
	}
	ids := make([]string, len(receipt.Revocations))
	for i, rv := range receipt.Revocations {
		ids[i] = rv.ID
	}
	result := struct {
		IDs []string `json:"ids"`
		receiptJSON
	}{ids, newReceiptJSON(receipt)}
	return errors.Join(r.print(p, result, func(w io.Writer) { r.table(w, receipt, waitErr) }), waitErr)
}

func (r *revokeCmd) table(w io.Writer, receipt authz.Receipt, waitErr error) {
	for _, rv := range receipt.Revocations {
		fmt.Fprintf(w, "revoked %s  %s\n", rv.ID, describe(rv))
	}
	fmt.Fprintf(w, "committed %s, enforced everywhere within %s", receipt.Committed.UTC().Format(time.RFC3339Nano), receipt.EnforcedWithin)
	switch {
	case r.Wait == "enforced" && waitErr == nil:
		fmt.Fprintln(w, " (that time has passed: no sidecar allows it any more)")
	case receipt.Published:
		fmt.Fprintln(w, ", published (normally enforced in milliseconds)")
	default:
		fmt.Fprintln(w, ", not published (each sidecar learns of it at its next sync)")
	}
}

// receiptJSON is the JSON form of authz.Receipt; its members are those of the
// HTTP API.
type receiptJSON struct {
	Committed      time.Time `json:"committed"`
	EnforcedWithin float64   `json:"enforced_within"` // seconds
	Published      bool      `json:"published"`
}

func newReceiptJSON(r authz.Receipt) receiptJSON {
	return receiptJSON{Committed: r.Committed.UTC(), EnforcedWithin: r.EnforcedWithin.Seconds(), Published: r.Published}
}

// withHint adds advice to the errors that the user can do something about.
func withHint(err error) error {
	switch {
	case errors.Is(err, authz.ErrOutcomeUnknown):
		return fmt.Errorf("%w\nhint: repeat the command; a revocation that is already stored does not change", err)
	case errors.Is(err, authz.ErrUnavailable):
		return fmt.Errorf("%w\nhint: nothing was stored; `jwt-bouncer health` says which dependency is unavailable", err)
	}
	return err
}

// describe returns a revocation in one line.
func describe(r authz.Revocation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", r.Kind)
	if r.Value != "" {
		fmt.Fprintf(&b, " %q", r.Value)
	}
	if r.Issuer != "" {
		fmt.Fprintf(&b, " of %q", r.Issuer)
	}
	if !r.NotBefore.IsZero() {
		fmt.Fprintf(&b, " issued before %s", r.NotBefore.UTC().Format(time.RFC3339))
	}
	if !r.ExpiresAt.IsZero() {
		fmt.Fprintf(&b, " until %s", r.ExpiresAt.UTC().Format(time.RFC3339))
	}
	return b.String()
}
