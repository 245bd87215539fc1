package sharedsignals

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
)

// Source is the source of this package's revocations in metrics and the audit log.
const Source = "security_events"

// Outcome is what became of a security event token.
type Outcome uint8

// The zero Outcome is never acknowledged.
const (
	Postponed Outcome = iota // it is not known yet: the transmitter must keep the token and send it again
	Enforced                 // its revocations are committed
	Ignored                  // nothing ends by it
	Repeated                 // it was processed before
	Refused                  // it is not valid, or cannot be carried out; Code says why
)

var outcomeNames = [...]string{Postponed: "postponed", Enforced: "enforced", Ignored: "ignored", Repeated: "repeated", Refused: "refused"}

// String returns the outcome's label in metrics.
func (o Outcome) String() string { return outcomeNames[o] }

// Acknowledged reports whether the transmitter may forget the token as processed.
func (o Outcome) Acknowledged() bool { return o == Enforced || o == Ignored || o == Repeated }

// Error codes of RFC 8935, section 2.4, which RFC 8936 shares.
const (
	CodeInvalidRequest       = "invalid_request"
	CodeInvalidKey           = "invalid_key"
	CodeInvalidIssuer        = "invalid_issuer"
	CodeInvalidAudience      = "invalid_audience"
	CodeAuthenticationFailed = "authentication_failed"
)

// Result says what to answer the transmitter.
type Result struct {
	Outcome     Outcome
	Code        string // of a refused token: one of the error codes
	Description string // of a refused or postponed token, in English; holds no token
	// Err is why a token is postponed: authz.ErrUnavailable, authz.ErrOutcomeUnknown,
	// or the Revoker's. Only the logs may repeat it.
	Err error
}

// Verifier verifies security event tokens.
type Verifier interface {
	// VerifySecurityEvent checks form, signature, typ, audience and times. On failure
	// it returns an error that wraps an *authz.Failure.
	VerifySecurityEvent(ctx context.Context, raw string, rules authz.SecurityEventRules) (*authz.Token, error)
}

// Revoker is the write path.
type Revoker interface {
	// Revoke fulfils the requests of actor, all or none, and logs and counts them under
	// source. Errors: authz.ErrInvalid for requests that cannot be kept; after any
	// other the caller must repeat them.
	Revoke(ctx context.Context, source, actor string, requests []authz.RevocationRequest) (authz.Receipt, error)
}

// Options are the parameters of New. Verifier, Revoker, Registry, Logger and Clock
// are required.
type Options struct {
	Config   Config
	Verifier Verifier
	Revoker  Revoker
	// Verified is called with a verification event (SSF 1.0, section 8.1.4.1): the
	// transmitter's iss, the stream's id and the state, "" for what the event does not
	// have. nil: nobody waits for one. It must not block.
	Verified func(transmitter, stream, state string)
	// Updated is called with a stream updated event (SSF 1.0, section 8.1.5): the
	// transmitter's iss, the stream's id and its new status. nil: it is logged only.
	Updated  func(transmitter, stream, status string)
	Registry prometheus.Registerer
	Logger   *slog.Logger
	Clock    authz.Clock
}

// Receiver processes security event tokens, however they come in.
type Receiver struct {
	o        Options
	received *Seen
	counter  *prometheus.CounterVec
}

// New returns a Receiver. It starts nothing. It is an error if Registry has its
// metrics already.
func New(o Options) (*Receiver, error) {
	r := &Receiver{o: o, received: NewSeen(time.Hour), counter: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "jwt_bouncer_security_events_total", Help: "Security event tokens received, by outcome (enforced, ignored, repeated, refused, postponed).",
	}, []string{"outcome"})}
	for _, outcome := range outcomeNames {
		r.counter.WithLabelValues(outcome) // rate and increase miss the first event of a series that begins with it
	}
	return r, o.Registry.Register(r.counter)
}

// Receive processes one security event token: it verifies the token, derives
// revocation requests from its events, and has them committed.
func (r *Receiver) Receive(ctx context.Context, raw string) Result {
	return r.ReceiveFor(ctx, raw, r.o.Config.Audiences)
}

