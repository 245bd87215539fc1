package issuer_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/issuer"
)

const (
	entra  = "https://login.test/{tenantid}/v2.0"
	red    = "72f988bf-86f1-41af-91ab-2d7cd011db47"
	blue   = "9188040d-6c67-4c5b-b112-36a304b66dad"
	listed = "https://login.test/" + red + "/v2.0"
)

// An issuer with a name for each tenant. Its tokens are revoked under the name
// that they have themselves.
func TestTenants(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	key := iss.Key("")
	blueKey, allKey := authztest.NewKey("ES256").With("issuer", "https://login.test/"+blue+"/v2.0"), authztest.NewKey("ES256").With("issuer", entra)
	olderKey := authztest.NewKey("ES256").With("issuer", "https://sts.test/"+red+"/")
	iss.Publish(authztest.KeySet(key, blueKey, allKey, olderKey))
	for name, tt := range map[string]struct {
		tenants []string
		iss     string
		tid     any // nil: absent
		key     *authztest.Key
		want    authz.Reason
	}{
		"listed":                           {[]string{blue, red}, listed, red, key, authz.ReasonAllowed},
		"not listed":                       {[]string{blue}, listed, red, key, authz.ReasonUnknownIssuer},
		"any":                              {[]string{"any"}, listed, red, key, authz.ReasonAllowed},
		"tid of another tenant":            {[]string{blue, red}, listed, blue, key, authz.ReasonBadClaim},
		"tid absent":                       {[]string{red}, listed, nil, key, authz.ReasonBadClaim},
		"tid a number":                     {[]string{red}, listed, 1, key, authz.ReasonBadClaim},
		"any, tid of another":              {[]string{"any"}, listed, blue, key, authz.ReasonBadClaim},
		"the placeholder":                  {[]string{"any"}, entra, "{tenantid}", key, authz.ReasonUnknownIssuer},
		"the placeholder, listed":          {[]string{red}, entra, red, key, authz.ReasonUnknownIssuer},
		"no tenant":                        {[]string{"any"}, "https://login.test//v2.0", "", key, authz.ReasonUnknownIssuer},
		"path for a tenant":                {[]string{"any"}, "https://login.test/a/b/v2.0", "a/b", key, authz.ReasonUnknownIssuer},
		"dots for a tenant":                {[]string{"any"}, "https://login.test/../v2.0", "..", key, authz.ReasonUnknownIssuer},
		"text behind":                      {[]string{"any"}, listed + "/", red, key, authz.ReasonUnknownIssuer},
		"text in front":                    {[]string{"any"}, " " + listed, red, key, authz.ReasonUnknownIssuer},
		"other host":                       {[]string{"any"}, "https://evil.test/" + red + "/v2.0", red, key, authz.ReasonUnknownIssuer},
		"key of the tenant":                {[]string{"any"}, "https://login.test/" + blue + "/v2.0", blue, blueKey, authz.ReasonAllowed},
		"key of another tenant":            {[]string{"any"}, listed, red, blueKey, authz.ReasonUnknownKey},
		"key of every tenant":              {[]string{"any"}, listed, red, allKey, authz.ReasonAllowed},
		"key of the tenant, other version": {[]string{"any"}, listed, red, olderKey, authz.ReasonAllowed},
		"foreign key":                      {[]string{"any"}, listed, red, authztest.NewKey("ES256").Named(key.ID), authz.ReasonBadSignature},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := authztest.NewVerifier(t, iss, func(c *issuer.Config) { c.Issuer, c.Tenants = entra, tt.tenants })
			token, err := authztest.Verify(t, v, iss.Mint(map[string]any{"iss": tt.iss, "tid": tt.tid}, authztest.With(tt.key)))
			if tt.want != authz.ReasonAllowed {
				require.Equal(t, tt.want, authztest.ReasonOf(err), "%v", err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.iss, token.Issuer)
			require.Contains(t, token.Keys, authz.RevocationKey(authz.KindIss, tt.iss, ""))
			require.Contains(t, token.Keys, authz.RevocationKey(authz.KindSub, tt.iss, "user-1"))
			require.True(t, v.Current(token, token.IssuedAt))
		})
	}
}

