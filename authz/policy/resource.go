package policy

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"jwtbouncer/authz"
)

// ResourceConfig is the stanza "resource": the metadata document that tells
// clients which authorization servers issue tokens for the resource (RFC 9728).
type ResourceConfig struct {
	Resource             string   `yaml:"resource" doc:"Identifier of the protected resource: an https URL without fragment. Empty: no metadata is served."`
	AuthorizationServers []string `yaml:"authorization_servers" doc:"Issuers whose tokens the resource accepts. Empty: every configured issuer with an https URL whose tokens a route accepts."`
	ScopesSupported      []string `yaml:"scopes_supported" doc:"Scopes that clients may request. Empty: all scopes that the routes name."`
	Name                 string   `yaml:"name" doc:"Human-readable name of the resource. Empty: none."`
	Documentation        string   `yaml:"documentation" doc:"URL of the documentation for developers. Empty: none."`
	Policy               string   `yaml:"policy" doc:"URL of the rules for using the resource. Empty: none."`
	TermsOfService       string   `yaml:"terms_of_service" doc:"URL of the terms of service. Empty: none."`
}

// Validate reports every invalid value of the stanza.
func (c ResourceConfig) Validate(report authz.Report) {
	if c.Resource == "" {
		if len(c.AuthorizationServers)+len(c.ScopesSupported) > 0 || c.Name+c.Documentation+c.Policy+c.TermsOfService != "" {
			report("resource", "required if another key of the stanza is set")
		}
		return
	}
	u, ok := webURL(c.Resource)
	switch {
	case !ok || u.Scheme == "http" && !authz.IsLoopback(u.Hostname()):
		report("resource", "must be an absolute https URL")
	case strings.ContainsAny(c.Resource, "#?") || u.User != nil:
		report("resource", "must not have a fragment, a query or a user name (RFC 9728, section 1.2)")
	}
	for i, s := range c.AuthorizationServers {
		if u, ok := webURL(s); !ok || u.RawQuery != "" || u.Fragment != "" || u.Scheme == "http" && !authz.IsLoopback(u.Hostname()) {
			report(authz.ItemPath("authorization_servers", i), "must be the https URL of an issuer, without query and fragment (RFC 8414, section 2)")
		}
	}
	checkTexts("scopes_supported", c.ScopesSupported, report, isScope)
	for _, link := range [][2]string{{"documentation", c.Documentation}, {"policy", c.Policy}, {"terms_of_service", c.TermsOfService}} {
		if _, ok := webURL(link[1]); link[1] != "" && !ok {
			report(link[0], "must be an absolute URL")
		}
	}
}

// webURL parses an absolute http or https URL.
func webURL(s string) (*url.URL, bool) {
	u, err := url.Parse(s)
	return u, err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http")
}

// resourceMetadata is the document of RFC 9728, section 2.
type resourceMetadata struct {
	Resource               string   `json:"resource"`
	AuthorizationServers   []string `json:"authorization_servers,omitempty"`
	ScopesSupported        []string `json:"scopes_supported,omitempty"`
	BearerMethodsSupported []string `json:"bearer_methods_supported"`
	ResourceName           string   `json:"resource_name,omitempty"`
	ResourceDocumentation  string   `json:"resource_documentation,omitempty"`
	ResourcePolicyURI      string   `json:"resource_policy_uri,omitempty"`
	ResourceTOSURI         string   `json:"resource_tos_uri,omitempty"`
	CertificateBound       bool     `json:"tls_client_certificate_bound_access_tokens,omitempty"`
	DPoPAlgorithms         []string `json:"dpop_signing_alg_values_supported,omitempty"`
	DPoPRequired           bool     `json:"dpop_bound_access_tokens_required,omitempty"`
}

// ResourceMetadata returns the document of the resource that p protects; nil if c
// is empty. issuers are the names of the issuers whose access tokens can be valid.
func ResourceMetadata(c ResourceConfig, p *Policy, issuers []string) ([]byte, error) {
	if c.Resource == "" {
		return nil, nil
	}
	m := resourceMetadata{
		Resource: c.Resource, AuthorizationServers: c.AuthorizationServers, ScopesSupported: c.ScopesSupported,
		ResourceName: c.Name, ResourceDocumentation: c.Documentation, ResourcePolicyURI: c.Policy, ResourceTOSURI: c.TermsOfService,
		BearerMethodsSupported: []string{"header"},
	}
	if len(m.AuthorizationServers) == 0 {
		m.AuthorizationServers = p.authorizationServers(issuers)
	}
	if len(m.ScopesSupported) == 0 {
		m.ScopesSupported = p.scopes()
	}
	protected, dpop := 0, 0
	for _, r := range p.routes {
		if r.Public {
			continue
		}
		protected++
		if r.require == requireDPoP {
			dpop++
		}
		if len(r.credentials.Queries) > 0 && len(m.BearerMethodsSupported) == 1 {
			m.BearerMethodsSupported = append(m.BearerMethodsSupported, "query")
		}
		if r.binding != nil {
			m.CertificateBound = m.CertificateBound || r.require == requireMTLS
			m.DPoPAlgorithms = r.binding.dpop.Algorithms
		}
	}
	m.DPoPRequired = dpop > 0 && dpop == protected
	return json.MarshalIndent(m, "", "  ")
}

// ResourceMetadataPath returns the path of the document: the well-known path,
// followed by the path of the resource (RFC 9728, section 3).
func ResourceMetadataPath(c ResourceConfig) string {
	const wellKnown = "/.well-known/oauth-protected-resource"
	u, err := url.Parse(c.Resource)
	if err != nil || u.Path == "/" {
		return wellKnown
	}
	return wellKnown + u.EscapedPath()
}

// ResourceMetadataURL returns the URL of the document, for challenges; "" if c is
// empty.
func ResourceMetadataURL(c ResourceConfig) string {
	u, err := url.Parse(c.Resource)
	if c.Resource == "" || err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host + ResourceMetadataPath(c)
}

// authorizationServers returns the issuers whose tokens some route accepts and whose
// metadata a client can find: their names are https URLs (RFC 8414, section 2).
func (p *Policy) authorizationServers(issuers []string) []string {
	return slices.DeleteFunc(slices.Clone(issuers), func(iss string) bool {
		u, ok := webURL(iss)
		return !ok || u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" || !slices.ContainsFunc(p.routes, func(r *Route) bool {
			return !r.Public && (len(r.Issuers) == 0 || slices.Contains(r.Issuers, iss))
		})
	})
}

// scopes returns the scopes that routes name, each once, in the order of the routes.
func (p *Policy) scopes() []string {
	var all []string
	for _, r := range p.routes {
		for _, s := range slices.Concat(r.RequiredScopes, r.AnyScopes) {
			if !slices.Contains(all, s) {
				all = append(all, s)
			}
		}
	}
	return all
}
