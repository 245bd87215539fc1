package jose

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits of a JSON text. The caller bounds its length.
const (
	maxJSONDepth    = 16       // nested objects and arrays, the outermost object included
	maxHeaderValues = 64       // the same for a JOSE header, which is built before the signature is verified
	maxJSONNumber   = 40       // bytes of a number
	maxPooledJSON   = 64 << 10 // bytes of the largest buffer that is kept for reuse
)

// DefaultMaxValues bounds the values of a JSON text in total, the outermost object
// excluded.
const DefaultMaxValues = 2000

// jsonReader reads one JSON object. The jsontext decoder checks the grammar,
// UTF-8 and surrogates. The reader adds the limits and takes values from the
// text itself, so that a string without escapes shares its memory.
type jsonReader struct {
	text      string
	remaining int // values that may still follow
	dec       jsontext.Decoder
	in        bytes.Buffer // a copy of text for dec
	unescaped []byte       // buffer of unescape
}

var jsonReaders = sync.Pool{New: func() any { return new(jsonReader) }}

// ParseObject decodes a text that is one JSON object (RFC 8259), optionally
// surrounded by white space. Values are string, bool, nil, json.Number, []any
// and map[string]any. It refuses duplicate member names at any depth, invalid
// UTF-8 and lone surrogates, because two parsers could read them differently,
// and any text beyond the limits above. Errors contain positions and never a
// part of the text.
func ParseObject(text string) (map[string]any, error) { return ParseObjectOf(text, DefaultMaxValues) }

// ParseDocument is ParseObject for a document from outside that is no token, such
// as a discovery document. It skips a byte order mark, which RFC 8259, section
// 8.1, permits, and applies DropEmpty.
func ParseDocument(document []byte) (map[string]any, error) {
	m, err := ParseObject(string(bytes.TrimPrefix(document, byteOrderMark)))
	DropEmpty(m)
	return m, err
}

var byteOrderMark = []byte("\ufeff")

// DropEmpty deletes the members of m that say nothing: null, the empty string and
// the empty array. Many serializers write them for members that are not set.
func DropEmpty(m map[string]any) {
	maps.DeleteFunc(m, func(_ string, v any) bool {
		list, isList := v.([]any)
		return v == nil || v == "" || isList && len(list) == 0
	})
}

// ParseObjectOf is ParseObject with another limit on the number of values.
func ParseObjectOf(text string, maxValues int) (map[string]any, error) {
	return readObject(text, maxValues, (*jsonReader).object)
}

// IssuerClaim is the "iss" member of claims that nothing has verified, with the
// "sub" that may stand in for it. The zero value is an absent member.
type IssuerClaim struct {
	Present bool
	Name    string // empty unless the value is a string
	Subject string // the first "sub"; empty unless it is a string
}

// SkimIssuer finds issuer and subject in claims and builds no other value, because
// an attacker chooses how many there are until the signature is verified. It
// applies all checks of ParseObject except two: it ignores duplicates of other
// members and the range of numbers. Once the signature is verified, the caller
// calls ParseObjectOf with the same limit.
func SkimIssuer(text string, maxValues int) (IssuerClaim, error) {
	return readObject(text, maxValues, (*jsonReader).issuer)
}

// readObject calls read after the opening brace of the object that is the whole
// text. It returns the zero T with an error.
func readObject[T any](text string, maxValues int, read func(*jsonReader) (T, error)) (T, error) {
	r := jsonReaders.Get().(*jsonReader)
	defer r.release()
	r.text, r.remaining = text, maxValues
	r.in.WriteString(text)
	r.dec.Reset(&r.in, jsontext.AllowDuplicateNames(true)) // object and issuer find duplicates at less cost
	var none T
	if open, err := r.token(); err != nil || open != "{" {
		return none, errors.New("not a JSON object")
	}
	result, err := read(r)
	if err != nil {
		return none, err
	}
	if _, err := r.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return none, r.errorHere("text after the object")
	}
	return result, nil
}

func (r *jsonReader) release() {
	r.text = ""
	r.in.Reset()
	if r.in.Cap() <= maxPooledJSON {
		jsonReaders.Put(r)
	}
}

func (r *jsonReader) errorHere(message string) error {
	return fmt.Errorf("%s at byte %d", message, r.dec.InputOffset())
}

