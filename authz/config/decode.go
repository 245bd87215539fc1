package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"jwtbouncer/authz"
)

// maxDepth bounds the nesting of a configuration, aliases included.
const maxDepth = 32

var (
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func (f *File) decode(text []byte, dst any) {
	text, why := decodeText(text)
	if why != "" {
		f.add(authz.InvalidError{Source: f.name, Detail: why})
		f.broken = true
		return
	}
	file, err := parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		f.syntax("", err)
		f.broken = true
		return
	}
	if len(file.Docs) > 1 && file.Docs[1].Body != nil {
		f.add(authz.InvalidError{Source: f.name, Detail: "more than one YAML document (---); put everything into the first"})
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return
	}
	d := decoder{file: f, anchors: map[string]ast.Node{}, root: reflect.TypeOf(dst).Elem()}
	d.value("", file.Docs[0].Body, reflect.ValueOf(dst).Elem(), 0)
}

// decodeText removes the byte order mark (YAML 1.2.2, section 5.2) that some editors
// write, and returns why text cannot be read; empty: it can.
func decodeText(text []byte) (utf8Text []byte, why string) {
	head := text[:min(4, len(text))]
	switch {
	case bytes.HasPrefix(text, []byte("\xff\xfe")), bytes.HasPrefix(text, []byte("\xfe\xff")),
		len(head) >= 2 && (head[0] == 0) != (head[1] == 0), bytes.HasPrefix(text, []byte{0, 0, 0xfe, 0xff}):
		return nil, "the file is encoded as UTF-16 or UTF-32; save it as UTF-8"
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	for n, line := range bytes.Split(text, []byte("\n")) {
		if !utf8.Valid(line) {
			return nil, fmt.Sprintf("line %d is not UTF-8; save the file as UTF-8", n+1)
		}
	}
	return text, ""
}

// placeholder is a variable in the language of shells, Compose and others.
var placeholder = regexp.MustCompile(`\$\{[A-Za-z_][A-Za-z0-9_]*(:?[-=?+][^}]*)?\}|^\$\([A-Za-z_][A-Za-z0-9_]*\)$|^\$[A-Z_][A-Z0-9_]*$`)

// checkPlaceholder returns an error for a text with a variable, which nothing
// replaces. It does not repeat the text, which may be a secret. from is where the
// text comes from.
func checkPlaceholder(path, text, from string) error {
	if !strings.Contains(text, "$") || !placeholder.MatchString(text) {
		return nil
	}
	instead := "write the value itself"
	if from == "" && !strings.Contains(path, "[") {
		instead = "set the environment variable " + EnvName(path)
	}
	return fmt.Errorf("contains a variable such as ${NAME}, which is not replaced; %s, or keep a secret in a file (the keys that end in _file)", instead)
}

// syntax adds an error of the YAML library with its position.
func (f *File) syntax(path string, err error) {
	e := authz.InvalidError{Source: f.name, Field: path, Detail: err.Error()}
	var ye yaml.Error
	if errors.As(err, &ye) {
		e.Detail = ye.GetMessage()
		if tk := ye.GetToken(); tk != nil && tk.Position != nil {
			e.Line, e.Column = tk.Position.Line, tk.Position.Column
		}
	}
	f.add(e)
}

type decoder struct {
	file    *File
	anchors map[string]ast.Node
	root    reflect.Type // of the whole configuration
}

func (d *decoder) invalid(path string, n ast.Node, format string, args ...any) {
	pos := begin(n)
	d.file.add(authz.InvalidError{Source: d.file.name, Line: pos.Line, Column: pos.Column, Field: path, Detail: fmt.Sprintf(format, args...)})
}

// begin returns the position of n. The token of a mapping in block style is its
// first colon, not its beginning.
func begin(n ast.Node) *token.Position {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	return n.GetToken().Position
}

// value decodes n into v. It goes on after errors, to find all of them.
func (d *decoder) value(path string, n ast.Node, v reflect.Value, depth int) {
	if depth > maxDepth {
		d.invalid(path, n, "nested more than %d levels deep", maxDepth)
		return
	}
	switch t := n.(type) {
	case *ast.AnchorNode:
		d.anchors[t.Name.GetToken().Value] = t.Value
		d.value(path, t.Value, v, depth+1)
		return
	case *ast.AliasNode:
		if target, ok := d.anchors[t.Value.GetToken().Value]; ok {
			d.value(path, target, v, depth+1)
		} else {
			d.invalid(path, n, "alias *%s has no anchor before it", t.Value.GetToken().Value)
		}
		return
	case *ast.TagNode:
		d.invalid(path, n, "YAML tags (%s) are not supported", t.GetToken().Value)
		return
	case *ast.MappingValueNode:
		n = ast.Mapping(t.GetToken(), false, t)
	}
	// The whole file has no position: a missing key is on no line.
	if _, seen := d.file.origin[path]; !seen && path != "" {
		pos := begin(n)
		d.file.origin[path] = origin{line: pos.Line, column: pos.Column}
	}
	if _, null := n.(*ast.NullNode); null {
		return // "key:" without a value leaves the default
	}
	if d.custom(path, n, v) {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.value(path, n, v.Elem(), depth+1)
	case reflect.Struct:
		d.structure(path, n, v, depth)
	case reflect.Map:
		d.mapping(path, n, v, depth)
	case reflect.Slice:
		d.sequence(path, n, v, depth)
	default:
		text, plain, ok := scalar(n)
		if !ok {
			hint := ""
			if _, m := n.(*ast.MappingNode); m && v.Kind() == reflect.String {
				hint = "; text with a colon in a [list] or {mapping}, such as host:port, needs quotes"
			}
			d.invalid(path, n, "must be %s, not a %s%s", want(v.Type()), describe(n), hint)
		} else if err := checkPlaceholder(path, text, ""); err != nil {
			d.invalid(path, n, "%s", err)
		} else if v.Kind() != reflect.String && !plain {
			d.invalid(path, n, "must be %s, not the text %q", want(v.Type()), text)
		} else if err := setScalar(v, text); err != nil {
			d.invalid(path, n, "%s", err)
		}
	}
}

// custom decodes types that unmarshal themselves, and reports whether v is one.
func (d *decoder) custom(path string, n ast.Node, v reflect.Value) bool {
	if !v.CanAddr() {
		return false
	}
	switch u := v.Addr().Interface().(type) {
	case yaml.InterfaceUnmarshaler, yaml.BytesUnmarshaler, yaml.NodeUnmarshaler,
		yaml.InterfaceUnmarshalerContext, yaml.BytesUnmarshalerContext, yaml.NodeUnmarshalerContext:
		if err := yaml.NodeToValue(n, u, yaml.Strict()); err != nil {
			var ye yaml.Error
			if errors.As(err, &ye) {
				d.file.syntax(path, err)
			} else {
				d.invalid(path, n, "%s", err)
			}
		}
		return true
	case encoding.TextUnmarshaler:
		text, _, ok := scalar(n)
		if !ok {
			d.invalid(path, n, "must be a text, not a %s", describe(n))
		} else if err := u.UnmarshalText([]byte(text)); err != nil {
			d.invalid(path, n, "%s", err)
		}
		return true
	}
	return false
}

// Shorthand is a stanza that can be a single text, such as a URL, instead of a
// mapping.
type Shorthand interface{ SetShorthand(text string) }

func (d *decoder) structure(path string, n ast.Node, v reflect.Value, depth int) {
	if s, ok := v.Addr().Interface().(Shorthand); ok {
		if text, _, ok := scalar(n); ok {
			if err := checkPlaceholder(path, text, ""); err != nil {
				d.invalid(path, n, "%s", err)
			}
			s.SetShorthand(text)
			return
		}
	}
	fields := fieldsOf(v.Type())
	for _, entry := range d.entries(path, n) {
		at := join(path, entry.key)
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == entry.key })
		if i < 0 {
			d.invalid(at, entry.node, "unknown key; %s", d.suggest(entry.key, fields))
			continue
		}
		d.value(at, entry.value, v.FieldByIndex(fields[i].Index), depth+1)
	}
}

