package authz_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

const (
	issuerOne = "https://one.example"
	issuerTwo = "https://two.example"
)

func TestRevocationRequestNormalize(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_900_000_000, 0)
	one := authz.Issuers{Verified: []string{issuerOne}, Claims: []string{"tenant_id", "device"}}
	hash := strings.Repeat("0a", 32)
	jwt := unsignedJWT(`{"iss":"` + issuerOne + `","exp":1900000060}`)
	for name, c := range map[string]struct {
		request authz.RevocationRequest
		want    authz.Revocation
	}{
		"jti":           {authz.RevocationRequest{JTI: new("x"), Reason: "lost", RevokedBy: "cli:bob"}, authz.Revocation{Kind: authz.KindJTI, Value: "x", Reason: "lost", RevokedBy: "cli:bob"}},
		"sub until now": {authz.RevocationRequest{Sub: new("bob")}, authz.Revocation{Kind: authz.KindSub, Value: "bob", NotBefore: now}},
		"issuer":        {authz.RevocationRequest{Issuer: new(issuerOne), All: true}, authz.Revocation{Kind: authz.KindIss, NotBefore: now}},
		"client":        {authz.RevocationRequest{Client: new("app")}, authz.Revocation{Kind: authz.KindClient, Value: "app", NotBefore: now}},
		"actor":         {authz.RevocationRequest{Actor: new("agent")}, authz.Revocation{Kind: authz.KindActor, Value: "agent", NotBefore: now}},
		"claim":         {authz.RevocationRequest{Claim: new("device=a=b")}, authz.Revocation{Kind: authz.KindClaim, Value: "device=a=b", NotBefore: now}},
		"token hash":    {authz.RevocationRequest{Token: &hash}, authz.Revocation{Kind: authz.KindToken, Value: hash}},
		"whole JWT":     {authz.RevocationRequest{Token: &jwt}, authz.Revocation{Kind: authz.KindToken, Value: authz.TokenValue(jwt), ExpiresAt: time.Unix(1_900_000_060, 0).Add(authz.ExpiryMargin)}},
		"sub of a verified message that looks like a token": {authz.RevocationRequest{SID: &jwt, FromClaims: true}, authz.Revocation{Kind: authz.KindSID, Value: jwt}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.want.Issuer = issuerOne
			got, err := c.request.Normalize(one, now)
			require.NoError(t, err)
			require.Equal(t, []authz.Revocation{c.want}, got)
		})
	}
	for field, request := range map[string]authz.RevocationRequest{
		"":           {},
		"jti":        {JTI: &jwt},
		"client":     {Client: &jwt},
		"claim":      {Claim: new("other=x")},
		"confirm":    {AllIssuers: true},
		"sub":        {Sub: new("")},
		"iss":        {SID: new("s"), Issuer: new("")},
		"token":      {Token: new("abc")},
		"reason":     {KID: new("k"), Reason: jwt},
		"revoked_by": {KID: new("k"), RevokedBy: "\x00"},
		"expires_at": {KID: new("k"), ExpiresAt: now},
		"not_before": {Sub: new("bob"), NotBefore: now.Add(25 * time.Hour)},
	} {
		got, err := request.Normalize(one, now)
		require.Nil(t, got)
		var invalid *authz.InvalidError
		require.ErrorAs(t, err, &invalid, field)
		require.Equal(t, field, invalid.Field)
		require.ErrorIs(t, err, authz.ErrInvalid)
		require.NotContains(t, err.Error(), jwt)
	}
}

// Nobody revokes everything by mistake: not with an issuer, not beside another
// selector, and not without saying it twice.
func TestRevocationRequestForAllIssuers(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_900_000_000, 0)
	issuers := authz.Issuers{Verified: []string{issuerOne, issuerTwo}, Templates: []string{"https://login.example/{tenantid}"}}
	got, err := (&authz.RevocationRequest{AllIssuers: true, Confirm: "all_issuers"}).Normalize(issuers, now)
	require.NoError(t, err)
	require.Equal(t, []authz.Revocation{{Kind: authz.KindAll, NotBefore: now}}, got)
	for _, q := range []authz.RevocationRequest{
		{AllIssuers: true}, {AllIssuers: true, Confirm: "yes"}, {Confirm: "all_issuers", All: true, Issuer: new(issuerOne)},
		{AllIssuers: true, Confirm: "all_issuers", Issuer: new(issuerOne)}, {AllIssuers: true, Confirm: "all_issuers", Sub: new("bob")},
	} {
		_, err := q.Normalize(issuers, now)
		require.ErrorIs(t, err, authz.ErrInvalid)
	}
}

