package fetch

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Document is a document from outside.
type Document struct {
	Body      []byte
	From      string // the URL without a password, or the path of a file
	MediaType string // in lower case, without parameters; empty: none, or none that is valid
}

// String says what came from where: "https://issuer.example/keys is an HTML page
// (text/html, 512 bytes)". It contains no part of the body.
func (d Document) String() string { return d.From + " is " + d.Describe() }

// Describe says what the document is, for a reader who expected another: "an HTML
// page (text/html, 512 bytes)".
func (d Document) Describe() string {
	kind := kindOf(bytes.TrimPrefix(d.Body, []byte("\ufeff")))
	size := fmt.Sprintf("%d bytes", len(d.Body))
	if d.MediaType != "" {
		size = fmt.Sprintf("%.64s, %s", d.MediaType, size)
	}
	return kind + " (" + size + ")"
}

func kindOf(body []byte) string {
	text := strings.TrimSpace(string(body))
	switch {
	case len(body) == 0:
		return "an empty document"
	case bytes.HasPrefix(body, []byte{0x1f, 0x8b}):
		return "gzip data"
	case bytes.HasPrefix(body, []byte{0xfe, 0xff}), bytes.HasPrefix(body, []byte{0xff, 0xfe}):
		return "UTF-16 text"
	case !utf8.Valid(body):
		return "binary data"
	case strings.HasPrefix(text, "-----BEGIN "):
		return "PEM"
	case strings.HasPrefix(text, "<"):
		head := strings.ToLower(text[:min(len(text), 1024)])
		if strings.Contains(head, "<!doctype html") || strings.Contains(head, "<html") {
			return "an HTML page"
		}
		return "an XML document"
	case isJWT(text):
		return "a JWT"
	}
	var v any
	if json.Unmarshal(body, &v) != nil {
		if strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[") {
			return "malformed JSON"
		}
		return "text"
	}
	switch v := v.(type) {
	case map[string]any:
		return kindOfObject(v)
	case []any:
		return "a JSON array"
	}
	return "a JSON value that is no object"
}

func kindOfObject(m map[string]any) string {
	has := func(names ...string) bool {
		for _, name := range names {
			if m[name] == nil {
				return false
			}
		}
		return true
	}
	switch {
	case has("keys"):
		return "a JWK set"
	case has("kty"):
		return "a single JWK"
	case has("issuer", "jwks_uri"), has("issuer", "token_endpoint"), has("issuer", "authorization_endpoint"):
		return "a discovery document"
	case has("active"):
		return "an introspection response"
	case has("error"):
		return "an error response in JSON"
	}
	for _, v := range m {
		if text, _ := v.(string); strings.HasPrefix(text, "-----BEGIN CERTIFICATE") {
			return "a JSON object of PEM certificates"
		}
	}
	return "a JSON object"
}

func isJWT(text string) bool {
	segments := strings.Split(text, ".")
	if len(segments) != 3 {
		return false
	}
	header, err := base64.RawURLEncoding.DecodeString(segments[0])
	return err == nil && json.Valid(header)
}
