package envoy

import (
	"encoding/json"
	"math"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	"jwtbouncer/authz"
)

// Field numbers of envoy.service.auth.v3.CheckResponse and what it holds.
const (
	responseStatus   = 1 // google.rpc.Status
	responseDenied   = 2
	responseOK       = 3
	responseMetadata = 4 // google.protobuf.Struct

	rpcStatusCode = 1

	deniedStatus  = 1 // type.v3.HttpStatus, code = 1
	deniedHeaders = 2
	deniedBody    = 3

	okHeaders      = 2
	okRemove       = 5
	okQueryRemoved = 8

	optionHeader = 1 // HeaderValueOption
	optionAction = 3
	headerKey    = 1 // HeaderValue
	headerValue  = 2

	overwriteIfExistsOrAdd = 2 // HeaderValueOption.HeaderAppendAction
)

// encodeResponse is the only place where a CheckResponse is made: the status
// and what belongs to it are set together, because Envoy takes a response
// whose status is unset for an allow.
func encodeResponse(code codes.Code, kind protowire.Number, inner, metadata []byte) []byte {
	if (code == codes.OK) != (kind == responseOK) {
		code, kind, inner, metadata = codes.PermissionDenied, responseDenied, nil, nil
	}
	b := make([]byte, 0, len(inner)+len(metadata)+24)
	if code == codes.OK {
		b = appendMessage(b, responseStatus, nil)
	} else {
		b = appendMessage(b, responseStatus, appendUint(nil, rpcStatusCode, uint64(code)))
	}
	b = appendMessage(b, kind, inner)
	if len(metadata) > 0 {
		b = appendMessage(b, responseMetadata, metadata)
	}
	return b
}

// deniedAnswer is a DeniedHttpResponse in the making.
type deniedAnswer struct {
	status  int
	code    codes.Code
	headers []authz.Header
	body    string
}

func (a *deniedAnswer) header(name, value string) {
	a.headers = append(a.headers, authz.Header{Name: name, Value: value})
}

func (a *deniedAnswer) encode() []byte {
	b := appendMessage(nil, deniedStatus, appendUint(nil, 1, uint64(a.status)))
	for _, h := range a.headers {
		b = appendHeader(b, deniedHeaders, h.Name, h.Value)
	}
	b = appendString(b, deniedBody, a.body)
	return encodeResponse(a.code, responseDenied, b, nil)
}

// allowed builds the CheckResponse of an allow. token is nil on public routes.
// An error means that a claim cannot be passed on faithfully.
func (id *identity) allowed(token *authz.Token, cred authz.Credential, req *authz.Request) ([]byte, error) {
	var (
		b      = make([]byte, 0, 512)
		value  []byte
		remove = make([]string, 0, len(id.headers)+2)
		meta   []byte
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
			b = appendHeader(b, okHeaders, h.name, string(value))
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
	if name, ok := strings.CutPrefix(cred.Source, "cookie:"); ok {
		if rest := withoutCookie(req, name); rest != "" {
			b = appendHeader(b, okHeaders, "cookie", rest)
		} else {
			remove = append(remove, "cookie")
		}
	}
	for _, name := range remove {
		b = appendString(b, okRemove, name)
	}
	if name, ok := strings.CutPrefix(cred.Source, "query:"); ok {
		for _, name := range querySpellings(req.Path, name) {
			b = appendString(b, okQueryRemoved, name)
		}
	}
	if token != nil && len(id.metadata) > 0 {
		meta = id.appendMetadata(nil, token.Claims)
	}
	return encodeResponse(codes.OK, responseOK, b, meta), nil
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

// appendMetadata appends a google.protobuf.Struct with the configured claims.
func (id *identity) appendMetadata(b []byte, claims map[string]any) []byte {
	if id.allMeta {
		return appendStruct(b, claims)
	}
	for _, name := range id.metadata {
		if v, ok := claims[name]; ok {
			b = appendStructField(b, name, v)
		}
	}
	return b
}

func appendStruct(b []byte, m map[string]any) []byte {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b = appendStructField(b, name, m[name])
	}
	return b
}

func appendStructField(b []byte, name string, v any) []byte {
	entry := appendString(nil, 1, strings.ToValidUTF8(name, "\uFFFD"))
	return appendMessage(b, 1, appendMessage(entry, 2, appendValue(nil, v)))
}

// appendValue appends a google.protobuf.Value. Its numbers are doubles; one
// that would not survive that is handed on as text.
func appendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case bool:
		if v {
			return appendUint(b, 4, 1)
		}
		return appendUint(b, 4, 0)
	case json.Number:
		if f, ok := exactFloat(string(v)); ok {
			return protowire.AppendFixed64(protowire.AppendTag(b, 2, protowire.Fixed64Type), math.Float64bits(f))
		}
		return appendBytes(b, 3, string(v))
	case string:
		return appendBytes(b, 3, strings.ToValidUTF8(v, "\uFFFD"))
	case map[string]any:
		return appendMessage(b, 5, appendStruct(nil, v))
	case []any:
		var list []byte
		for _, e := range v {
			list = appendMessage(list, 1, appendValue(nil, e))
		}
		return appendMessage(b, 6, list)
	}
	return appendUint(b, 1, 0) // null
}

// exactFloat returns the double that equals the decimal number s, if there is
// one or s is a fraction, which doubles are expected to round.
func exactFloat(s string) (float64, bool) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(f, 0) {
		return 0, false
	}
	if strings.ContainsAny(s, ".eE") {
		return f, true
	}
	i, ok := new(big.Int).SetString(s, 10)
	if !ok {
		return 0, false
	}
	back, _ := big.NewFloat(f).Int(nil)
	return f, back.Cmp(i) == 0
}

func appendHeader(b []byte, field protowire.Number, name, value string) []byte {
	inner := sizeString(headerKey, name) + sizeString(headerValue, value)
	option := 1 + protowire.SizeBytes(inner) + 2
	b = protowire.AppendTag(b, field, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(option))
	b = protowire.AppendTag(b, optionHeader, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(inner))
	b = appendString(b, headerKey, name)
	b = appendString(b, headerValue, value)
	return appendUint(b, optionAction, overwriteIfExistsOrAdd)
}

func sizeString(num protowire.Number, s string) int {
	if s == "" {
		return 0
	}
	return protowire.SizeTag(num) + protowire.SizeBytes(len(s))
}

// appendString appends a string field; proto3 leaves empty ones out.
func appendString(b []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return appendBytes(b, num, s)
}

func appendBytes(b []byte, num protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

func appendMessage(b []byte, num protowire.Number, inner []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), inner)
}

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}