func (d *decoder) mapping(path string, n ast.Node, v reflect.Value, depth int) {
	out := reflect.MakeMap(v.Type()) // a map in the file replaces the default map
	for _, entry := range d.entries(path, n) {
		elem := reflect.New(v.Type().Elem()).Elem()
		d.value(join(path, entry.key), entry.value, elem, depth+1)
		out.SetMapIndex(reflect.ValueOf(entry.key).Convert(v.Type().Key()), elem)
	}
	v.Set(out)
}

func (d *decoder) sequence(path string, n ast.Node, v reflect.Value, depth int) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.invalid(path, n, "must be a list, not a %s", describe(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(s.Values), len(s.Values))
	for i, item := range s.Values {
		at := authz.ItemPath(path, i)
		if _, null := item.(*ast.NullNode); null {
			d.invalid(at, item, "empty list entry")
			continue
		}
		d.value(at, item, out.Index(i), depth+1)
	}
	v.Set(out)
}

type entry struct {
	key         string
	node, value ast.Node
}

// entries returns the pairs of a mapping. Any other node, duplicates and merge
// keys are errors.
func (d *decoder) entries(path string, n ast.Node) []entry {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		d.invalid(path, n, "must be a mapping (key: value), not a %s", describe(n))
		return nil
	}
	first := map[string]int{} // line by key
	var out []entry
	for _, kv := range m.Values {
		if _, merge := kv.Key.(*ast.MergeKeyNode); merge {
			d.invalid(path, kv.Key, "merge keys (<<) are not supported; use an anchor for the whole value")
			continue
		}
		key := kv.Key.GetToken().Value
		if line, duplicate := first[key]; duplicate {
			d.invalid(join(path, key), kv.Key, "duplicate key (first defined in line %d)", line)
			continue
		}
		pos := kv.Key.GetToken().Position
		first[key] = pos.Line
		d.file.origin[join(path, key)] = origin{line: pos.Line, column: pos.Column}
		out = append(out, entry{key, kv.Key, kv.Value})
	}
	return out
}

