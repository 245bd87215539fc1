package envoy

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"jwtbouncer/authz"
	"jwtbouncer/envoy/wire"
)

// identity is what the upstream is told about the caller: the headers that
// only this service may set.
type identity struct {
	headers  []identityHeader // sorted by name
	forward  bool             // Authorization passes
	metadata []string         // claims for dynamic metadata
	allMeta  bool
	maxBytes int
}

type identityHeader struct {
	name   string // lower case
	folded string // with "_" read as "-"
	value  claimTemplate
}

type stanzaFault struct{ path, message string }

// newIdentity compiles the stanza, or says everything that is wrong with it.
func newIdentity(c HeadersConfig) (*identity, []stanzaFault) {
	var (
		faults []stanzaFault
		id     = &identity{forward: c.ForwardAuthorization, maxBytes: c.MaxBytes}
		seen   = map[string]string{}
	)
	for _, name := range slices.Sorted(maps.Keys(c.Claims)) {
		path := "claims." + name
		if why := headerNameFault(name); why != "" {
			faults = append(faults, stanzaFault{path, fmt.Sprintf("%q %s", name, why)})
			continue
		}
		lower := strings.ToLower(name)
		folded := fold(lower)
		if other, ok := seen[folded]; ok {
			faults = append(faults, stanzaFault{path, fmt.Sprintf("%q and %q are one header to upstreams that read \"_\" as \"-\" or ignore case", other, name)})
			continue
		}
		seen[folded] = name
		value, err := parseClaimTemplate(c.Claims[name])
		if err != nil {
			faults = append(faults, stanzaFault{path, err.Error()})
			continue
		}
		id.headers = append(id.headers, identityHeader{name: lower, folded: folded, value: value})
	}
	for _, claim := range c.Metadata {
		if claim == "*" {
			id.allMeta = true
		}
		id.metadata = append(id.metadata, claim)
	}
	slices.Sort(id.metadata)
	id.metadata = slices.Compact(id.metadata)
	return id, faults
}

// fold maps names that some upstreams cannot tell apart to one: CGI and its
// heirs turn both "x-jwt-sub" and "x_jwt_sub" into HTTP_X_JWT_SUB.
func fold(name string) string { return strings.ReplaceAll(name, "_", "-") }

// lookalikes appends the request's headers that an upstream could take for an
// identity header although Envoy does not: they differ in "_" and "-". The
// spelling without any "_" is not among them.
func (id *identity) lookalikes(names []string, req *authz.Request) []string {
	for i := range req.Headers {
		name := req.Headers[i].Name
		if strings.IndexByte(name, '_') < 0 {
			continue
		}
		folded := fold(name)
		for j := range id.headers {
			if h := &id.headers[j]; h.folded == folded && h.name != name && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// allowed builds the CheckResponse of an allow. token is nil on public routes.
// An error means that a claim cannot be passed on faithfully.
func (id *identity) allowed(token *authz.Token, cred authz.Credential, req *authz.Request) ([]byte, error) {
	var (
		ok     = make(wire.OKResponse, 0, 512)
		value  []byte
		remove = make([]string, 0, len(id.headers)+2)
		meta   wire.Metadata
	)
	for i := range id.headers {
		h := &id.headers[i]
		set := false
		if token != nil {
			var err error
			if value, set, err = h.value.expand(value[:0], token.Claims); err != nil {
				return nil, err
			}
			if len(value) > id.maxBytes {
				return nil, &errUnfit{"a claim is longer than headers.max_bytes"}
			}
		}
		if set {
			ok = ok.SetHeader(h.name, string(value))
		} else {
			remove = append(remove, h.name)
		}
		if h.folded != h.name { // whether the client sent it or not: lookalikes looks at names with "_" only
			remove = append(remove, h.folded)
		}
	}
	if !id.forward {
		remove = append(remove, "authorization")
	}
	remove = id.lookalikes(remove, req)
	if name, found := strings.CutPrefix(cred.Source, "cookie:"); found {
		if rest := withoutCookie(req, name); rest != "" {
			ok = ok.SetHeader("cookie", rest)
		} else {
			remove = append(remove, "cookie")
		}
	}
	for _, name := range remove {
		ok = ok.RemoveHeader(name)
	}
	if name, found := strings.CutPrefix(cred.Source, "query:"); found {
		for _, name := range querySpellings(req.Path, name) {
			ok = ok.RemoveQueryParameter(name)
		}
	}
	if token != nil && len(id.metadata) > 0 {
		meta = id.dynamicMetadata(token.Claims)
	}
	return ok.Encode(meta), nil
}

// personal reports whether the allow answer depends on more than token, route
// and where the credential was found, so that it cannot be used again.
func (id *identity) personal(cred authz.Credential, req *authz.Request) bool {
	if cred.Source != "authorization" {
		return true
	}
	for i := range req.Headers {
		if strings.IndexByte(req.Headers[i].Name, '_') >= 0 {
			return true
		}
	}
	return false
}

// withoutCookie returns the request's cookies but for those called name, in
// one header (RFC 6265, section 4.2.1).
func withoutCookie(req *authz.Request, name string) string {
	var b strings.Builder
	for i := range req.Headers {
		if req.Headers[i].Name != "cookie" {
			continue
		}
		for pair := range strings.SplitSeq(req.Headers[i].Value, ";") {
			pair = strings.Trim(pair, " \t")
			key, _, _ := strings.Cut(pair, "=")
			if pair == "" || strings.Trim(key, " \t") == name || !headerText(pair) {
				continue
			}
			if b.Len() > 0 {
				b.WriteString("; ")
			}
			b.WriteString(strings.ToValidUTF8(pair, "\uFFFD"))
		}
	}
	return b.String()
}

// querySpellings returns how the parameter is spelled in the path, escapes
// included: Envoy compares without decoding.
func querySpellings(path, name string) []string {
	spellings := []string{name}
	_, query, _ := strings.Cut(path, "?")
	query, _, _ = strings.Cut(query, "#")
	for pair := range strings.SplitSeq(query, "&") {
		key, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(key); err == nil && plain == name && !slices.Contains(spellings, key) {
			spellings = append(spellings, key)
		}
	}
	return spellings
}

// dynamicMetadata returns the configured claims for later filters.
func (id *identity) dynamicMetadata(claims map[string]any) wire.Metadata {
	var m wire.Metadata
	if id.allMeta {
		return m.SetAll(claims)
	}
	for _, name := range id.metadata {
		if v, ok := claims[name]; ok {
			m = m.Set(name, v)
		}
	}
	return m
}