// What the token lacks, no revocation can name: an order by a claim that no
// sidecar looks at would end nothing.
func TestRevocationRequestByClaim(t *testing.T) {
	t.Parallel()
	issuers := authz.Issuers{Verified: []string{issuerOne}, Claims: []string{"tenant_id"}}
	for _, claim := range []string{"", "tenant_id", "tenant_id=", "=acme", "tenant=acme", "tenant_id2=acme"} {
		_, err := (&authz.RevocationRequest{Claim: &claim}).Normalize(issuers, time.Now())
		require.ErrorIs(t, err, authz.ErrInvalid, claim)
	}
	_, err := (&authz.RevocationRequest{Claim: new("tenant_id=acme")}).Normalize(authz.Issuers{Verified: []string{issuerOne}}, time.Now())
	require.ErrorContains(t, err, "none is configured")
}

// A JWT is revoked under the name of every issuer that may accept it.
func TestRevocationRequestScope(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_900_000_000, 0)
	issuers := authz.Issuers{Verified: []string{issuerOne}, Introspected: []authz.IntrospectedIssuer{{Issuer: issuerTwo, All: true}, {Issuer: issuerOne}}}
	require.Equal(t, []string{issuerOne, issuerTwo}, issuers.All())
	for iss, want := range map[string][]string{issuerOne: {issuerTwo, issuerOne}, "https://foreign.example": {issuerTwo, issuerOne}} {
		jwt := unsignedJWT(`{"iss":"` + iss + `","exp":1}`)
		got, err := (&authz.RevocationRequest{Token: &jwt}).Normalize(issuers, now)
		require.NoError(t, err, "an introspected issuer need not heed exp")
		var names []string
		for _, r := range got {
			names = append(names, r.Issuer)
			require.Zero(t, r.ExpiresAt)
		}
		require.Equal(t, want, names)
	}
	_, err := (&authz.RevocationRequest{JTI: new("x")}).Normalize(issuers, now)
	require.ErrorContains(t, err, "more than one issuer")
}

// A tenant of a template is an issuer, the template itself is not. Nothing can be
// revoked for a tenant that is not named.
func TestRevocationRequestForTenants(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_900_000_000, 0)
	issuers := authz.Issuers{Verified: []string{issuerOne}, Templates: []string{"https://login.example/{tenantid}"}}
	red, template := "https://login.example/red", "https://login.example/{tenantid}"
	jwt := unsignedJWT(`{"iss":"` + red + `","exp":1900003600}`)
	for _, q := range []authz.RevocationRequest{{Token: &jwt}, {Token: &jwt, Issuer: &red}, {Sub: new("bob"), Issuer: &red}, {All: true, Issuer: &red}} {
		got, err := q.Normalize(issuers, now)
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.Equal(t, red, got[0].Issuer)
	}
	for _, q := range []authz.RevocationRequest{{Sub: new("bob")}, {All: true, Issuer: &template}, {Sub: new("bob"), Issuer: new("https://login.example/a/b")}} {
		_, err := q.Normalize(issuers, now)
		require.ErrorIs(t, err, authz.ErrInvalid)
	}
}

func TestParseTime(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Time{
		"1767323045":           time.Unix(1767323045, 0),
		"1767323045.5":         time.Unix(1767323045, 5e8),
		"2026-01-02T03:04:05Z": time.Unix(1767323045, 0),
	} {
		got, err := authz.ParseTime(text)
		require.NoError(t, err)
		require.True(t, want.Equal(got), "%s: %s", text, got)
	}
	for _, text := range []string{"", "NaN", "Inf", "0", "-1", "1767323045000", "tomorrow", "1969-12-31T23:59:59Z", "2026-01-02"} {
		_, err := authz.ParseTime(text)
		require.Error(t, err, text)
	}
	_, err := authz.NumericDate(math.NaN())
	require.Error(t, err)
}

