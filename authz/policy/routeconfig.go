package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"jwtbouncer/authz"
)

// RouteConfig is one entry of the stanza "routes". The first entry that matches a
// request applies. Without routes, every path needs a valid token; with routes, a
// request that matches none of them is denied.
type RouteConfig struct {
	Name                string            `yaml:"name" doc:"Unique name in metrics, logs and decisions, of letters, digits, - and _. Empty: route-N, where N counts from 1."`
	Match               MatchConfig       `yaml:"match" doc:"Which requests the route applies to. Empty: all."`
	Public              bool              `yaml:"public" doc:"true: no token is needed, tokens are ignored, and identity headers are removed. false: a valid token is needed."`
	Issuers             []string          `yaml:"issuers" doc:"Issuers whose tokens are accepted. Empty: every configured issuer."`
	Audiences           []string          `yaml:"audiences" doc:"Audiences of which the token's aud must contain at least one. Empty: the audiences configured for its issuer."`
	Scopes              []string          `yaml:"scopes" doc:"Scopes that the token must have, all of them. Empty: none."`
	AnyScopes           []string          `yaml:"any_scopes" doc:"Scopes of which the token must have at least one. Empty: none."`
	Allow               []string          `yaml:"allow" doc:"CEL expressions over token, request and source that must all be true. Empty: none."`
	OnRevocationUnknown string            `yaml:"on_revocation_unknown" enum:"deny,allow" doc:"What to do if nothing can prove that the token is not revoked. Empty: revocation.on_revocation_unknown."`
	Require             string            `yaml:"require" enum:"any,dpop,mtls" doc:"Accept only sender-constrained tokens: dpop, mtls, or any for both. Empty: unbound tokens are accepted, too; a bound token always needs its proof."`
	Credentials         CredentialsConfig `yaml:"credentials" doc:"Where the token may be besides the Authorization header. Empty: nowhere."`
	EndStreams          bool              `yaml:"end_streams" doc:"true: an open stream (WebSocket, gRPC, server-sent events, a long download) ends when its token is revoked, expires, or can no longer be proven good. Only the dynamic module can do that (docs/in-process.md), with revocation.replica on. false: an open stream outlives its token."`
	Introspection       string            `yaml:"introspection" doc:"Name of the introspection stanza that verifies opaque tokens. Empty: only JWTs are accepted."`
}

// MatchConfig says which requests a route applies to. Every condition that is set
// must hold; for a list, one entry must match.
type MatchConfig struct {
	Hosts             []string          `yaml:"hosts" doc:"Host names without port, or *.example.com for every host below it. Empty: any host."`
	Paths             []PathConfig      `yaml:"paths" doc:"Paths, each with one of exact, prefix, template. Empty: any path."`
	Methods           []string          `yaml:"methods" doc:"HTTP methods in upper case. Empty: any method."`
	ContextExtensions map[string]string `yaml:"context_extensions" doc:"Values that Envoy's route must send as context_extensions (check_settings). Empty: none."`
	Headers           map[string]string `yaml:"headers" doc:"Request headers, names in lower case, that must occur once with exactly this value. Not allowed with public, because clients choose them. Empty: none."`
}

// PathConfig is one way to match a path. Exactly one field is set.
type PathConfig struct {
	Exact    string `yaml:"exact" doc:"The whole path, without wildcards: a character that other systems give a meaning, such as *, is percent-encoded (%2A). A trailing slash matters only on public routes."`
	Prefix   string `yaml:"prefix" doc:"The path itself and everything below it: /v1 matches /v1 and /v1/x, but not /v10."`
	Template string `yaml:"template" doc:"A path in which {name} matches one segment, such as /users/{id}; as the last segment, {name...} matches all that follow."`
}

// CredentialsConfig says where a route's token may be (RFC 6750, section 2).
type CredentialsConfig struct {
	Cookies []string `yaml:"cookies" doc:"Names of cookies that may contain the token. Empty: none."`
	Queries []string `yaml:"queries" doc:"Names of query parameters that may contain the token. Avoid them: URLs end up in logs. Empty: none."`
	Headers []string `yaml:"headers" doc:"Names of request headers that may contain the token alone, without a scheme, such as x-goog-iap-jwt-assertion. Empty: none."`

	RemoveHeaders bool `yaml:"remove_headers" doc:"Whether a header of headers is removed before the request goes upstream. It is removed as well if headers.forward_authorization is off."`
}

// ValidateRoutes reports every invalid value in routes, and routes that can never
// match. Paths are relative to the list: "[2].match.hosts[0]". isInvalid reports
// whether the loader has found an error at or below such a path, so that the route
// may not match the intended requests.
func ValidateRoutes(routes []RouteConfig, o Options, report authz.Report, isInvalid func(path string) bool) {
	compileRoutes(routes, o, report, isInvalid)
}

