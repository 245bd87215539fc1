package policy

import (
	"fmt"
	"net/url"
	"strings"

	"jwtbouncer/authz"
)

// credentialSources are the places besides the Authorization header.
type credentialSources struct {
	cookies, queries []string
}

func (c CredentialsConfig) compile(report authz.Report) credentialSources {
	checkTexts("credentials.cookies", c.Cookies, report, isToken)
	checkTexts("credentials.queries", c.Queries, report, func(s string) bool { return s != "" && url.QueryEscape(s) == s })
	return credentialSources{cookies: c.Cookies, queries: c.Queries}
}

// Find takes the credential out of the request (RFC 6750, section 2). A
// request with more than one is malformed: which of them a server behind
// would use cannot be known.
func (r *Route) Find(req *authz.Request) (authz.Credential, *authz.Failure) {
	cred, fail := r.find(req)
	if fail != nil && r.require == needDPoP && r.binding != nil {
		fail.Challenge = r.binding.challenge
	}
	return cred, fail
}

func (r *Route) find(req *authz.Request) (authz.Credential, *authz.Failure) {
	cred, fail := credentialFromHeader(req)
	if len(r.sources.cookies) == 0 && len(r.sources.queries) == 0 {
		return cred, fail
	}
	if fail != nil && fail.Reason != authz.ReasonNoCredential {
		return authz.Credential{}, fail
	}
	found := &finding{none: fail}
	if fail == nil {
		found.add(cred)
	}
	for _, name := range r.sources.cookies {
		findCookie(req, name, found)
	}
	for _, name := range r.sources.queries {
		findQuery(req.Path, name, found)
	}
	return found.result()
}

// finding collects credentials from several places.
type finding struct {
	cred  authz.Credential
	count int
	bad   string
	none  *authz.Failure
}

func (f *finding) add(c authz.Credential) {
	if c.Raw == "" {
		return // an emptied cookie is no credential
	}
	f.cred = c
	f.count++
}

func (f *finding) result() (authz.Credential, *authz.Failure) {
	switch {
	case f.bad != "":
		return authz.Credential{}, &authz.Failure{Reason: authz.ReasonMalformedRequest, Detail: f.bad}
	case f.count > 1:
		return authz.Credential{}, &authz.Failure{Reason: authz.ReasonMalformedRequest, Detail: "more than one credential"}
	case f.count == 0:
		return authz.Credential{}, f.none
	}
	return f.cred, nil
}

// credentialFromHeader reads "Authorization: Bearer …" (RFC 6750, section 2.1)
// or "Authorization: DPoP …" (RFC 9449, section 7.1). Another scheme is no
// credential: it is for somebody else.
func credentialFromHeader(req *authz.Request) (authz.Credential, *authz.Failure) {
	v, n := req.Header("authorization")
	switch {
	case n == 0:
		return authz.Credential{}, &authz.Failure{Reason: authz.ReasonNoCredential, Detail: "no Authorization header"}
	case n > 1:
		return authz.Credential{}, &authz.Failure{Reason: authz.ReasonMalformedRequest, Detail: "more than one Authorization header"}
	}
	return parseAuthorization(v)
}

func parseAuthorization(v string) (authz.Credential, *authz.Failure) {
	malformed := func(detail string) (authz.Credential, *authz.Failure) {
		return authz.Credential{}, &authz.Failure{Reason: authz.ReasonMalformedRequest, Detail: detail}
	}
	v = strings.Trim(v, " \t")
	if v == "" {
		return malformed("Authorization is empty")
	}
	end := strings.IndexAny(v, " \t,=")
	scheme := v
	if end >= 0 {
		scheme = v[:end]
	}
	if !isToken(scheme) {
		return malformed("Authorization has no scheme")
	}
	switch {
	case strings.EqualFold(scheme, "bearer"):
		scheme = "bearer"
	case strings.EqualFold(scheme, "dpop"):
		scheme = "dpop"
	default:
		if holdsOurScheme(v) {
			return malformed("Authorization holds a list")
		}
		return authz.Credential{}, &authz.Failure{Reason: authz.ReasonNoCredential, Detail: "Authorization scheme is neither Bearer nor DPoP"}
	}
	if end < 0 {
		return malformed("Authorization has a scheme without a token")
	}
	if v[end] != ' ' {
		return malformed("Authorization: one space separates scheme and token")
	}
	raw := strings.TrimLeft(v[end:], " ")
	switch {
	case strings.ContainsAny(raw, ","):
		return malformed("Authorization holds more than one token")
	case !authz.IsToken68(raw):
		return malformed("Authorization holds characters that no token has")
	}
	return authz.Credential{Raw: raw, Scheme: scheme, Source: "authorization"}, nil
}

// holdsOurScheme reports whether a list of credentials hides one of ours
// behind another scheme ("Basic abc, Bearer …").
func holdsOurScheme(v string) bool {
	for part := range strings.SplitSeq(v, ",") {
		word, _, _ := strings.Cut(strings.TrimLeft(part, " \t"), " ")
		if strings.EqualFold(word, "bearer") || strings.EqualFold(word, "dpop") {
			return true
		}
	}
	return false
}

// findCookie looks for the cookie (RFC 6265, section 5.4). HTTP/2 may split
// cookies over several headers (RFC 9113, section 8.2.3).
func findCookie(req *authz.Request, name string, found *finding) {
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
				found.add(authz.Credential{Raw: v, Scheme: "bearer", Source: "cookie:" + name})
			}
		}
	}
}

// findQuery looks for the parameter (RFC 6750, section 2.3), decoding names as
// a server behind would. Some servers take a semicolon for "&" and Envoy does
// not: next to one, the parameter could not be told from what is beside it, nor
// be removed.
func findQuery(path, name string, found *finding) {
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
				found.bad = fmt.Sprintf("query parameter %s is not encoded properly", name)
			case len(part) < len(pair):
				found.bad = fmt.Sprintf("query parameter %s stands next to a semicolon", name)
			default:
				found.add(authz.Credential{Raw: value, Scheme: "bearer", Source: "query:" + name})
			}
		}
	}
}
