package starter

import (
	"net/url"
	"strings"
)

// provider is a kind of identity provider, as far as its tokens differ from those
// that the defaults are made for. docs/identity-providers.md has a section for
// each, with the sources.
type provider struct {
	name  string
	notes []string // for the reader of the configuration, one line each
	// recognized reports whether the issuer is of this kind. A wrong yes must not
	// admit more tokens than the defaults do, unless the marks are unmistakable.
	recognized func(s site) bool

	acceptIDTokens bool // its access tokens have the marks of ID tokens
	clientsOnly    bool // its access tokens have no aud: the audiences are client ids
	sessions       bool // its access tokens carry sid, as its logout tokens do
	keysByHand     bool // discovery is not where the tokens' iss is
	allow          []string
}

// site is what the kind is recognized by.
type site struct {
	host, path string // of the issuer
	members    map[string]any
}

// ends reports whether a member of the discovery document ends in this text.
func (s site) ends(member, text string) bool {
	v, _ := s.members[member].(string)
	return strings.HasSuffix(v, text)
}

func (s site) under(domains ...string) bool {
	for _, d := range domains {
		if strings.HasSuffix(s.host, "."+d) {
			return true
		}
	}
	return false
}

var generic = provider{name: "an OpenID Provider"}

// providers are the kinds that are recognized. The first that matches counts.
var providers = []provider{
	{
		name: "Keycloak", sessions: true,
		recognized: func(s site) bool {
			return strings.Contains(s.path, "/realms/") && s.ends("token_endpoint", s.path+"/protocol/openid-connect/token")
		},
		notes: []string{"aud names an API only if the client has an audience mapper for it; without one it", "is account, which is every client's."},
	},
	{
		name: "Auth0",
		recognized: func(s site) bool {
			return s.under("auth0.com") || s.ends("mfa_challenge_endpoint", "/mfa/challenge") && s.path == "/"
		},
		notes: []string{"The audience is the API's identifier. A client that asks for none gets an opaque token."},
	},
	{
		name: "Okta",
		recognized: func(s site) bool {
			return s.under("okta.com", "oktapreview.com", "okta-emea.com") || strings.HasPrefix(s.path, "/oauth2/") && s.ends("jwks_uri", s.path+"/v1/keys")
		},
		notes: []string{"The audience is that of the custom authorization server, such as api://default."},
	},
	{
		name: "Microsoft Entra",
		recognized: func(s site) bool {
			return s.host == "login.microsoftonline.com" || s.host == "sts.windows.net" || s.host == "login.microsoftonline.us" || s.host == "login.partner.microsoftonline.cn"
		},
		notes: []string{"The API's registration decides the version of its tokens: version 2.0 has this issuer if", "it ends in /v2.0, and the API's client id as the audience; version 1.0 has", "https://sts.windows.net/TENANT/, and the API's URI as the audience."},
	},
	{
		name: "Amazon Cognito", clientsOnly: true,
		recognized: func(s site) bool {
			return strings.HasPrefix(s.host, "cognito-idp.") && s.under("amazonaws.com", "amazonaws.com.cn")
		},
		notes: []string{"Access tokens have no aud, so that a route names the clients instead."},
		allow: []string{"token.token_use == 'access'"},
	},
	{
		name:       "Google",
		recognized: func(s site) bool { return s.host == "accounts.google.com" },
		notes: []string{"Google's access tokens are opaque. These are ID tokens, which workloads get for any", "audience, so that a route names the callers.",
			"Those of signed-in users have nonce or at_hash, and need accept_id_tokens: true."},
		allow: []string{"token.email_verified == true", "token.email in ['caller@project.iam.gserviceaccount.com'] # your callers"},
	},
	{
		name:       "GitHub Actions",
		recognized: func(s site) bool { return s.host == "token.actions.githubusercontent.com" },
		notes:      []string{"Every workflow on GitHub gets a token for any audience, so that a route names the callers."},
		allow:      []string{"token.repository_owner_id == '0' # your organization's id"},
	},
	{
		name:       "Kubernetes",
		recognized: func(s site) bool { return s.ends("jwks_uri", "/openid/v1/jwks") },
		notes:      []string{"Service accounts' tokens. The API server's own audience must not be accepted."},
	},
	{
		name: "AD FS", keysByHand: true,
		recognized: func(s site) bool {
			return s.path == "/adfs" && s.ends("access_token_issuer", "/adfs/services/trust")
		},
		notes: []string{"Access tokens name the federation service, whose name is no address: jwks is needed."},
	},
	{
		name: "UAA", keysByHand: true,
		recognized: func(s site) bool { return s.path == "/oauth/token" && s.ends("jwks_uri", "/token_keys") },
		notes:      []string{"aud has the prefixes of the scopes: orders for orders.read."},
	},
	{
		name: "authentik", acceptIDTokens: true,
		recognized: func(s site) bool {
			return strings.HasPrefix(s.path, "/application/o/") && s.ends("token_endpoint", "/application/o/token/")
		},
		notes: []string{"The audience is the client id. Access tokens have the nonce of the sign-in, which is the", "mark of an ID token, so that accept_id_tokens is needed; ID tokens then pass as well."},
	},
	{
		name: "Zitadel",
		recognized: func(s site) bool {
			return s.under("zitadel.cloud") || s.ends("token_endpoint", "/oauth/v2/token") && s.ends("jwks_uri", "/oauth/v2/keys") && s.ends("introspection_endpoint", "/oauth/v2/introspect")
		},
		notes: []string{"The audience is the project's id. Choose JWT as the application's token type; the", "default is opaque."},
	},
	{
		name: "Dex", acceptIDTokens: true,
		recognized: func(s site) bool {
			return s.ends("authorization_endpoint", s.path+"/auth") && s.ends("token_endpoint", s.path+"/token") && s.ends("jwks_uri", s.path+"/keys") &&
				s.ends("device_authorization_endpoint", s.path+"/device/code") && s.ends("userinfo_endpoint", s.path+"/userinfo")
		},
		notes: []string{"The audience is the client id. Access tokens have the marks of ID tokens, so that", "accept_id_tokens is needed; ID tokens then pass as well."},
	},
}

// recognize returns the kind of the issuer.
func recognize(issuer string, members map[string]any) provider {
	u, err := url.Parse(issuer)
	if err != nil {
		return generic
	}
	s := site{host: strings.ToLower(u.Hostname()), path: strings.TrimSuffix(u.Path, "/"), members: members}
	if u.Path == "/" {
		s.path = "/"
	}
	for _, p := range providers {
		if p.recognized(s) {
			return p
		}
	}
	return generic
}
