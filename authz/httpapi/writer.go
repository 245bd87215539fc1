package httpapi

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
)

// WriterOptions are the parameters of NewWriter. All but Timeout are required.
type WriterOptions struct {
	Issuers  authz.Issuers
	Revoker  Revoker
	Timeout  time.Duration // of the ledger's commit; 0: 15s
	Registry prometheus.Registerer
	Logger   *slog.Logger // of the audit log, which leaves no line out
	Clock    authz.Clock
}

// Writer is the write path of revocations that others request: it normalizes
// requests, has them committed, and logs and counts the outcome. It needs no HTTP
// port.
type Writer struct {
	o       WriterOptions
	counter *prometheus.CounterVec
}

// NewWriter returns a Writer. It is an error if Registry has its metrics already.
func NewWriter(o WriterOptions) (*Writer, error) {
	o.Timeout = cmp.Or(o.Timeout, DefaultConfig().WriteTimeout)
	w := &Writer{o: o, counter: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "jwt_bouncer_revocations_ordered_total", Help: "Revocations requested over HTTP or by a security event, by source and outcome (stored, refused, unavailable, unknown).",
	}, []string{"source", "outcome"})}
	// All series exist from the start: rate and increase miss the first event of
	// a series that begins with it.
	for _, source := range []string{SourceAPI, SourcePage, SourceOAuth, SourceLogout, SourceEvents, SourceKeycloak, SourceGlobal} {
		for _, outcome := range []string{"stored", "refused", "unavailable", "unknown"} {
			w.counter.WithLabelValues(source, outcome)
		}
	}
	return w, o.Registry.Register(w.counter)
}

// Revoke fulfils the requests of actor, all or none. It logs and counts invalid
// requests. Errors are those of authz.Ledger, with the *authz.InvalidError of each
// invalid request.
func (w *Writer) Revoke(ctx context.Context, source, actor string, requests []authz.RevocationRequest) (authz.Receipt, error) {
	revocations, err := w.normalize(actor, requests)
	if err != nil {
		w.count(source, "refused", len(requests))
		w.auditInvalid(ctx, source, actor, err)
		return authz.Receipt{}, err
	}
	return w.Store(ctx, source, revocations)
}

// Store hands revocations that RevocationRequest.Normalize returned to the ledger,
// and logs and counts the outcome. Errors are those of authz.Ledger.
func (w *Writer) Store(ctx context.Context, source string, revocations []authz.Revocation) (authz.Receipt, error) {
	// Not the caller's context: hanging up during the commit must not leave the
	// outcome unknown. Revoking is idempotent and errs on the safe side.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.o.Timeout)
	defer cancel()
	rec, err := w.o.Revoker.Revoke(ctx, revocations)
	w.audit(ctx, source, revocations[0].RevokedBy, revocations, rec, err)
	w.count(source, outcomeOf(err), len(revocations))
	return rec, err
}

// count counts n revocations.
func (w *Writer) count(source, outcome string, n int) {
	w.counter.WithLabelValues(source, outcome).Add(float64(n))
}

func outcomeOf(err error) string {
	switch {
	case err == nil:
		return "stored"
	case errors.Is(err, authz.ErrInvalid):
		return "refused"
	case errors.Is(err, authz.ErrUnavailable) && !errors.Is(err, authz.ErrOutcomeUnknown):
		return "unavailable"
	}
	return "unknown"
}

// ProblemOf returns the problem for an error of Writer; nil for nil.
func ProblemOf(err error) *Problem {
	switch outcomeOf(err) {
	case "stored":
		return nil
	case "refused":
		var members []InvalidMember
		for _, err := range allOf(err) {
			members = append(members, invalidMember(err))
		}
		return invalid("nothing was revoked", members...)
	case "unavailable":
		return Unavailable("the revocation ledger cannot be reached or written; nothing was revoked, repeat the request")
	}
	return Fail(http.StatusGatewayTimeout, "it is not known whether the revocation was stored; repeat the request until it succeeds, repeating is safe")
}

// normalize returns the revocations that fulfil all requests of actor, or the
// errors of the invalid ones.
func (w *Writer) normalize(actor string, requests []authz.RevocationRequest) ([]authz.Revocation, error) {
	const maxErrors = 20 // in one response
	now := w.o.Clock.Now()
	out := make([]authz.Revocation, 0, len(requests))
	var bad invalidRequests
	for i := range requests {
		requests[i].RevokedBy = actor
		revocations, err := requests[i].Normalize(w.o.Issuers, now)
		if err != nil {
			bad = append(bad, atIndex(err, i))
			if len(bad) == maxErrors {
				break
			}
		}
		out = append(out, revocations...)
	}
	if len(bad) > 0 {
		return nil, bad
	}
	return out, nil
}

// invalidRequests are the errors of the requests of one batch; never empty.
type invalidRequests []error

func (e invalidRequests) Error() string {
	text := make([]string, len(e))
	for i, err := range e {
		text[i] = err.Error()
	}
	return strings.Join(text, "; ")
}

// Unwrap lets errors.Is and errors.As reach each.
func (e invalidRequests) Unwrap() []error { return e }

// atIndex returns the error of the request at index i of its batch.
func atIndex(err error, i int) error {
	var invalid *authz.InvalidError
	if !errors.As(err, &invalid) {
		return err
	}
	at := *invalid
	at.Index = i
	return &at
}

func allOf(err error) []error {
	var bad invalidRequests
	if errors.As(err, &bad) {
		return bad
	}
	return []error{err}
}
