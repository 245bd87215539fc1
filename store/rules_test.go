package store_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

// Plain SQL is held to the rules of Revocation.Normalize: a row that matches no
// token is refused, and does not look like a revocation. The three verdicts are
// compared for good and bad values of every kind.
func TestSchemaKeepsTheRules(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	open(t, pg.URL, store.Options{})
	url := sqliteURL(t)
	open(t, url, store.Options{})
	c, db := pg.Connect(t), openFile(t, strings.TrimPrefix(url, "sqlite://"))
	defer db.Close()
	intoPostgres := func(r authz.Revocation) error {
		_, err := c.Exec(t.Context(), `insert into authz.revocations (kind, iss, value, not_before, expires_at, actor, reason) values ($1, $2, $3, $4, $5, $6, $7)`,
			int16(r.Kind), r.Issuer, r.Value, orNull(r.NotBefore), orNull(r.ExpiresAt), r.RevokedBy, r.Reason)
		return err
	}
	intoSQLite := func(r authz.Revocation) error {
		key := r.Key()
		_, err := db.ExecContext(context.Background(), `insert into revocations (kind, iss, value, not_before, expires_at, ttl_from, actor, reason, key) values (?, ?, ?, ?, ?, 1, ?, ?, ?)`,
			r.Kind, r.Issuer, r.Value, microsOrNull(r.NotBefore), microsOrNull(r.ExpiresAt), r.RevokedBy, r.Reason, key[:])
		return err
	}

	const jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
	hash := authz.TokenValue(jwt)
	long := strings.Repeat("ü", authz.MaxIdentifier/2) // as long as may be, in bytes
	for kind := authz.KindUnknown; kind <= authz.KindAll+1; kind++ {
		values := []string{"", "a", hash}
		switch kind {
		case authz.KindIss, authz.KindAll:
			values = []string{"", "a", " "}
		case authz.KindClaim:
			values = append(values, "t=a", "=a", "t=", "=", "==a", "t==", "t=a=b", "t="+long, "ü=☃", "t=a\x00")
		case authz.KindToken:
			values = append(values, strings.ToUpper(hash), strings.ToUpper(hash[:1])+hash[1:], hash[1:], hash+"0", "g"+hash[1:], hash+"\n", " "+hash[1:],
				jwt, jwt[:strings.LastIndexByte(jwt, '.')], "0x"+hash[2:], strings.Repeat("٣", 32), long)
		case authz.KindJTI, authz.KindSub, authz.KindSID, authz.KindKID, authz.KindClient, authz.KindActor:
			values = append(values, long, long+"a", " ", "a\nb", "ünï ☃", `q'"\`, "a\x00b", "a\xff")
		}
		good := authz.Revocation{Kind: kind, Issuer: "https://i/" + kind.String(), Value: hash}
		switch kind {
		case authz.KindIss:
			good.Value = ""
		case authz.KindAll:
			good.Issuer, good.Value = "", ""
		case authz.KindClaim:
			good.Value = "t=" + hash
		}
		cases := []authz.Revocation{}
		for _, v := range values {
			r := good
			r.Value = v
			cases = append(cases, r)
		}
		for _, change := range []func(*authz.Revocation){
			func(r *authz.Revocation) { r.Issuer = "" },
			func(r *authz.Revocation) { r.Issuer = "https://i" },
			func(r *authz.Revocation) { r.Issuer = long },
			func(r *authz.Revocation) { r.Issuer = long + "a" },
			func(r *authz.Revocation) { r.Issuer = "a\x00" },
			func(r *authz.Revocation) { r.Issuer = "a\xff" },
			func(r *authz.Revocation) { r.Reason = long },
			func(r *authz.Revocation) { r.Reason = long + "a" },
			func(r *authz.Revocation) { r.Reason = "a\x00" },
			func(r *authz.Revocation) { r.RevokedBy = "api:" + long },
			func(r *authz.Revocation) { r.RevokedBy = "a\x00" },
			func(r *authz.Revocation) { r.ExpiresAt = time.Now().Add(time.Hour) },
			func(r *authz.Revocation) { r.ExpiresAt = time.Now().Add(-time.Second) },
			func(r *authz.Revocation) { r.ExpiresAt = time.Unix(1, 0) },
			func(r *authz.Revocation) { r.NotBefore = time.Now().Add(-time.Hour) },
			func(r *authz.Revocation) { r.NotBefore = time.Unix(0, 0) },
			func(r *authz.Revocation) { r.NotBefore = time.Unix(-1, 0) },
			func(r *authz.Revocation) { r.NotBefore = time.Unix(authz.LastSecond, 0) },
			func(r *authz.Revocation) { r.NotBefore = time.Unix(authz.LastSecond+1, 0) },
		} {
			r := good
			change(&r)
			cases = append(cases, r)
		}
		for i, r := range cases {
			want := programs(r)
			for engine, into := range map[string]func(authz.Revocation) error{"PostgreSQL": intoPostgres, "SQLite": intoSQLite} {
				if engine == "SQLite" && strings.Contains(r.Issuer+r.Value, "\xff") {
					continue // it cannot tell what is UTF-8
				}
				err := into(r)
				if err != nil && strings.Contains(strings.ToLower(err.Error()), "unique") {
					err = nil // taken before
				}
				assert.Equalf(t, want == nil, err == nil, "%s, case %d, %.70q: the program says %v, %s says %v", kind, i, r.Value, want, engine, err)
			}
		}
	}
	// The refusal says what to do.
	upper := authz.Revocation{Kind: authz.KindToken, Issuer: issuer, Value: strings.ToUpper(hash)}
	for _, err := range []error{intoPostgres(upper), intoSQLite(upper)} {
		require.ErrorContains(t, err, "lower-case hex")
	}
	_, err := openOnly(t, pg.URL, store.Options{}).Append(t.Context(), []authz.Revocation{upper})
	require.ErrorIs(t, err, authz.ErrInvalid)
}

// programs is the program's verdict on a revocation, before it reaches a store.
func programs(r authz.Revocation) error {
	err := r.Normalize(time.Now())
	if err == nil && !r.NotBefore.IsZero() && (r.NotBefore.Unix() < 0 || r.NotBefore.Unix() > authz.LastSecond) {
		err = authz.ErrInvalid
	}
	return err
}

func orNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t
}

func microsOrNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}
