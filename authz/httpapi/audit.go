package httpapi

import (
	"context"
	"log/slog"
	"net/http"

	"jwtbouncer/authz"
)

// auditEach is up to how many revocations of one request each get a record of
// their own; above, one record tells the count and the ends of the list. The
// ledger itself keeps actor and reason of every one.
const auditEach = 100

// audit records who ordered what, why, and what became of it. Revocations hold
// identifiers and hashes, never a token.
func (a *api) audit(r *http.Request, door, actor string, ordered []authz.Revocation, rec authz.Receipt, err error) {
	base := auditAttrs(r, door, actor, outcome(err))
	level := slog.LevelInfo
	if err != nil {
		level = slog.LevelWarn
		base = append(base, slog.String("error", err.Error()))
	}
	list := ordered
	if err == nil {
		list = rec.Revocations
	}
	ctx := context.WithoutCancel(r.Context())
	if len(list) > auditEach {
		attrs := append(base, slog.Int("count", len(list)), slog.String("first_id", list[0].ID), slog.String("last_id", list[len(list)-1].ID), slog.String("reason", list[0].Reason))
		a.log.LogAttrs(ctx, level, "revocations ordered", attrs...)
		return
	}
	for i := range list {
		v := &list[i]
		attrs := append(base[:len(base):len(base)],
			slog.String("id", v.ID), slog.String("kind", v.Kind.String()), slog.String("iss", v.Issuer), slog.String("value", v.Value),
			slog.String("not_before", timeText(v.NotBefore)), slog.String("expires_at", timeText(v.ExpiresAt)), slog.String("reason", v.Reason))
		a.log.LogAttrs(ctx, level, "revocation ordered", attrs...)
	}
}

// auditRefused records a verified message whose requests are not valid.
func (a *api) auditRefused(r *http.Request, door, actor string, p *problem) {
	attrs := append(auditAttrs(r, door, actor, "failed"), slog.String("error", p.Errors[0].Detail))
	a.log.LogAttrs(context.WithoutCancel(r.Context()), slog.LevelWarn, "revocation ordered", attrs...)
}

func auditAttrs(r *http.Request, door, actor, outcome string) []slog.Attr {
	attrs := []slog.Attr{
		slog.String("log", "audit"), slog.String("door", door), slog.String("actor", actor),
		slog.String("remote", r.RemoteAddr), slog.String("outcome", outcome),
	}
	if id := r.Header.Get("X-Request-Id"); id != "" {
		attrs = append(attrs, slog.String("request_id", shorten(id)))
	}
	return attrs
}

func outcome(err error) string {
	if err == nil {
		return "stored"
	}
	return "failed"
}