// compileRoutes compiles configs and reports every invalid value. isInvalid is that
// of ValidateRoutes; nil: the loader has found no error.
func compileRoutes(configs []RouteConfig, o Options, report authz.Report, isInvalid func(path string) bool) []*Route {
	routes := make([]*Route, 0, len(configs))
	names := map[string]int{}
	valid := make([]bool, len(configs)) // whether match is valid
	for i := range configs {
		valid[i] = isInvalid == nil || !isInvalid(authz.ItemPath("", i))
		at := func(path, format string, args ...any) {
			valid[i] = valid[i] && !strings.HasPrefix(path, "match")
			report(authz.ItemPath("", i)+"."+path, format, args...)
		}
		r := configs[i].compile(i, o, at)
		if first, dup := names[r.Name]; dup {
			at("name", "duplicate name %q (first used at routes[%d])", r.Name, first)
		}
		names[r.Name] = i
		for j, earlier := range routes {
			if valid[i] && valid[j] && earlier.when.covers(&r.when) {
				at("match", "route %q can never match, because route %q (routes[%d]) matches all of its requests; put the narrower route first", r.Name, earlier.Name, j)
				break
			}
		}
		routes = append(routes, r)
	}
	return routes
}

// knowsIssuer reports whether a route may name the issuer.
func (o Options) knowsIssuer(iss string) bool {
	if _, template := o.Templates[iss]; template || o.Issuers == nil && o.Templates == nil || slices.Contains(o.Issuers, iss) {
		return true
	}
	for template, tenants := range o.Templates {
		if tenants == nil && authz.Tenant(template, iss) != "" {
			return true
		}
	}
	return false
}

func (c *RouteConfig) compile(i int, o Options, report authz.Report) *Route {
	r := &Route{
		RouteRule: authz.RouteRule{Name: c.Name, Public: c.Public, RequiredScopes: slices.Clone(c.Scopes), AllowRevocationUnknown: o.AllowRevocationUnknown, EndStreams: c.EndStreams},
		Audiences: slices.Clone(c.Audiences), AnyScopes: slices.Clone(c.AnyScopes), credentials: c.Credentials, binding: o.Binding,
	}
	if r.Name == "" {
		r.Name = fmt.Sprintf("route-%d", i+1)
	} else if !authz.IsLabel(r.Name) {
		report("name", "%q: must be 1 to 64 letters, digits, - or _", r.Name)
	}
	r.when = c.Match.compile(c.Public, report)
	if c.Public {
		c.checkPublic(report)
	}
	for j, iss := range c.Issuers {
		if tenants := o.Templates[iss]; len(tenants) > 0 {
			r.Issuers = append(r.Issuers, tenants...)
			continue
		}
		r.Issuers = append(r.Issuers, iss)
		if !o.knowsIssuer(iss) {
			report(authz.ItemPath("issuers", j), "unknown issuer %s; it must be configured in issuers or introspection", authz.QuoteURL(iss))
		}
	}
	checkTexts("audiences", c.Audiences, report, func(s string) bool { return s != "" && authz.ValidText(s) })
	checkTexts("scopes", c.Scopes, report, isScope)
	checkTexts("any_scopes", c.AnyScopes, report, isScope)
	switch c.OnRevocationUnknown {
	case "":
	case "allow", "deny":
		r.AllowRevocationUnknown = c.OnRevocationUnknown == "allow"
	default:
		report("on_revocation_unknown", "must be deny or allow, not %q", c.OnRevocationUnknown)
	}
	c.Credentials.validate(report)
	r.credentials.Headers = c.Credentials.lowerHeaders()
	r.require = c.Require
	if !slices.Contains([]string{"", requireAny, requireDPoP, requireMTLS}, c.Require) {
		report("require", "must be any, dpop or mtls, not %q", c.Require)
	} else if c.Require != "" && o.Binding == nil {
		report("require", "sender-constrained tokens are not configured (stanza binding)")
	}
	r.allow = compileExpressions(r.Name, c.Allow, report)
	if c.Introspection != "" {
		if r.Introspector = o.Introspectors[c.Introspection]; r.Introspector == nil {
			report("introspection", "unknown introspection %q; it must be the name of an entry in introspection", c.Introspection)
		}
	}
	return r
}

