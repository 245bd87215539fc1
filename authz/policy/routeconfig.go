package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"jwtbouncer/authz"
)

// RouteConfig is one entry of the `routes` stanza. The first entry that
// matches a request decides about it. Without any route, every path needs a
// valid token; with routes, a request that none of them matches is denied.
type RouteConfig struct {
	Name                string            `yaml:"name" doc:"Name in metrics, logs and decisions: letters, digits, - and _; unique. Empty: route-N, N counted from 1."`
	Match               MatchConfig       `yaml:"match" doc:"Which requests the route is for. Empty: all."`
	Public              bool              `yaml:"public" doc:"true: no token is needed, none is looked at, and identity headers are removed. false: a valid token is needed."`
	Issuers             []string          `yaml:"issuers" doc:"Issuers whose tokens are taken. Empty: every configured issuer."`
	Audiences           []string          `yaml:"audiences" doc:"One of these must be in the token's aud. Empty: the audiences configured for its issuer."`
	Scopes              []string          `yaml:"scopes" doc:"Scopes the token must have, all of them. Empty: none."`
	AnyScopes           []string          `yaml:"any_scopes" doc:"Scopes of which the token must have at least one. Empty: none."`
	Allow               []string          `yaml:"allow" doc:"CEL expressions over token, request and source that must all be true. Empty: none."`
	OnRevocationUnknown string            `yaml:"on_revocation_unknown" enum:"deny,allow" doc:"What to do when nothing can prove that the token is not revoked. Empty: revocation.on_revocation_unknown."`
	Require             string            `yaml:"require" enum:"any,dpop,mtls" doc:"Take only tokens bound to their sender: dpop, mtls, or any of the two. Empty: unbound tokens too; a bound token always needs its proof."`
	Credentials         CredentialsConfig `yaml:"credentials" doc:"Where the token may be. Empty: the Authorization header only."`
	Introspection       string            `yaml:"introspection" doc:"Name of the introspection stanza that is asked about tokens that are no JWTs. Empty: only JWTs are taken."`
}

// MatchConfig says which requests a route is for: every condition given must
// hold, and of a list one entry.
type MatchConfig struct {
	Hosts             []string          `yaml:"hosts" doc:"Host names without port, or *.example.com for every host below it. Empty: any host."`
	Paths             []PathConfig      `yaml:"paths" doc:"Paths, each with one of exact, prefix, template. Empty: any path."`
	Methods           []string          `yaml:"methods" doc:"HTTP methods in capitals. Empty: any method."`
	ContextExtensions map[string]string `yaml:"context_extensions" doc:"Values that Envoy's route must send as context_extensions (check_settings). Empty: none."`
	Headers           map[string]string `yaml:"headers" doc:"Request headers, names in lower case, that must be present once with exactly this value. Clients choose them, so not with public. Empty: none."`
}

// PathConfig is one way to match a path. Exactly one field is set.
type PathConfig struct {
	Exact    string `yaml:"exact" doc:"The whole path. On routes that are not public a slash at the end makes no difference."`
	Prefix   string `yaml:"prefix" doc:"The path itself and everything below it: /v1 takes /v1 and /v1/x, not /v10."`
	Template string `yaml:"template" doc:"A path in which {name} stands for one segment and, last, {name...} for all that follow: /users/{id}."`
}

// CredentialsConfig says where a route's token may be (RFC 6750, section 2).
type CredentialsConfig struct {
	Cookies []string `yaml:"cookies" doc:"Names of cookies that may hold the token besides the Authorization header. Empty: none."`
	Queries []string `yaml:"queries" doc:"Names of query parameters that may hold the token; URLs end up in logs, so avoid it. Empty: none."`
}

// ValidateRoutes reports every invalid value in routes, among them routes that can
// never match. Paths are relative to the list: "[2].match.hosts[0]". isInvalid
// reports whether the loader has found an error at or below such a path, so that
// the route does not match the intended requests.
func ValidateRoutes(routes []RouteConfig, o Options, report authz.Report, isInvalid func(path string) bool) {
	compileRoutes(routes, o, report, isInvalid)
}

// allValid is for routes in which the loader has found no error.
func allValid(string) bool { return false }

func compileRoutes(configs []RouteConfig, o Options, report authz.Report, isInvalid func(path string) bool) []*Route {
	routes := make([]*Route, 0, len(configs))
	names := map[string]int{}
	understood := make([]bool, len(configs))
	for i := range configs {
		understood[i] = !isInvalid(fmt.Sprintf("[%d]", i))
		at := func(path, format string, args ...any) {
			understood[i] = understood[i] && !strings.HasPrefix(path, "match")
			report(fmt.Sprintf("[%d].%s", i, path), format, args...)
		}
		r := configs[i].compile(i, o, at)
		if first, dup := names[r.Name]; dup {
			at("name", "%q is the name of route %d already", r.Name, first+1)
		}
		names[r.Name] = i
		for j, earlier := range routes {
			if understood[i] && understood[j] && earlier.when.covers(&r.when) {
				report(fmt.Sprintf("[%d].match", i), "route %q can never match: route %q (%d of %d) takes all of its requests; put the narrower one first",
					r.Name, earlier.Name, j+1, len(configs))
				break
			}
		}
		routes = append(routes, r)
	}
	return routes
}

