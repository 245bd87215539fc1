package httpapi

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"jwtbouncer/authz"
)

// Limits of a request.
const (
	maxBatch = 10_000   // revocations in one request
	maxBody  = 2 << 20  // bytes of a bulk request
	maxForm  = 64 << 10 // bytes of every other request
)

// resource is a revocation as the API shows it.
type resource struct {
	ID        string `json:"id"`
	Kind      string `json:"kind"`
	Iss       string `json:"iss"`
	Value     string `json:"value,omitzero"`
	NotBefore string `json:"not_before,omitzero"`
	ExpiresAt string `json:"expires_at"`
	RevokedAt string `json:"revoked_at"`
	Actor     string `json:"actor"`
	Reason    string `json:"reason,omitzero"`
}

func newResource(r authz.Revocation) resource {
	return resource{
		ID: r.ID, Kind: r.Kind.String(), Iss: r.Issuer, Value: r.Value, NotBefore: timeText(r.NotBefore),
		ExpiresAt: timeText(r.ExpiresAt), RevokedAt: timeText(r.RevokedAt), Actor: r.Actor, Reason: r.Reason,
	}
}

func newResources(all []authz.Revocation) []resource {
	out := make([]resource, len(all))
	for i := range all {
		out[i] = newResource(all[i])
	}
	return out
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// receipt is the answer to an order.
type receipt struct {
	ID             string     `json:"id,omitzero"` // of a single object
	IDs            []string   `json:"ids"`
	Committed      string     `json:"committed"`
	EnforcedWithin float64    `json:"enforced_within"` // seconds after committed
	Published      bool       `json:"published"`
	Enforced       bool       `json:"enforced"`
	Revocations    []resource `json:"revocations"`
}

func (a *api) postRevocations(w http.ResponseWriter, r *http.Request) {
	wait, p := waitParameter(r)
	if p == nil {
		p = needType(r, "application/json")
	}
	if p != nil {
		p.write(w)
		return
	}
	body, p := readBody(w, r, maxBody)
	if p != nil {
		p.write(w)
		return
	}
	requests, list, err := DecodeRequests(body)
	if err != nil {
		invalid("the body could not be read", fieldErrorOf(err)).write(w)
		return
	}
	revocations, p := a.normalize(actorOf(r), requests)
	if p != nil {
		p.write(w)
		return
	}
	rec, p := a.store(r, doorAPI, actorOf(r), revocations)
	if p != nil {
		p.write(w)
		return
	}
	out := receipt{
		Committed: timeText(rec.Committed), EnforcedWithin: rec.EnforcedWithin.Seconds(), Published: rec.Published,
		Revocations: newResources(rec.Revocations), IDs: make([]string, len(rec.Revocations)),
	}
	for i, s := range rec.Revocations {
		out.IDs[i] = s.ID
	}
	if !list && len(out.IDs) == 1 {
		out.ID = out.IDs[0]
	}
	if wait == authz.WaitEnforced {
		out.Enforced = a.waitEnforced(w, r, rec.EnforcedWithin)
	}
	writeJSON(w, http.StatusCreated, "application/json", out)
}

// query reads the query string. net/url's own Query drops what is malformed,
// and with it a wait that was asked for, or a filter: the list would be another.
func query(r *http.Request) (url.Values, *problem) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("the query string is malformed", fieldError{Detail: "percent-encode what is special in it: % as %25, & as %26, ; as %3B, + as %2B"})
	}
	return q, nil
}

func waitParameter(r *http.Request) (authz.Wait, *problem) {
	q, p := query(r)
	if p != nil {
		return 0, p
	}
	for name, values := range q {
		if name != "wait" || len(values) != 1 {
			return 0, invalid("unknown or repeated query parameter", fieldError{Field: shorten(name), Detail: "only wait=none and wait=enforced are known"})
		}
	}
	switch q.Get("wait") {
	case "", "none":
		return authz.WaitCommitted, nil
	case "enforced":
		return authz.WaitEnforced, nil
	}
	return 0, invalid("unknown wait", fieldError{Field: "wait", Detail: "none or enforced is needed"})
}

// fieldErrorOf is an authz.ErrInvalid in the spelling of problem details.
func fieldErrorOf(err error) fieldError {
	var invalid *authz.InvalidError
	if errors.As(err, &invalid) {
		return fieldError{Index: invalid.Index, Field: invalid.Field, Detail: invalid.Detail}
	}
	return fieldError{Detail: err.Error()}
}

// normalize returns the revocations that fulfil all requests, or a problem that
// lists what is wrong with them. actor is who asks.
func (a *api) normalize(actor string, requests []authz.RevocationRequest) ([]authz.Revocation, *problem) {
	const maxErrors = 20 // in one response
	now := a.clock.Now()
	out := make([]authz.Revocation, 0, len(requests))
	var errs []fieldError
	for i := range requests {
		requests[i].Actor = actor
		revocations, err := requests[i].Normalize(a.issuers, now)
		if err != nil {
			e := fieldErrorOf(err)
			e.Index = i
			if errs = append(errs, e); len(errs) == maxErrors {
				break
			}
			continue
		}
		out = append(out, revocations...)
	}
	if len(errs) > 0 {
		return nil, invalid("nothing was revoked", errs...)
	}
	return out, nil
}