// An event needs no tid, and the key of its tenant like any token.
func TestSecurityEventsOfTenants(t *testing.T) {
	t.Parallel()
	iss := authztest.StartIssuer(t)
	key := iss.Key("")
	iss.Publish(authztest.KeySet(key.With("issuer", listed)))
	v := authztest.NewVerifier(t, iss, func(c *issuer.Config) { c.Issuer, c.Tenants = entra, []string{"any"} })
	rules := authz.SecurityEventRules{Types: []string{"logout+jwt"}, Audiences: []string{"client"}}
	for name, want := range map[string]authz.Reason{listed: authz.ReasonAllowed, "https://login.test/" + blue + "/v2.0": authz.ReasonUnknownKey} {
		raw := iss.Mint(map[string]any{"iss": name, "aud": "client"}, authztest.Header("typ", "logout+jwt"))
		_, err := authztest.AwaitKeys(func() (*authz.Token, error) { return v.VerifySecurityEvent(t.Context(), raw, rules) })
		if want == authz.ReasonAllowed {
			require.NoError(t, err)
			continue
		}
		require.Equal(t, want, authztest.ReasonOf(err), "%v", err)
	}
}

// The discovery document that all tenants share names the issuer with the
// placeholder.
func TestDiscoveryOfTenants(t *testing.T) {
	t.Parallel()
	iss := authztest.NewIssuer(authztest.Offline())
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	iss.Name = server.URL + "/{tenantid}/v2.0"
	mux.HandleFunc("/common/v2.0/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, iss.Name, server.URL+"/keys")
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(iss.JWKS()) })
	v := authztest.NewVerifier(t, iss, func(c *issuer.Config) { c.JWKS, c.Tenants = "", []string{red} })
	_, err := v.Verify(t.Context(), iss.Mint(map[string]any{"iss": server.URL + "/" + red + "/v2.0", "tid": red}))
	require.NoError(t, err)
}