// scalar returns the text of a node and whether it is plain (unquoted).
func scalar(n ast.Node) (text string, plain, ok bool) {
	switch t := n.(type) {
	case *ast.StringNode:
		k := t.GetToken().Type.String()
		return t.Value, !strings.Contains(k, "Quote"), true
	case *ast.LiteralNode:
		return t.Value.Value, false, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true, true
	}
	return "", false, false
}

// setScalar parses text from a file, a variable or a flag into v.
func setScalar(v reflect.Value, text string) error {
	if v.Type() == durationType {
		dur, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration; write a number with a unit, such as 500ms, 30s, 5m or 24h", text)
		}
		v.SetInt(int64(dur))
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		switch strings.ToLower(text) {
		case "true", "on", "yes", "1":
			v.SetBool(true)
		case "false", "off", "no", "0":
			v.SetBool(false)
		default:
			return fmt.Errorf("%q is neither on nor off; allowed: true, on, yes, false, off, no", text)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is not an integer that fits %d bits", text, v.Type().Bits())
		}
		v.SetInt(i)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		u, err := strconv.ParseUint(strings.ReplaceAll(text, "_", ""), 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is not a non-negative integer that fits %d bits", text, v.Type().Bits())
		}
		v.SetUint(u)
	case reflect.Float32, reflect.Float64:
		x, err := strconv.ParseFloat(text, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%q is not a number", text)
		}
		v.SetFloat(x)
	default:
		return fmt.Errorf("values of type %s cannot be configured", v.Type())
	}
	return nil
}