// checkPublic reports rules that a public route would silently ignore.
func (c *RouteConfig) checkPublic(report authz.Report) {
	for _, rule := range []struct {
		path string
		set  bool
	}{
		{"issuers", len(c.Issuers) > 0}, {"audiences", len(c.Audiences) > 0}, {"scopes", len(c.Scopes) > 0},
		{"any_scopes", len(c.AnyScopes) > 0}, {"allow", len(c.Allow) > 0}, {"on_revocation_unknown", c.OnRevocationUnknown != ""},
		{"require", c.Require != ""}, {"introspection", c.Introspection != ""}, {"end_streams", c.EndStreams},
		{"credentials", !c.Credentials.empty()},
	} {
		if rule.set {
			report(rule.path, "a public route ignores tokens: remove this key or public")
		}
	}
	if len(c.Match.Headers) > 0 {
		report("match.headers", "clients choose their headers, so a public route must not depend on them; use match.context_extensions")
	}
}

func (m *MatchConfig) compile(public bool, report authz.Report) conditions {
	var c conditions
	for i, h := range m.Hosts {
		p, err := parseHost(h)
		if err != nil {
			report(authz.ItemPath("match.hosts", i), "%q: %v", h, err)
			continue
		}
		c.hosts = append(c.hosts, p)
	}
	for i, pc := range m.Paths {
		p, field, err := pc.compile(public)
		if err != nil {
			report(authz.ItemPath("match.paths", i)+field, "%v", err)
			continue
		}
		c.paths = append(c.paths, p)
	}
	for i, method := range m.Methods {
		switch {
		case method == "*" || method == "ANY" || method == "ALL":
			report(authz.ItemPath("match.methods", i), "%q: to match every method, leave methods out", method)
		case strings.ContainsAny(method, "|,/; "):
			report(authz.ItemPath("match.methods", i), "%q: each method is an entry of its own, as in [GET, POST]", method)
		case !clearMethod(method):
			report(authz.ItemPath("match.methods", i), "%q: methods must be in upper case, such as GET", method)
		}
		c.methods = append(c.methods, method)
	}
	c.extensions = authz.HeadersFrom(m.ContextExtensions)
	c.headers = authz.HeadersFrom(m.Headers)
	for _, h := range c.headers {
		if h.Name == "host" {
			report("match.headers.host", "Envoy passes the host in another field: use match.hosts")
		}
		if !httpguts.ValidHeaderFieldName(h.Name) || h.Name != strings.ToLower(h.Name) {
			report("match.headers."+h.Name, "%q: must be a header name in lower case", h.Name)
		}
	}
	return c
}

func (c PathConfig) compile(public bool) (p pathPattern, field string, err error) {
	switch c {
	case PathConfig{Exact: c.Exact}:
		field = ".exact"
		p, err = parsePath(c.Exact, false, public)
	case PathConfig{Prefix: c.Prefix}:
		field = ".prefix"
		p, err = parsePath(c.Prefix, true, public)
	case PathConfig{Template: c.Template}:
		field = ".template"
		p, err = parseTemplate(c.Template, public)
	}
	if field == "" || c == (PathConfig{}) {
		return p, "", errors.New("exactly one of exact, prefix and template required")
	}
	return p, field, err
}

func parseHost(s string) (hostPattern, error) {
	switch {
	case s == "*":
		return hostPattern{}, errors.New("to match every host, leave hosts out")
	case strings.Contains(s, "/"):
		return hostPattern{}, errors.New("must be a host name without scheme and path")
	case strings.HasPrefix(s, "."):
		return hostPattern{}, fmt.Errorf("every host below a name is written *%.100s", s)
	case strings.ContainsAny(s, `{}()<>^$|\~+?`):
		return hostPattern{}, errors.New("variables and regular expressions have no meaning here; write a host name, or *.example.com for every host below it")
	}
	name, suffix := strings.CutPrefix(s, "*")
	if suffix || strings.Contains(name, "*") {
		if !strings.HasPrefix(name, ".") || strings.Contains(name, "*") {
			return hostPattern{}, errors.New("* must stand for whole labels at the beginning, as in *.example.com")
		}
		name = name[1:]
	}
	host, ok := readHost(name)
	if !ok {
		return hostPattern{}, errors.New("not a host name without port (write international names as xn--…)")
	}
	if strings.Contains(strings.TrimPrefix(name, host), ":") {
		return hostPattern{}, errors.New("must not contain a port; routes match the host on any port")
	}
	if suffix {
		if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
			return hostPattern{}, errors.New("* must not be followed by an address")
		}
		host = "." + host
	}
	return hostPattern{name: host, suffix: suffix}, nil
}

func checkTexts(path string, list []string, report authz.Report, valid func(string) bool) {
	for i, s := range list {
		if !valid(s) {
			report(authz.ItemPath(path, i), "invalid value %q", s)
		} else if first := slices.Index(list, s); first < i {
			report(authz.ItemPath(path, i), "duplicate value %q (first at %s)", s, authz.ItemPath(path, first))
		}
	}
}

// isScope reports whether its argument is a scope-token (RFC 6749, section 3.3).
var isScope = regexp.MustCompile(`^[!#-\[\]-~]+$`).MatchString
