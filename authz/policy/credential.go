package policy

import (
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"

	"jwtbouncer/authz"
)

func (c CredentialsConfig) validate(report authz.Report) {
	checkTexts("credentials.cookies", c.Cookies, report, httpguts.ValidHeaderFieldName)
	checkTexts("credentials.queries", c.Queries, report, func(s string) bool { return s != "" && url.QueryEscape(s) == s })
	checkTexts("credentials.headers", c.lowerHeaders(), report, httpguts.ValidHeaderFieldName)
	for i, name := range c.lowerHeaders() {
		if why := unsuitableHeaders[strings.ReplaceAll(name, "_", "-")]; why != "" {
			report(authz.ItemPath("credentials.headers", i), "%q %s", name, why)
		}
	}
	if c.RemoveHeaders && len(c.Headers) == 0 {
		report("credentials.remove_headers", "has no effect without headers")
	}
}

// unsuitableHeaders cannot carry a token of a route, each with the reason.
var unsuitableHeaders = func() map[string]string {
	m := map[string]string{
		"authorization": "is always read", "cookie": "is read with cookies", "set-cookie": "belongs to responses",
		"dpop": "carries the proof, not the token", "x-forwarded-client-cert": "carries a certificate",
	}
	for _, name := range []string{
		"host", "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect", "content-length", "content-type", "content-encoding",
		"accept", "accept-encoding", "accept-language", "user-agent", "origin", "referer", "x-request-id", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "traceparent", "tracestate",
	} {
		m[name] = "has another meaning in HTTP or for Envoy"
	}
	return m
}()

// lowerHeaders returns the names of headers as Envoy passes them.
func (c CredentialsConfig) lowerHeaders() []string {
	names := make([]string, len(c.Headers))
	for i, name := range c.Headers {
		names[i] = strings.ToLower(name)
	}
	return names
}

func (c CredentialsConfig) empty() bool { return len(c.Cookies)+len(c.Queries)+len(c.Headers) == 0 }

// Find returns the credential of the request (RFC 6750, section 2). A request
// with several credentials is malformed, because it is unknown which of them the
// upstream would use.
func (r *Route) Find(req *authz.Request) (authz.Credential, *authz.Failure) {
	cred, fail := r.find(req)
	if fail != nil && r.require == requireDPoP && r.binding != nil {
		fail.Challenge = r.binding.challenge
	}
	return cred, fail
}

func (r *Route) find(req *authz.Request) (authz.Credential, *authz.Failure) {
	cred, fail := credentialFromHeader(req)
	if r.credentials.empty() || fail != nil && fail.Reason != authz.ReasonNoCredential {
		return cred, fail
	}
	var found credentials
	found.add(cred)
	for _, name := range r.credentials.Cookies {
		found.addCookie(req, name)
	}
	for _, name := range r.credentials.Queries {
		found.addQuery(req.Path, name)
	}
	for _, name := range r.credentials.Headers {
		found.addHeader(req, name, r.credentials.RemoveHeaders)
	}
	switch {
	case found.malformed != "":
		return malformed(found.malformed)
	case found.count > 1:
		return malformed("more than one credential")
	case found.count == 0:
		return authz.Credential{}, fail
	}
	return found.last, nil
}

func malformed(detail string) (authz.Credential, *authz.Failure) {
	return authz.Credential{}, &authz.Failure{Reason: authz.ReasonMalformedRequest, Detail: detail}
}

// credentials counts the credentials of a request.
type credentials struct {
	last      authz.Credential
	count     int
	malformed string // why a credential cannot be used; empty: all can
}

// add ignores an empty credential, such as a cookie that was cleared.
func (f *credentials) add(c authz.Credential) {
	if c.Raw != "" {
		f.last = c
		f.count++
	}
}

// credentialFromHeader reads "Authorization: Bearer …" (RFC 6750, section 2.1)
// or "Authorization: DPoP …" (RFC 9449, section 7.1). Another scheme is no
// credential of ours: it is meant for the upstream.
func credentialFromHeader(req *authz.Request) (authz.Credential, *authz.Failure) {
	v, n := req.Header("authorization")
	switch {
	case n == 0:
		return authz.Credential{}, &authz.Failure{Reason: authz.ReasonNoCredential, Detail: "no Authorization header"}
	case n > 1:
		return malformed("more than one Authorization header")
	}
	return parseAuthorization(v)
}

