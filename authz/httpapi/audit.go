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
func (w *Writer) audit(ctx context.Context, source, actor string, requested []authz.Revocation, receipt authz.Receipt, err error) {
	level, list := slog.LevelInfo, receipt.Revocations
	base := auditAttrs(ctx, source, actor, "stored")
	if err != nil {
		level, list = slog.LevelWarn, requested
		base = append(auditAttrs(ctx, source, actor, "failed"), slog.String("error", err.Error()))
	}
	if len(list) > maxAuditRecords {
		attrs := append(base, slog.Int("count", len(list)), slog.String("first_id", list[0].ID), slog.String("last_id", list[len(list)-1].ID), slog.String("reason", list[0].Reason))
		w.o.Logger.LogAttrs(ctx, level, "revocations requested", attrs...)
		return
	}
	for i := range list {
		v := &list[i]
		attrs := append(base[:len(base):len(base)],
			slog.String("id", v.ID), slog.String("kind", v.Kind.String()), slog.String("iss", v.Issuer), slog.String("value", v.Value),
			slog.String("not_before", FormatTime(v.NotBefore)), slog.String("expires_at", FormatTime(v.ExpiresAt)), slog.String("reason", v.Reason))
		w.o.Logger.LogAttrs(ctx, level, "revocation requested", attrs...)
	}
}

// auditInvalid logs a verified message whose revocation requests are invalid.
func (w *Writer) auditInvalid(ctx context.Context, source, actor string, err error) {
	attrs := append(auditAttrs(ctx, source, actor, "failed"), slog.String("error", invalidMember(err).Detail))
	w.o.Logger.LogAttrs(ctx, slog.LevelWarn, "revocation requested", attrs...)
}

func auditAttrs(ctx context.Context, source, actor, outcome string) []slog.Attr {
	from, _ := ctx.Value(originKey{}).(origin)
	attrs := []slog.Attr{
		slog.String("log", "audit"), slog.String("source", source), slog.String("actor", actor),
		slog.String("remote", from.remote), slog.String("outcome", outcome),
	}
	if from.requestID != "" {
		attrs = append(attrs, slog.String("request_id", authz.Shorten(from.requestID)))
	}
	return attrs
}

// origin is where a request to the HTTP port came from, for the audit log.
type origin struct{ remote, requestID string }

type originKey struct{}

// withOrigin returns r with its origin in its context. A revocation without one
// was not requested over HTTP.
func withOrigin(r *http.Request) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), originKey{}, origin{r.RemoteAddr, r.Header.Get("X-Request-Id")}))
}