// token returns the text of the next token.
func (r *jsonReader) token() (string, error) {
	start := r.dec.InputOffset()
	if _, err := r.dec.ReadToken(); err != nil {
		// The library's message quotes the text.
		offset := int64(len(r.text))
		if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
			offset = syntax.ByteOffset
		}
		return "", fmt.Errorf("not valid JSON at byte %d", offset)
	}
	if r.dec.StackDepth() > maxJSONDepth {
		return "", r.errorHere("nested too deeply")
	}
	for c := r.text[start]; c <= ' ' || c == ',' || c == ':'; c = r.text[start] { // separators, which the decoder has checked
		start++
	}
	return r.text[start:r.dec.InputOffset()], nil
}

// object builds the object whose opening brace was the last token.
func (r *jsonReader) object() (map[string]any, error) {
	m := make(map[string]any, 8)
	for {
		token, err := r.token()
		if err != nil || token == "}" {
			return m, err
		}
		name := r.unquote(token)
		if _, duplicate := m[name]; duplicate {
			return nil, r.errorHere("duplicate member")
		}
		if token, err = r.token(); err != nil {
			return nil, err
		}
		if m[name], err = r.value(token); err != nil {
			return nil, err
		}
	}
}

// array builds the array whose opening bracket was the last token.
func (r *jsonReader) array() ([]any, error) {
	a := []any{}
	for {
		token, err := r.token()
		if err != nil || token == "]" {
			return a, err
		}
		v, err := r.value(token)
		if err != nil {
			return nil, err
		}
		a = append(a, v)
	}
}

// value builds the value that starts with token.
func (r *jsonReader) value(token string) (any, error) {
	if err := r.admit(token); err != nil {
		return nil, err
	}
	switch token[0] {
	case '{':
		return r.object()
	case '[':
		return r.array()
	case '"':
		return r.unquote(token), nil
	case 't':
		return true, nil
	case 'f':
		return false, nil
	case 'n':
		return nil, nil
	}
	if strings.ContainsAny(token, "eE") {
		if _, err := strconv.ParseFloat(token, 64); err != nil {
			return nil, r.errorHere("number out of range")
		}
	}
	return json.Number(token), nil
}

// admit applies the limits to the value that starts with token.
func (r *jsonReader) admit(token string) error {
	if r.remaining--; r.remaining < 0 {
		return r.errorHere("too many values")
	}
	if len(token) > maxJSONNumber && token[0] != '"' { // other tokens are short
		return r.errorHere("number too long")
	}
	return nil
}

func (r *jsonReader) unquote(token string) string {
	if strings.IndexByte(token, '\\') < 0 {
		return token[1 : len(token)-1]
	}
	return string(r.unescape(token))
}

// unescape returns the contents of a string token, valid until the next call.
func (r *jsonReader) unescape(token string) []byte {
	r.unescaped, _ = jsontext.AppendUnquote(r.unescaped[:0], token) // the decoder has validated the token
	return r.unescaped
}

// issuer finds the "iss" and "sub" members of the outermost object.
func (r *jsonReader) issuer() (iss IssuerClaim, err error) {
	for {
		token, err := r.token()
		if err != nil || token == "}" {
			return iss, err
		}
		found, subject := r.isName(token, "iss"), r.isName(token, "sub")
		if found && iss.Present {
			return iss, r.errorHere("duplicate member")
		}
		if token, err = r.token(); err != nil {
			return iss, err
		}
		iss.Present = iss.Present || found
		if found && token[0] == '"' {
			iss.Name = r.unquote(token)
		}
		if subject && iss.Subject == "" && token[0] == '"' {
			iss.Subject = r.unquote(token)
		}
		if err := r.skip(token); err != nil {
			return iss, err
		}
	}
}

// isName reports whether a string token is the name, which has three characters.
func (r *jsonReader) isName(token, name string) bool {
	const longest = len(`"\u0069\u0073\u0073"`)
	return token[1:len(token)-1] == name || len(token) <= longest && strings.IndexByte(token, '\\') >= 0 && string(r.unescape(token)) == name
}

// skip reads the value that starts with token without building it.
func (r *jsonReader) skip(token string) error {
	if err := r.admit(token); err != nil || (token != "{" && token != "[") {
		return err
	}
	for inObject := token == "{"; ; {
		next, err := r.token()
		if err == nil && inObject && next != "}" {
			next, err = r.token() // the value after the name
		}
		if err != nil || next == "}" || next == "]" {
			return err
		}
		if err := r.skip(next); err != nil {
			return err
		}
	}
}