// revoke fulfils the requests of a client or of a verified message.
func (a *api) revoke(r *http.Request, door, actor string, requests []authz.RevocationRequest) (authz.Receipt, *problem) {
	revocations, p := a.normalize(actor, requests)
	if p != nil {
		a.metrics.ordered(door, "refused", len(requests))
		a.auditRefused(r, door, actor, p)
		return authz.Receipt{}, p
	}
	return a.store(r, door, actor, revocations)
}

// store hands revocations to the write path.
func (a *api) store(r *http.Request, door, actor string, revocations []authz.Revocation) (authz.Receipt, *problem) {
	// Not the caller's context: one who hangs up during the commit must not
	// make its outcome unknown. Revoking is idempotent and errs on the safe side.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), a.commitTimeout)
	defer cancel()
	rec, err := a.revoker.Revoke(ctx, revocations, authz.WaitCommitted)
	a.audit(r, door, actor, revocations, rec, err)
	switch {
	case err == nil:
		a.metrics.ordered(door, "stored", len(revocations))
		return rec, nil
	case errors.Is(err, authz.ErrInvalid):
		a.metrics.ordered(door, "refused", len(revocations))
		return rec, invalid("nothing was revoked", fieldErrorOf(err))
	case errors.Is(err, authz.ErrUnavailable) && !errors.Is(err, authz.ErrOutcomeUnknown):
		a.metrics.ordered(door, "unavailable", len(revocations))
		return rec, unavailable("the revocation ledger cannot be reached or written; nothing was revoked, repeat the request")
	}
	a.metrics.ordered(door, "unknown", len(revocations))
	return rec, &problem{
		Type: typeOutcomeUnknown, Title: "Outcome unknown", Status: http.StatusGatewayTimeout, retryAfter: 1,
		Detail: "it is not known whether the revocation was stored; repeat the request until it succeeds, repeating is safe",
	}
}

// waitEnforced returns true when bound has passed since the commit.
func (a *api) waitEnforced(w http.ResponseWriter, r *http.Request, bound time.Duration) bool {
	// The server's write deadline is meant for answers that are ready.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(bound + a.commitTimeout))
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-a.draining:
	case <-r.Context().Done():
	}
	return false
}

// page is one page of the list.
type page struct {
	Revocations []resource `json:"revocations"`
	Next        string     `json:"next,omitzero"`
}

func (a *api) getRevocations(w http.ResponseWriter, r *http.Request) {
	f, p := a.filter(r)
	if p != nil {
		p.write(w)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), a.commitTimeout)
	defer cancel()
	list, next, err := a.lister.List(ctx, f)
	if err != nil {
		a.listFailed(r, err).write(w)
		return
	}
	writeJSON(w, http.StatusOK, "application/json", page{Revocations: newResources(list), Next: next})
}

func (a *api) listFailed(r *http.Request, err error) *problem {
	if errors.Is(err, authz.ErrInvalid) {
		return invalid("the list could not be read", fieldError{Field: "cursor", Detail: err.Error()})
	}
	a.log.WarnContext(r.Context(), "listing revocations failed", "error", err)
	return unavailable("the revocation ledger cannot be read")
}

func (a *api) filter(r *http.Request) (authz.Filter, *problem) {
	var f authz.Filter
	q, p := query(r)
	if p != nil {
		return f, p
	}
	known := []string{"kind", "iss", "value", "include_expired", "limit", "cursor"}
	for name, values := range q {
		if !slices.Contains(known, name) || len(values) != 1 {
			return f, invalid("unknown or repeated query parameter", fieldError{Field: shorten(name), Detail: "known, once each: kind, iss, value, include_expired, limit, cursor"})
		}
	}
	if s := q.Get("kind"); s != "" {
		var ok bool
		if f.Kind, ok = authz.ParseKind(s); !ok {
			return f, invalid("unknown kind", fieldError{Field: "kind", Detail: "jti, sub, sid, kid, iss or token is needed"})
		}
	}
	f.Issuer, f.Value, f.After = q.Get("iss"), q.Get("value"), q.Get("cursor")
	if s := q.Get("include_expired"); s != "" {
		b, err := strconv.ParseBool(s)
		if err != nil {
			return f, invalid("unknown value", fieldError{Field: "include_expired", Detail: "true or false is needed"})
		}
		f.IncludeExpired = b
	}
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 1000 {
			return f, invalid("bad limit", fieldError{Field: "limit", Detail: "a number from 1 to 1000 is needed"})
		}
		f.Limit = n
	}
	return f, nil
}
