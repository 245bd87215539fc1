package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"jwtbouncer/authz"
)

// resource is a revocation as the API shows it.
type resource struct {
	ID        string `json:"id"`
	Kind      string `json:"kind"`
	Iss       string `json:"iss,omitzero"` // empty for all_issuers
	Value     string `json:"value,omitzero"`
	NotBefore string `json:"not_before,omitzero"`
	ExpiresAt string `json:"expires_at"`
	RevokedAt string `json:"revoked_at"`
	RevokedBy string `json:"revoked_by"`
	Reason    string `json:"reason,omitzero"`
}

func newResources(all []authz.Revocation) []resource {
	out := make([]resource, len(all))
	for i, r := range all {
		out[i] = resource{
			ID: r.ID, Kind: r.Kind.String(), Iss: r.Issuer, Value: r.Value, NotBefore: FormatTime(r.NotBefore),
			ExpiresAt: FormatTime(r.ExpiresAt), RevokedAt: FormatTime(r.RevokedAt), RevokedBy: r.RevokedBy, Reason: r.Reason,
		}
	}
	return out
}

// FormatTime writes a time as the API does; the zero time is "".
func FormatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// receipt is the response to a revocation request.
type receipt struct {
	ID             string     `json:"id,omitzero"` // of a single object
	IDs            []string   `json:"ids"`
	Committed      string     `json:"committed"`
	EnforcedWithin float64    `json:"enforced_within"` // seconds after committed
	Published      bool       `json:"published"`
	Enforced       bool       `json:"enforced"`
	Revocations    []resource `json:"revocations"`
}

func (a *API) postRevocations(w http.ResponseWriter, r *http.Request) {
	wait, p := waitParameter(r)
	if p != nil {
		p.Write(w)
		return
	}
	rec, list, p := a.revokeBody(w, r)
	if p != nil {
		p.Write(w)
		return
	}
	out := receipt{
		Committed: FormatTime(rec.Committed), EnforcedWithin: rec.EnforcedWithin.Seconds(), Published: rec.Published,
		Revocations: newResources(rec.Revocations), IDs: make([]string, len(rec.Revocations)),
	}
	for i, s := range rec.Revocations {
		out.IDs[i] = s.ID
	}
	if !list && len(out.IDs) == 1 {
		out.ID = out.IDs[0]
	}
	if wait {
		out.Enforced = a.waitEnforced(w, r, rec)
	}
	WriteJSON(w, http.StatusCreated, "application/json", out)
}

// revokeBody stores the requests of the body. list tells whether it is an array.
func (a *API) revokeBody(w http.ResponseWriter, r *http.Request) (rec authz.Receipt, list bool, p *Problem) {
	if p = RequireType(r, "application/json"); p != nil {
		return rec, false, p
	}
	body, p := ReadBody(w, r, maxBody)
	if p != nil {
		return rec, false, p
	}
	requests, list, err := DecodeRequests(body)
	if err != nil {
		return rec, list, invalid("the body could not be read", invalidMember(err))
	}
	revocations, err := a.writer.normalize(ActorOf(r), requests)
	if err != nil {
		return rec, list, ProblemOf(err)
	}
	rec, p = a.Store(r.Context(), SourceAPI, revocations)
	return rec, list, p
}

// query reads a query string with the known parameters, once each. net/url's own
// Query drops malformed ones: a wait would be ignored, or a filter would select
// too much.
func query(r *http.Request, known ...string) (url.Values, *Problem) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("the query string is malformed", InvalidMember{Detail: "percent-encode special characters: % as %25, & as %26, ; as %3B, + as %2B"})
	}
	for name, values := range q {
		if !slices.Contains(known, name) || len(values) != 1 {
			return nil, invalid("unknown or repeated query parameter", InvalidMember{Field: authz.Shorten(name), Detail: "allowed, once each: " + strings.Join(known, ", ")})
		}
	}
	return q, nil
}