func parseAuthorization(v string) (authz.Credential, *authz.Failure) {
	v = strings.Trim(v, " \t")
	if v == "" {
		return malformed("Authorization is empty")
	}
	end := strings.IndexAny(v, " \t,=")
	scheme := v
	if end >= 0 {
		scheme = v[:end]
	}
	if !httpguts.ValidHeaderFieldName(scheme) {
		return malformed("Authorization has no scheme")
	}
	switch {
	case strings.EqualFold(scheme, "bearer"):
		scheme = "bearer"
	case strings.EqualFold(scheme, "dpop"):
		scheme = "dpop"
	default:
		if containsOurScheme(v) {
			return malformed("Authorization contains a list of credentials")
		}
		return authz.Credential{}, &authz.Failure{Reason: authz.ReasonNoCredential, Detail: "Authorization scheme is neither Bearer nor DPoP"}
	}
	if end < 0 {
		return malformed("Authorization has a scheme without a token")
	}
	if v[end] != ' ' {
		return malformed("Authorization must have a space between scheme and token")
	}
	raw := strings.TrimLeft(v[end:], " ")
	switch {
	case strings.Contains(raw, ","):
		return malformed("Authorization contains more than one token")
	case !authz.IsToken68(raw):
		return malformed("Authorization contains characters that are invalid in a token")
	}
	return authz.Credential{Raw: raw, Scheme: scheme, Source: "authorization"}, nil
}

// containsOurScheme reports whether v is a list in which a Bearer or DPoP
// credential follows one of another scheme ("Basic abc, Bearer …").
func containsOurScheme(v string) bool {
	for part := range strings.SplitSeq(v, ",") {
		word, _, _ := strings.Cut(strings.TrimLeft(part, " \t"), " ")
		if strings.EqualFold(word, "bearer") || strings.EqualFold(word, "dpop") {
			return true
		}
	}
	return false
}

// addCookie adds the cookies called name (RFC 6265, section 5.4). HTTP/2 may split
// cookies over several headers (RFC 9113, section 8.2.3).
func (f *credentials) addCookie(req *authz.Request, name string) {
	for i := range req.Headers {
		if req.Headers[i].Name != "cookie" {
			continue
		}
		for pair := range strings.SplitSeq(req.Headers[i].Value, ";") {
			k, v, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
			if strings.Trim(k, " \t") == name {
				v = strings.Trim(v, " \t")
				if n := len(v); n >= 2 && v[0] == '"' && v[n-1] == '"' {
					v = v[1 : n-1]
				}
				cookie := authz.Credential{Raw: v, Scheme: "bearer", Source: "cookie:" + name}
				if cookie != f.last { // browsers and proxies repeat cookies; two equal ones say one thing
					f.add(cookie)
				}
			}
		}
	}
}

// addHeader adds the values of the header called name, each of which is a token
// without a scheme. The name in another spelling counts as well: an upstream may read
// "_" as "-".
func (f *credentials) addHeader(req *authz.Request, name string, remove bool) {
	for i := range req.Headers {
		if h := &req.Headers[i]; h.Name == name || len(h.Name) == len(name) && strings.ReplaceAll(h.Name, "_", "-") == strings.ReplaceAll(name, "_", "-") {
			v := strings.Trim(h.Value, " \t")
			if v != "" && (!authz.IsToken68(v) || h.Name != name) {
				f.malformed = fmt.Sprintf("header %s does not contain exactly one token", name)
				continue
			}
			f.add(authz.Credential{Raw: v, Scheme: "bearer", Source: "header:" + name, Remove: remove})
		}
	}
}

// addQuery adds the query parameters called name (RFC 6750, section 2.3). It
// decodes names as an upstream would. Some servers read a semicolon as "&", but
// Envoy does not, so it could not remove a parameter next to one.
func (f *credentials) addQuery(path, name string) {
	path, _, _ = strings.Cut(path, "#")
	_, query, _ := strings.Cut(path, "?")
	for pair := range strings.SplitSeq(query, "&") {
		for part := range strings.SplitSeq(pair, ";") {
			k, v, _ := strings.Cut(part, "=")
			if key, err := url.QueryUnescape(k); err != nil || key != name {
				continue
			}
			value, err := url.QueryUnescape(v)
			switch {
			case err != nil:
				f.malformed = fmt.Sprintf("query parameter %s has an invalid percent escape", name)
			case len(part) < len(pair):
				f.malformed = fmt.Sprintf("query parameter %s is next to a semicolon", name)
			default:
				f.add(authz.Credential{Raw: value, Scheme: "bearer", Source: "query:" + name})
			}
		}
	}
}