// A token without iss belongs to the issuer of its trust domain, or to the one
// without a trust domain, if that accepts such tokens.
func TestTokensWithoutIssuer(t *testing.T) {
	t.Parallel()
	one, two, other := authztest.StartIssuer(t), authztest.StartIssuer(t), authztest.StartIssuer(t)
	// Its key has a kid of one's, so that no set is fetched for it.
	forger := authztest.NewIssuer(authztest.Offline())
	forger.Withdraw(forger.Key("").ID)
	forger.Add(authztest.NewKey("ES256").Named(one.Key("").ID))
	config := func(name string, iss *authztest.Issuer, change func(*issuer.Config)) issuer.Config {
		c := issuer.Config{Issuer: name, Audiences: []string{"api"}, JWKS: iss.JWKSURL(), AllowMissingIss: true}
		change(&c)
		return c
	}
	keep := func(*issuer.Config) {}
	configs := []issuer.Config{
		config("spiffe://one.test", one, keep),
		config("https://two.test", two, func(c *issuer.Config) { c.TrustDomain = "two.test" }),
		config("https://other.test", other, keep),
		config("https://strict.test", one, func(c *issuer.Config) { c.AllowMissingIss = false }),
	}
	all, err := issuer.NewVerifier(configs, issuer.VerifierOptions{})
	require.NoError(t, err)
	defer all.Close()
	spiffe, err := issuer.NewVerifier(configs[:2], issuer.VerifierOptions{})
	require.NoError(t, err)
	defer spiffe.Close()
	strict, err := issuer.NewVerifier(configs[3:], issuer.VerifierOptions{})
	require.NoError(t, err)
	defer strict.Close()
	for name, tt := range map[string]struct {
		v      *issuer.Verifier
		signer *authztest.Issuer
		iss    any // nil: absent
		sub    string
		want   authz.Reason
		issuer string
	}{
		"trust domain":                {all, one, nil, "spiffe://one.test/web", authz.ReasonAllowed, "spiffe://one.test"},
		"configured trust domain":     {all, two, nil, "spiffe://two.test/a/b", authz.ReasonAllowed, "https://two.test"},
		"with iss":                    {all, two, "https://two.test", "spiffe://two.test/a", authz.ReasonAllowed, "https://two.test"},
		"with iss, sub outside":       {all, two, "https://two.test", "spiffe://one.test/a", authz.ReasonBadClaim, ""},
		"with iss, sub no SPIFFE ID":  {all, two, "https://two.test", "user-1", authz.ReasonBadClaim, ""},
		"key of another trust domain": {all, forger, nil, "spiffe://one.test/web", authz.ReasonBadSignature, ""},
		"no SPIFFE ID":                {all, other, nil, "user-1", authz.ReasonAllowed, "https://other.test"},
		"trust domain of nobody":      {all, other, nil, "spiffe://three.test/web", authz.ReasonAllowed, "https://other.test"},
		"prefix of a trust domain":    {spiffe, one, nil, "spiffe://one.test.evil/web", authz.ReasonUnknownIssuer, ""},
		"trust domain alone":          {spiffe, one, nil, "spiffe://one.test/", authz.ReasonUnknownIssuer, ""},
		"trust domain in capitals":    {spiffe, one, nil, "spiffe://ONE.test/web", authz.ReasonUnknownIssuer, ""},
		"no sub":                      {spiffe, one, nil, "", authz.ReasonUnknownIssuer, ""},
		"iss empty":                   {all, other, "", "user-1", authz.ReasonUnknownIssuer, ""},
		"iss a number":                {all, other, 1, "user-1", authz.ReasonUnknownIssuer, ""},
		"iss of nobody":               {all, one, "https://one.test", "spiffe://one.test/web", authz.ReasonUnknownIssuer, ""},
		"issuer that requires iss":    {strict, one, nil, "user-1", authz.ReasonUnknownIssuer, ""},
	} {
		t.Run(name, func(t *testing.T) {
			claims := map[string]any{"iss": tt.iss, "sub": tt.sub}
			if tt.sub == "" {
				claims["sub"] = nil
			}
			raw := tt.signer.Mint(claims)
			token, err := authztest.Verify(t, tt.v, raw)
			if tt.want != authz.ReasonAllowed {
				require.Equal(t, tt.want, authztest.ReasonOf(err), "%v", err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.issuer, token.Issuer)
			require.Equal(t, tt.issuer, token.Claims["iss"])
			require.Contains(t, token.Keys, authz.RevocationKey(authz.KindSub, tt.issuer, tt.sub))

			// Whoever revokes the token finds its issuer as the verifier does.
			revocations, err := (&authz.RevocationRequest{Token: &raw}).Normalize(issuer.Issuers(configs), time.Unix(token.IssuedAt, 0))
			require.NoError(t, err)
			require.Len(t, revocations, 1)
			require.Contains(t, token.Keys, revocations[0].Key())
		})
	}

	// The sub that chose the keys is the one that is verified.
	twice := one.Mint(nil, authztest.RawPayload([]byte(`{"sub":"spiffe://one.test/a","sub":"spiffe://two.test/a","aud":"api","exp":1}`)))
	_, err = authztest.Verify(t, all, twice)
	require.Equal(t, authz.ReasonMalformedToken, authztest.ReasonOf(err))
	// A logout token must name its issuer.
	logout := other.Mint(map[string]any{"iss": nil}, authztest.Header("typ", "logout+jwt"))
	_, err = all.VerifySecurityEvent(t.Context(), logout, authz.SecurityEventRules{Types: []string{"logout+jwt"}})
	require.Equal(t, authz.ReasonUnknownIssuer, authztest.ReasonOf(err))
}

func TestIssuersTogether(t *testing.T) {
	t.Parallel()
	base := issuer.Config{Issuer: "https://a.test", Audiences: []string{"api"}}
	with := func(change func(*issuer.Config)) issuer.Config { c := base; change(&c); return c }
	template := func(tenants ...string) issuer.Config {
		return with(func(c *issuer.Config) { c.Issuer, c.Tenants = entra, tenants })
	}
	missing := func(iss, domain string) issuer.Config {
		return with(func(c *issuer.Config) {
			c.Issuer, c.TrustDomain, c.AllowMissingIss, c.JWKS = iss, domain, true, "https://a.test/k"
		})
	}
	for name, tt := range map[string]struct {
		configs []issuer.Config
		want    []string // paths
	}{
		"good":                        {[]issuer.Config{base, template(red, blue), missing("spiffe://a.test", ""), missing("x", "b.test"), missing("y", "")}, nil},
		"any beside a tenant's own":   {[]issuer.Config{template("any"), with(func(c *issuer.Config) { c.Issuer = listed })}, nil},
		"twice":                       {[]issuer.Config{base, base}, []string{"[1].issuer"}},
		"tenant twice":                {[]issuer.Config{template(red), with(func(c *issuer.Config) { c.Issuer = listed })}, []string{"[1].issuer"}},
		"tenant twice in one":         {[]issuer.Config{template(red, red)}, []string{"[0].issuer"}},
		"any twice":                   {[]issuer.Config{template("any"), template("any")}, []string{"[1].issuer"}},
		"no tenants":                  {[]issuer.Config{template()}, []string{"[0].tenants"}},
		"any and another":             {[]issuer.Config{template("any", red)}, []string{"[0].tenants"}},
		"tenants without placeholder": {[]issuer.Config{with(func(c *issuer.Config) { c.Tenants = []string{red} })}, []string{"[0].tenants"}},
		"odd tenants":                 {[]issuer.Config{template("a/b", "{tenantid}", "*", "")}, []string{"[0].tenants[0]", "[0].tenants[1]", "[0].tenants[2]", "[0].tenants[3]"}},
		"misspelt placeholder":        {[]issuer.Config{with(func(c *issuer.Config) { c.Issuer = "https://login.test/{tenantId}/v2.0" })}, []string{"[0].issuer"}},
		"placeholder twice":           {[]issuer.Config{with(func(c *issuer.Config) { c.Issuer, c.Tenants = entra+"/{tenantid}", []string{red} })}, []string{"[0].issuer"}},
		"placeholder in a segment":    {[]issuer.Config{with(func(c *issuer.Config) { c.Issuer, c.Tenants = "https://login.test/x{tenantid}", []string{red} })}, []string{"[0].issuer"}},
		"placeholder as host": {[]issuer.Config{with(func(c *issuer.Config) {
			c.Issuer, c.Tenants, c.JWKS = "https://{tenantid}.login.test", []string{red}, "/k"
		})}, []string{"[0].issuer"}},
		"missing iss, tenants":          {[]issuer.Config{with(func(c *issuer.Config) { c.Issuer, c.Tenants, c.AllowMissingIss = entra, []string{red}, true })}, []string{"[0].allow_missing_iss"}},
		"missing iss, one trust domain": {[]issuer.Config{missing("spiffe://a.test", ""), missing("x", "a.test")}, []string{"[1].allow_missing_iss"}},
		"missing iss, no trust domain":  {[]issuer.Config{missing("x", ""), missing("y", "")}, []string{"[1].allow_missing_iss"}},
		"odd trust domain":              {[]issuer.Config{missing("x", "spiffe://a.test")}, []string{"[0].trust_domain"}},
		"path behind the trust domain":  {[]issuer.Config{missing("spiffe://a.test/x", "")}, []string{"[0].trust_domain"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, c := range tt.configs {
				require.True(t, len(tt.want) > 0 || c.Covers(c.ExampleName()), c.Issuer)
			}
			got := map[string]bool{}
			issuer.ValidateAll(tt.configs, func(path, _ string, _ ...any) { got[path] = true })
			want := map[string]bool{}
			for _, path := range tt.want {
				want[path] = true
			}
			require.True(t, maps.Equal(want, got), "%v", got)
			v, err := issuer.NewVerifier(tt.configs, issuer.VerifierOptions{})
			require.Equal(t, len(tt.want) > 0, err != nil, "%v", err)
			if err == nil {
				v.Close()
			}
		})
	}
	all := issuer.Issuers([]issuer.Config{base, template(red), with(func(c *issuer.Config) { c.Issuer, c.Tenants = "https://b.test/{tenantid}", []string{"any"} })})
	require.Equal(t, []string{"https://a.test", listed}, all.All())
	for iss, known := range map[string]bool{
		"https://a.test": true, listed: true, "https://login.test/" + blue + "/v2.0": false, entra: false,
		"https://b.test/" + blue: true, "https://b.test/{tenantid}": false, "https://b.test/": false,
	} {
		require.Equal(t, known, all.Known(iss), iss)
	}
}