// ReceiveFor is Receive for a token that must have one of the given audiences, rather
// than of those in Config.
func (r *Receiver) ReceiveFor(ctx context.Context, raw string, audiences []string) Result {
	t, err := r.o.Verifier.VerifySecurityEvent(ctx, raw, authz.SecurityEventRules{
		Types: []string{"secevent+jwt"}, Audiences: audiences, ExpOptional: true, // RFC 8417, section 2.2
	})
	if err != nil {
		return r.unverified(ctx, raw, err)
	}
	events, ok := t.Claims["events"].(map[string]any)
	// iat is required (RFC 8417, section 2.2): without it, nothing says which
	// tokens are older.
	if t.ID == "" || t.IssuedAt == 0 || !ok || len(events) == 0 {
		return r.Refuse(CodeInvalidRequest, "jti, iat or events is missing")
	}
	now := r.o.Clock.Now()
	id := MessageID(t.Issuer, t.ID)
	if r.received.Has(id, now) { // RFC 8935, section 2.2: acknowledged like the first
		return r.count(Result{Outcome: Repeated})
	}
	requests, err := r.eventRequests(t, events)
	if err != nil {
		r.o.Logger.InfoContext(ctx, "security event refused", "iss", t.Issuer, "jti", t.ID, "error", err)
		return r.Refuse(CodeInvalidRequest, err.Error())
	}
	r.tellStream(t, events)
	if len(requests) == 0 {
		r.o.Logger.InfoContext(ctx, "security event acknowledged without effect", "iss", t.Issuer, "jti", t.ID)
		return r.count(Result{Outcome: Ignored})
	}
	if _, err := r.o.Revoker.Revoke(ctx, Source, "ssf:"+t.Issuer, requests); err != nil {
		var invalid *authz.InvalidError
		if errors.As(err, &invalid) {
			return r.Refuse(CodeInvalidRequest, invalid.Detail)
		}
		return r.count(Result{Outcome: Postponed, Description: "the event could not be carried out; send it again", Err: err})
	}
	r.received.Add(id, now)
	return r.count(Result{Outcome: Enforced})
}

// unverified returns the result for a token that the verifier refuses with err.
func (r *Receiver) unverified(ctx context.Context, raw string, err error) Result {
	f := authz.AsFailure(err)
	r.o.Logger.InfoContext(ctx, "message refused", "message", "security event token", "error", err)
	if Retryable(f, raw, r.o.Clock.Now()) {
		return r.count(Result{
			Outcome: Postponed, Description: "the security event token cannot be verified at the moment", Err: authz.ErrUnavailable,
		})
	}
	code, ok := errorCodes[f.Reason]
	if !ok {
		code = CodeInvalidRequest
	}
	return r.Refuse(code, "the security event token is not valid: "+f.Reason.String())
}

// errorCodes are the error codes by reason. Other reasons have invalid_request.
var errorCodes = map[authz.Reason]string{
	authz.ReasonUnknownIssuer: CodeInvalidIssuer, authz.ReasonWrongAudience: CodeInvalidAudience,
	authz.ReasonUnknownKey: CodeInvalidKey, authz.ReasonRevoked: CodeInvalidKey, authz.ReasonBadSignature: CodeAuthenticationFailed,
}

// Refuse counts a token that is refused before its text is complete, and returns
// the result.
func (r *Receiver) Refuse(code, description string) Result {
	return r.count(Result{Outcome: Refused, Code: code, Description: description})
}

func (r *Receiver) count(result Result) Result {
	r.counter.WithLabelValues(result.Outcome.String()).Inc()
	return result
}

// Retryable reports whether the sender of the message raw should send it again
// after f. Unless the issuer's keys were fetched moments ago, an unknown key or a
// bad signature (of a message without kid) may mean the issuer's next key, which
// other sidecars may know already. An expired message is never retryable.
func Retryable(f *authz.Failure, raw string, now time.Time) bool {
	switch f.Reason {
	case authz.ReasonKeysUnavailable, authz.ReasonRevocationUnknown, authz.ReasonOverloaded, authz.ReasonInternal, authz.ReasonUnset:
		return true
	case authz.ReasonUnknownKey, authz.ReasonBadSignature:
		claims, ok := authz.ReadUnverifiedClaims(raw)
		return !f.Settled && ok && !claims.Expired(now)
	}
	return false
}
