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

// upstreamHeaders determines what the upstream learns about the caller: the identity headers,
// which only this service may set, the credential, and the dynamic metadata. It is immutable.
type upstreamHeaders struct {
	identity             []identityHeader // sorted by name
	maxBytes             int              // longest value of an identity header
	forwardAuthorization bool
	metadata             []string // top-level claims for dynamic metadata, sorted
	allMetadata          bool     // all claims become dynamic metadata
	encode               encoder
}

// identityHeader is a request header that is set from claims.
type identityHeader struct {
	name   string // lower case
	folded string // name with "-" for "_"
	value  claimTemplate
}

// newUpstreamHeaders compiles the stanza "headers" and reports every invalid value in it.
func newUpstreamHeaders(c HeadersConfig, encode encoder, report authz.Report) *upstreamHeaders {
	h := &upstreamHeaders{encode: encode, forwardAuthorization: c.ForwardAuthorization, maxBytes: c.MaxBytes}
	names := map[string]string{} // by folded name
	for _, name := range slices.Sorted(maps.Keys(c.Claims)) {
		path := "claims." + name
		if why := invalidHeaderName(name); why != "" {
			report(path, "%q %s", name, why)
			continue
		}
		lower := strings.ToLower(name)
		folded := fold(lower)
		if other, ok := names[folded]; ok {
			report(path, "duplicate header %q: an upstream that ignores case or reads \"_\" as \"-\" cannot tell it from %q", name, other)
			continue
		}
		names[folded] = name
		value, err := parseClaimTemplate(c.Claims[name])
		if err != nil {
			report(path, "%v", err)
			continue
		}
		h.identity = append(h.identity, identityHeader{name: lower, folded: folded, value: value})
	}
	for i, name := range c.Metadata {
		if name == "" {
			report(fmt.Sprintf("metadata[%d]", i), "claim name required, or '*' for all claims")
		}
	}
	h.allMetadata = slices.Contains(c.Metadata, "*")
	h.metadata = slices.Compact(slices.Sorted(slices.Values(c.Metadata)))
	return h
}

// fold maps all names that an upstream may confuse to one: CGI and its successors turn both
// "x-jwt-sub" and "x_jwt_sub" into HTTP_X_JWT_SUB.
func fold(name string) string { return strings.ReplaceAll(name, "_", "-") }

// cachedResponse is an encoded allow response. It is attached to its token, so it leaves memory
// together with the token.
type cachedResponse struct {
	headers *upstreamHeaders // the configuration and the encoding that it was encoded with
	message []byte
}

// response returns the encoded answer that allows req. token is nil on a public route. The
// response may be shared between checks, so it must not be modified. An error means that HTTP
// cannot carry a claim unaltered.
func (h *upstreamHeaders) response(token *authz.Token, cred authz.Credential, req *authz.Request) ([]byte, error) {
	if token == nil || !cacheable(cred, req) {
		return h.build(token, cred, req)
	}
	if p := token.Encoded.Load(); p != nil {
		if r, ok := (*p).(*cachedResponse); ok && r.headers == h {
			return r.message, nil
		}
	}
	message, err := h.build(token, cred, req)
	if err != nil {
		return nil, err
	}
	var encoded any = &cachedResponse{headers: h, message: message}
	token.Encoded.Store(&encoded)
	return message, nil
}

// cacheable reports whether the response is the same for every request with the same token. It
// is not if the credential may have to be removed from another place than Authorization, or if the request may
// hold a lookalike.
func cacheable(cred authz.Credential, req *authz.Request) bool {
	if cred.Source != "authorization" {
		return false
	}
	for i := range req.Headers {
		if strings.IndexByte(req.Headers[i].Name, '_') >= 0 {
			return false
		}
	}
	return true
}

// build returns the encoded answer that allows req. See response for the parameters.
func (h *upstreamHeaders) build(token *authz.Token, cred authz.Credential, req *authz.Request) ([]byte, error) {
	a := newAnswer()
	defer a.free()
	a.allowed = true
	if err := h.setIdentity(a, token); err != nil {
		return nil, err
	}
	if !h.forwardAuthorization {
		a.remove = append(a.remove, "authorization")
	}
	a.remove = h.lookalikes(a.remove, req)
	h.removeCredential(a, cred, req)
	if token != nil {
		a.metadata = h.dynamicMetadata(token.Claims)
	}
	return h.encode(a), nil
}

// setIdentity sets the identity headers that the token has claims for and removes all others.
func (h *upstreamHeaders) setIdentity(a *answer, token *authz.Token) error {
	for i := range h.identity {
		header := &h.identity[i]
		start, set := len(a.values), false
		if token != nil {
			var err error
			if a.values, set, err = header.value.expand(a.values, token.Claims); err != nil {
				return err
			}
			if len(a.values)-start > h.maxBytes {
				return &unfitClaimError{"a claim is longer than headers.max_bytes"}
			}
		}
		if set {
			a.setHeader(header.name, "")
			a.ends = append(a.ends, len(a.values))
		} else {
			a.remove = append(a.remove, header.name)
		}
		// lookalikes only finds names with "_", so the name without any is removed from
		// every request.
		if header.folded != header.name {
			a.remove = append(a.remove, header.folded)
		}
	}
	a.cutValues()
	return nil
}

// removeCredential removes the credential from where it was found.
func (h *upstreamHeaders) removeCredential(a *answer, cred authz.Credential, req *authz.Request) {
	where, name, _ := strings.Cut(cred.Source, ":")
	switch {
	case where == "cookie":
		if rest := withoutCookie(req, name); rest != "" {
			a.setHeader("cookie", rest)
		} else {
			a.remove = append(a.remove, "cookie")
		}
	case where == "query":
		a.removeQuery = querySpellings(req.Path, name)
	case where == "header" && (cred.Remove || !h.forwardAuthorization):
		a.remove = append(a.remove, name)
	}
}

// lookalikes appends the names of request headers that some upstreams, but not Envoy, take for
// an identity header because they differ from it only in "_" and "-". The caller removes the
// spelling without "_".
func (h *upstreamHeaders) lookalikes(names []string, req *authz.Request) []string {
	for i := range req.Headers {
		name := req.Headers[i].Name
		if strings.IndexByte(name, '_') < 0 {
			continue
		}
		folded := fold(name)
		for j := range h.identity {
			header := &h.identity[j]
			if header.folded == folded && header.name != name && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// dynamicMetadata returns the configured claims; empty if there are none.
func (h *upstreamHeaders) dynamicMetadata(claims map[string]any) wire.Metadata {
	var m wire.Metadata
	if h.allMetadata {
		return m.SetAll(claims)
	}
	for _, name := range h.metadata {
		if v, ok := claims[name]; ok {
			m = m.Set(name, v)
		}
	}
	return m
}

// withoutCookie returns all cookies of the request except those called name, as one header
// value (RFC 6265, section 4.2.1).
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

// querySpellings returns all spellings of the query parameter in path, escapes included,
// because Envoy compares names without decoding them.
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
