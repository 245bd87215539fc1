package doctor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// node is a message of Envoy's configuration in the JSON form of protobuf. It is
// read without Envoy's generated types: linked into the sidecar, they would take
// 10 MB of its binary and 17 MB of its memory, and they refuse a dump that holds an
// extension they do not know. The tests decode the same texts with those types.
//
// The zero node is an absent field, and every method works on it.
type node struct{ v any }

// parseTree reads JSON or YAML.
func parseTree(text []byte) (node, error) {
	var v any
	trimmed := bytes.TrimSpace(text)
	if len(trimmed) == 0 {
		return node{}, errors.New("it is empty")
	}
	if trimmed[0] == '{' {
		err := json.Unmarshal(trimmed, &v)
		if err == nil {
			return node{v}, nil
		}
		// It may still be YAML in flow style.
	}
	if err := yaml.Unmarshal(text, &v); err != nil {
		return node{}, fmt.Errorf("it is neither JSON nor YAML: %s", yaml.FormatError(err, false, false))
	}
	if _, ok := v.(map[string]any); !ok {
		return node{}, errors.New("it is not a JSON or YAML object")
	}
	return node{v}, nil
}

// get returns the field at the path of field names. A name may be written as in
// the proto file or, as protobuf's JSON allows, in lowerCamelCase.
func (n node) get(path ...string) node {
	for _, name := range path {
		m, ok := n.v.(map[string]any)
		if !ok {
			return node{}
		}
		v, ok := m[name]
		if !ok {
			v = m[camel(name)]
		}
		n = node{v}
	}
	return n
}

func camel(name string) string {
	parts := strings.Split(name, "_")
	for i := 1; i < len(parts); i++ {
		if parts[i] != "" {
			parts[i] = strings.ToUpper(parts[i][:1]) + parts[i][1:]
		}
	}
	return strings.Join(parts, "")
}

// exists reports whether the field is set. An empty message is.
func (n node) exists() bool { return n.v != nil }

// list returns the elements of a repeated field.
func (n node) list() []node {
	items, _ := n.v.([]any)
	out := make([]node, len(items))
	for i, v := range items {
		out[i] = node{v}
	}
	return out
}

// fields returns the entries of a map.
func (n node) fields() map[string]node {
	m, _ := n.v.(map[string]any)
	out := make(map[string]node, len(m))
	for k, v := range m {
		out[k] = node{v}
	}
	return out
}

func (n node) str() string {
	s, _ := n.v.(string)
	return s
}

// on reports whether a bool or BoolValue is true.
func (n node) on() bool { return n.v == true || n.v == "true" }

// number returns a number or a wrapped number, and whether there is one.
func (n node) number() (float64, bool) {
	switch v := n.v.(type) {
	case float64:
		return v, true
	case uint64:
		return float64(v), true
	case int64:
		return float64(v), true
	case int:
		return float64(v), true
	case string: // 64-bit numbers are strings
		f, err := strconv.ParseFloat(v, 64)
		return f, err == nil
	}
	return 0, false
}

// seconds returns a Duration, and whether there is one.
func (n node) seconds() (time.Duration, bool) {
	d, err := time.ParseDuration(n.str())
	return d, err == nil && strings.HasSuffix(n.str(), "s")
}

// is reports whether an enum has a value, written by name or by number.
func (n node) is(name string, number float64) bool {
	f, ok := n.number()
	return n.str() == name || ok && f == number
}

// message is a google.protobuf.Any: the message's name and its fields. A
// TypedStruct is unwrapped, because Envoy takes it for the message it names.
func (n node) message() (name string, fields node) {
	name = n.typeName("@type")
	switch name {
	case "xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct":
		return n.typeName("type_url"), n.get("value")
	}
	return name, n
}

func (n node) typeName(field string) string {
	url := n.get(field).str()
	return url[strings.LastIndexByte(url, '/')+1:]
}