// A request that its revocation could not keep is refused with what to do, rather
// than stored for less than it asks.
func TestRequestsThatCannotBeKept(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_900_000_000, 0)
	one := authz.Issuers{Verified: []string{issuerOne}}
	two := authz.Issuers{Verified: []string{issuerOne, issuerTwo}}
	tenants := authz.Issuers{Verified: []string{issuerOne}, Templates: []string{"https://login.example/{tenantid}"}}
	token := func(claims string) *string { return new(unsignedJWT(claims)) }
	lasting := token(`{"iss":"` + issuerOne + `","iat":1900000000,"exp":1900003600}`)
	for name, c := range map[string]struct {
		issuers authz.Issuers
		request authz.RevocationRequest
		field   string
		says    string
	}{
		"several issuers":        {two, authz.RevocationRequest{Sub: new("bob")}, "iss", `name one of "https://one.example", "https://two.example"`},
		"an issuer or a tenant":  {tenants, authz.RevocationRequest{Sub: new("bob")}, "iss", `"https://one.example", "https://login.example/{tenantid}"`},
		"a JWT without issuer":   {one, authz.RevocationRequest{Token: token(`{"exp":1900003600}`)}, "token", "names no issuer"},
		"a JWT without exp":      {one, authz.RevocationRequest{Token: token(`{"iss":"` + issuerOne + `"}`)}, "token", "has no exp"},
		"a JWT that never ends":  {one, authz.RevocationRequest{Token: token(`{"iss":"` + issuerOne + `","exp":1e15}`)}, "token", "exp"},
		"expires before its JWT": {one, authz.RevocationRequest{Token: lasting, ExpiresAt: time.Unix(1_900_003_599, 0)}, "expires_at", "2030-03-17T18:46:40Z"},
		"expires before the JWT of an introspected issuer": {authz.Issuers{Introspected: []authz.IntrospectedIssuer{{Issuer: issuerTwo}}},
			authz.RevocationRequest{Token: lasting, ExpiresAt: time.Unix(1_900_003_599, 0)}, "expires_at", "2030-03-17T18:46:40Z"},
		"a JWT issued later":        {one, authz.RevocationRequest{Token: lasting, NotBefore: now}, "not_before", "leave not_before out"},
		"expires before not_before": {one, authz.RevocationRequest{Sub: new("bob"), NotBefore: now.Add(2 * time.Hour), ExpiresAt: now.Add(time.Hour)}, "expires_at", "not_before"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := c.request.Normalize(c.issuers, now)
			var invalid *authz.InvalidError
			require.ErrorAs(t, err, &invalid)
			require.Equal(t, c.field, invalid.Field)
			require.Contains(t, invalid.Detail, c.says)
		})
	}
}

// The revocation of a whole JWT ends after the JWT, however late an expires_at is
// given, and however late the JWT may first be accepted.
func TestRevocationOutlivesItsJWT(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_900_000_000, 0)
	exp := time.Unix(1_900_003_600, 0)
	one := authz.Issuers{Verified: []string{issuerOne}}
	jwt := unsignedJWT(`{"iss":"` + issuerOne + `","iat":1900000000,"exp":1900003600}`)
	got, err := (&authz.RevocationRequest{Token: &jwt, ExpiresAt: exp}).Normalize(one, now)
	require.NoError(t, err)
	require.Equal(t, exp.Add(authz.ExpiryMargin), got[0].ExpiresAt, "a verifier's leeway counts")

	// Without iat, only the rest of the lifetime is held to max_token_ttl: the JWT may be
	// accepted when the default expiry has passed.
	introspected := authz.Issuers{Introspected: []authz.IntrospectedIssuer{{Issuer: issuerTwo}}}
	ageless := unsignedJWT(`{"iss":"` + issuerOne + `","exp":1950000000}`)
	got, err = (&authz.RevocationRequest{Token: &ageless}).Normalize(introspected, now)
	require.NoError(t, err)
	require.Len(t, got, 2, "the ledger keeps the later of the two expiries")
	require.Equal(t, got[0].Key(), got[1].Key())
	require.Zero(t, got[0].ExpiresAt)
	require.Equal(t, time.Unix(1_950_000_000, 0).Add(authz.ExpiryMargin), got[1].ExpiresAt)
}
