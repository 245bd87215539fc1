package httpapi

import (
	"context"
	"log/slog"
	"net/http"

	"jwtbouncer/authz"
)

// maxAuditRecords is the largest number of revocations of one request that are
// logged one by one. A larger request gets a single record with the count and
// the first and last id; the ledger has actor and reason of every revocation.
const maxAuditRecords = 100

// audit logs who revoked what, why, and the outcome. Revocations hold
// identifiers and hashes, never a token.
func (a *API) audit(r *http.Request, source, actor string, requested []authz.Revocation, receipt authz.Receipt, err error) {
	level, list := slog.LevelInfo, receipt.Revocations
	base := auditAttrs(r, source, actor, "stored")
	if err != nil {
		level, list = slog.LevelWarn, requested
		base = append(auditAttrs(r, source, actor, "failed"), slog.String("error", err.Error()))
	}
	ctx := context.WithoutCancel(r.Context())
	if len(list) > maxAuditRecords {
		attrs := append(base, slog.Int("count", len(list)), slog.String("first_id", list[0].ID), slog.String("last_id", list[len(list)-1].ID), slog.String("reason", list[0].Reason))
		a.audits.LogAttrs(ctx, level, "revocations requested", attrs...)
		return
	}
	for i := range list {
		v := &list[i]
		attrs := append(base[:len(base):len(base)],
			slog.String("id", v.ID), slog.String("kind", v.Kind.String()), slog.String("iss", v.Issuer), slog.String("value", v.Value),
			slog.String("not_before", FormatTime(v.NotBefore)), slog.String("expires_at", FormatTime(v.ExpiresAt)), slog.String("reason", v.Reason))
		a.audits.LogAttrs(ctx, level, "revocation requested", attrs...)
	}
}

// auditInvalid logs a verified message whose revocation requests are invalid.
func (a *API) auditInvalid(r *http.Request, source, actor string, p *Problem) {
	attrs := append(auditAttrs(r, source, actor, "failed"), slog.String("error", p.Errors[0].Detail))
	a.audits.LogAttrs(context.WithoutCancel(r.Context()), slog.LevelWarn, "revocation requested", attrs...)
}

func auditAttrs(r *http.Request, source, actor, outcome string) []slog.Attr {
	attrs := []slog.Attr{
		slog.String("log", "audit"), slog.String("source", source), slog.String("actor", actor),
		slog.String("remote", r.RemoteAddr), slog.String("outcome", outcome),
	}
	if id := r.Header.Get("X-Request-Id"); id != "" {
		attrs = append(attrs, slog.String("request_id", Shorten(id)))
	}
	return attrs
}