func (c *RouteConfig) compile(i int, o Options, report authz.Report) *Route {
	r := &Route{
		RouteRule: authz.RouteRule{Name: c.Name, Public: c.Public, RequiredScopes: slices.Clone(c.Scopes), AllowRevocationUnknown: o.AllowRevocationUnknown},
		Issuers:   slices.Clone(c.Issuers), Audiences: slices.Clone(c.Audiences), AnyScopes: slices.Clone(c.AnyScopes), binding: o.Binding,
	}
	if r.Name == "" {
		r.Name = fmt.Sprintf("route-%d", i+1)
	} else if !authz.IsLabel(r.Name) {
		report("name", "%q: use letters, digits, - and _, at most 64", r.Name)
	}
	r.when = c.Match.compile(c.Public, report)
	if c.Public {
		c.checkPublic(report)
	}
	for j, iss := range c.Issuers {
		if o.Issuers != nil && !slices.Contains(o.Issuers, iss) {
			report(fmt.Sprintf("issuers[%d]", j), "%q is not a configured issuer", iss)
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
		report("on_revocation_unknown", "%q: deny or allow", c.OnRevocationUnknown)
	}
	r.sources = c.Credentials.compile(report)
	r.require = c.compileRequire(o, report)
	r.allow = compileExpressions(r.Name, c.Allow, report)
	if c.Introspection != "" {
		if r.Introspector = o.Introspectors[c.Introspection]; r.Introspector == nil {
			report("introspection", "%q is not a configured introspection", c.Introspection)
		}
	}
	return r
}

// checkPublic reports rules that a public route would silently not apply.
func (c *RouteConfig) checkPublic(report authz.Report) {
	for _, rule := range []struct {
		path string
		set  bool
	}{
		{"issuers", len(c.Issuers) > 0}, {"audiences", len(c.Audiences) > 0}, {"scopes", len(c.Scopes) > 0},
		{"any_scopes", len(c.AnyScopes) > 0}, {"allow", len(c.Allow) > 0}, {"on_revocation_unknown", c.OnRevocationUnknown != ""},
		{"require", c.Require != ""}, {"introspection", c.Introspection != ""},
		{"credentials", len(c.Credentials.Cookies)+len(c.Credentials.Queries) > 0},
	} {
		if rule.set {
			report(rule.path, "a public route looks at no token: remove this or public")
		}
	}
	if len(c.Match.Headers) > 0 {
		report("match.headers", "clients choose their headers, so a public route cannot depend on them; use match.context_extensions")
	}
}

func (c *RouteConfig) compileRequire(o Options, report authz.Report) bindingNeed {
	need, ok := bindingNeeds[c.Require]
	if !ok {
		report("require", "%q: any, dpop or mtls", c.Require)
	} else if c.Require != "" && o.Binding == nil {
		report("require", "sender-constrained tokens are not configured (stanza binding)")
	}
	return need
}

func (m *MatchConfig) compile(public bool, report authz.Report) conditions {
	var c conditions
	for i, h := range m.Hosts {
		p, err := parseHost(h)
		if err != nil {
			report(fmt.Sprintf("match.hosts[%d]", i), "%q: %v", h, err)
			continue
		}
		c.hosts = append(c.hosts, p)
	}
	for i, pc := range m.Paths {
		p, field, err := pc.compile(public)
		if err != nil {
			report(fmt.Sprintf("match.paths[%d]%s", i, field), "%v", err)
			continue
		}
		c.paths = append(c.paths, p)
	}
	for i, method := range m.Methods {
		if !clearMethod(method) {
			report(fmt.Sprintf("match.methods[%d]", i), "%q: methods are written in capitals, such as GET", method)
		}
		c.methods = append(c.methods, method)
	}
	c.extensions = authz.HeadersFrom(m.ContextExtensions)
	c.headers = authz.HeadersFrom(m.Headers)
	for _, h := range c.headers {
		if !isToken(h.Name) || h.Name != strings.ToLower(h.Name) {
			report("match.headers."+h.Name, "%q is not a header name in lower case", h.Name)
		}
	}
	return c
}

func (c PathConfig) compile(public bool) (p pathPattern, field string, err error) {
	set := 0
	for _, s := range []string{c.Exact, c.Prefix, c.Template} {
		if s != "" {
			set++
		}
	}
	if set != 1 {
		return p, "", fmt.Errorf("exactly one of exact, prefix and template is needed")
	}
	switch {
	case c.Exact != "":
		field = ".exact"
		p, err = parsePath(c.Exact, false, public)
	case c.Prefix != "":
		field = ".prefix"
		p, err = parsePath(c.Prefix, true, public)
	default:
		field = ".template"
		p, err = parseTemplate(c.Template, public)
	}
	return p, field, err
}

func parseHost(s string) (hostPattern, error) {
	name, suffix := strings.CutPrefix(s, "*")
	if suffix {
		if !strings.HasPrefix(name, ".") {
			return hostPattern{}, fmt.Errorf("a star stands for whole labels: *.example.com")
		}
		name = name[1:]
	}
	host, ok := readHost(name)
	if !ok {
		return hostPattern{}, fmt.Errorf("not a host name (international names are written as xn--…)")
	}
	if strings.Contains(strings.TrimPrefix(name, host), ":") {
		return hostPattern{}, fmt.Errorf("leave the port out: routes match the host whatever the port")
	}
	if suffix {
		if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
			return hostPattern{}, fmt.Errorf("an address has no names below it")
		}
		host = "." + host
	}
	return hostPattern{name: host, suffix: suffix}, nil
}

func checkTexts(path string, list []string, report authz.Report, ok func(string) bool) {
	for i, s := range list {
		if !ok(s) {
			report(fmt.Sprintf("%s[%d]", path, i), "%q is not allowed here", s)
		} else if slices.Index(list, s) < i {
			report(fmt.Sprintf("%s[%d]", path, i), "%q occurs twice", s)
		}
	}
}

// isScope is RFC 6749's scope-token (section 3.3).
func isScope(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == '"' || c == '\\' || c > '~' {
			return false
		}
	}
	return s != ""
}

// isToken is RFC 9110's token (section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}