func waitParameter(r *http.Request) (enforced bool, p *Problem) {
	q, p := query(r, "wait")
	if p != nil {
		return false, p
	}
	switch q.Get("wait") {
	case "", "none":
		return false, nil
	case "enforced":
		return true, nil
	}
	return false, invalid("unknown wait", InvalidMember{Field: "wait", Detail: "must be none or enforced"})
}

// waitEnforced waits until the receipt's bound has passed, the caller has gone,
// or the server drains, and reports whether it has passed.
func (a *API) waitEnforced(w http.ResponseWriter, r *http.Request, rec authz.Receipt) bool {
	// The server's write deadline is meant for responses that are ready.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(rec.EnforcedWithin + a.o.Config.WriteTimeout))
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		select {
		case <-a.o.Draining:
			cancel()
		case <-ctx.Done():
		}
	}()
	return rec.Wait(ctx) == nil
}

// listPage is one page of the list.
type listPage struct {
	Revocations []resource `json:"revocations"`
	Next        string     `json:"next,omitzero"`
}

func (a *API) getRevocations(w http.ResponseWriter, r *http.Request) {
	var list listPage
	f, p := filterParameters(r)
	if p == nil {
		var page []authz.Revocation
		page, list.Next, p = a.List(r, f)
		list.Revocations = newResources(page)
	}
	if p != nil {
		p.Write(w)
		return
	}
	WriteJSON(w, http.StatusOK, "application/json", list)
}

// List returns one page of the ledger and the cursor of the next.
func (a *API) List(r *http.Request, f authz.Filter) (page []authz.Revocation, next string, p *Problem) {
	for field, text := range map[string]string{"iss": f.Issuer, "value": f.Value, "by": f.By} {
		if len(text) > authz.MaxIdentifier || !authz.ValidText(text) { // PostgreSQL refuses it
			return nil, "", invalid("the list could not be read", InvalidMember{Field: field, Detail: fmt.Sprintf("must be valid UTF-8 without NUL, of at most %d bytes", authz.MaxIdentifier)})
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), a.o.Config.WriteTimeout)
	defer cancel()
	page, next, err := a.o.Lister.List(ctx, f)
	switch {
	case err == nil:
		return page, next, nil
	case errors.Is(err, authz.ErrInvalid):
		return nil, "", invalid("the list could not be read", InvalidMember{Field: "cursor", Detail: "must be the next of an earlier page"})
	}
	a.o.Logger.WarnContext(r.Context(), "listing revocations failed", "error", err)
	return nil, "", Unavailable("the revocation ledger cannot be read")
}

func filterParameters(r *http.Request) (authz.Filter, *Problem) {
	var f authz.Filter
	q, p := query(r, "kind", "iss", "value", "since", "by", "include_expired", "limit", "cursor")
	if p != nil {
		return f, p
	}
	if s := q.Get("kind"); s != "" {
		var ok bool
		if f.Kind, ok = authz.ParseKind(s); !ok {
			return f, invalid("unknown kind", InvalidMember{Field: "kind", Detail: "must be one of " + strings.Join(authz.KindNames(), ", ")})
		}
	}
	f.Issuer, f.Value, f.By, f.After = q.Get("iss"), q.Get("value"), q.Get("by"), q.Get("cursor")
	var err error
	if s := q.Get("since"); q.Has("since") {
		if f.Since, err = authz.ParseTime(s); err != nil {
			return f, invalid("unknown time", InvalidMember{Field: "since", Detail: err.Error()})
		}
	}
	if s := q.Get("include_expired"); s != "" {
		if f.IncludeExpired, err = strconv.ParseBool(s); err != nil {
			return f, invalid("unknown value", InvalidMember{Field: "include_expired", Detail: "must be true or false"})
		}
	}
	if s := q.Get("limit"); s != "" {
		if f.Limit, err = strconv.Atoi(s); err != nil || f.Limit < 1 || f.Limit > 1000 {
			return f, invalid("invalid limit", InvalidMember{Field: "limit", Detail: "must be a number from 1 to 1000"})
		}
	}
	return f, nil
}
