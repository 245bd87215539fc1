package policy

import (
	"encoding/json"
	"net/url"
	"strings"

	"jwtbouncer/authz"
)

// ResourceConfig is the `resource` stanza: the metadata document that tells
// clients which authorization servers to go to (RFC 9728).
type ResourceConfig struct {
	Resource             string   `yaml:"resource" doc:"Identifier of the protected resource: an https URL without fragment. Empty: no metadata is served."`
	AuthorizationServers []string `yaml:"authorization_servers" doc:"Issuers whose tokens are good here. Empty: every configured issuer."`
	ScopesSupported      []string `yaml:"scopes_supported" doc:"Scopes that clients may ask for. Empty: those that the routes name."`
	Name                 string   `yaml:"name" doc:"Name of the resource for people. Empty: none."`
	Documentation        string   `yaml:"documentation" doc:"URL of its documentation for developers. Empty: none."`
	Policy               string   `yaml:"policy" doc:"URL of the rules for using it. Empty: none."`
	TermsOfService       string   `yaml:"terms_of_service" doc:"URL of its terms of service. Empty: none."`
}

// Validate reports every invalid value of the stanza.
func (c ResourceConfig) Validate(report authz.Report) {
	if c.Resource == "" {
		if len(c.AuthorizationServers)+len(c.ScopesSupported) > 0 || c.Name+c.Documentation+c.Policy+c.TermsOfService != "" {
			report("resource", "is needed for the rest of the stanza to have any use")
		}
		return
	}
	u, err := url.Parse(c.Resource)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !authz.IsLoopback(u.Hostname())):
		report("resource", "an absolute https URL is needed")
	case strings.ContainsAny(c.Resource, "#?") || u.User != nil:
		report("resource", "must not have a fragment, a query or a user name (RFC 9728, section 1.2)")
	}
	for i, s := range c.AuthorizationServers {
		if u, err := url.Parse(s); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.Fragment != "" {
			report(authz.ItemPath("authorization_servers", i), "an issuer URL is needed (RFC 8414, section 2)")
		}
	}
	checkTexts("scopes_supported", c.ScopesSupported, report, isScope)
	for _, link := range [][2]string{{"documentation", c.Documentation}, {"policy", c.Policy}, {"terms_of_service", c.TermsOfService}} {
		path, s := link[0], link[1]
		if u, err := url.Parse(s); s != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
			report(path, "an absolute URL is needed")
		}
	}
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

// ResourceMetadata builds the document of a resource that is under p. issuers
// are the configured ones. nil: nothing is configured.
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
		m.AuthorizationServers = issuers
	}
	if len(m.ScopesSupported) == 0 {
		m.ScopesSupported = p.scopes()
	}
	protected := 0
	needDPoPOnly := true
	for _, r := range p.routes {
		if r.Public {
			continue
		}
		protected++
		needDPoPOnly = needDPoPOnly && r.require == needDPoP
		if len(r.sources.queries) > 0 && len(m.BearerMethodsSupported) == 1 {
			m.BearerMethodsSupported = append(m.BearerMethodsSupported, "query")
		}
		if r.binding != nil {
			m.CertificateBound = m.CertificateBound || r.require == needMTLS
			m.DPoPAlgorithms = r.binding.dpop.Algorithms
		}
	}
	m.DPoPRequired = protected > 0 && needDPoPOnly
	return json.MarshalIndent(m, "", "  ")
}

// ResourceMetadataPath is where clients look for the document: the well-known
// path, with the resource's own path behind it (RFC 9728, section 3).
func ResourceMetadataPath(c ResourceConfig) string {
	const wellKnown = "/.well-known/oauth-protected-resource"
	u, err := url.Parse(c.Resource)
	if err != nil {
		return wellKnown
	}
	if u.Path == "/" {
		return wellKnown
	}
	return wellKnown + u.EscapedPath()
}

// ResourceMetadataURL is the document's URL, for challenges; "" when nothing
// is configured.
func ResourceMetadataURL(c ResourceConfig) string {
	u, err := url.Parse(c.Resource)
	if c.Resource == "" || err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host + ResourceMetadataPath(c)
}

// scopes returns the scopes that routes name, each once, in order.
func (p *Policy) scopes() []string {
	var all []string
	seen := map[string]bool{}
	for _, r := range p.routes {
		for _, list := range [][]string{r.RequiredScopes, r.AnyScopes} {
			for _, s := range list {
				if !seen[s] {
					seen[s] = true
					all = append(all, s)
				}
			}
		}
	}
	return all
}
