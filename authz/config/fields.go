package config

import (
	"cmp"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// field is one key of a struct. Its Index leads from the outermost struct.
type field struct {
	key string
	reflect.StructField
}

// fieldsOf returns the keys of a struct in order of declaration. The fields of
// inline structs count as its own.
func fieldsOf(t reflect.Type) []field {
	var all []field
	for i := range t.NumField() {
		sf := t.Field(i)
		key, opts, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		switch {
		case !sf.IsExported() || key == "-":
		case opts == "inline":
			for _, f := range fieldsOf(sf.Type) {
				f.Index = append([]int{i}, f.Index...)
				all = append(all, f)
			}
		default:
			all = append(all, field{cmp.Or(key, strings.ToLower(sf.Name)), sf})
		}
	}
	return all
}

// suggest returns a hint about an unknown key: where it belongs if another stanza
// has it, else the allowed key that is most similar; and all allowed keys.
func (d *decoder) suggest(key string, allowed []field) string {
	names := make([]string, len(allowed))
	for i, f := range allowed {
		names[i] = f.key
	}
	all := "allowed: " + strings.Join(names, ", ")
	if elsewhere := places(key, "", d.root, 0); len(elsewhere) > 0 {
		return "it belongs at " + strings.Join(elsewhere[:min(len(elsewhere), 3)], " or ") + "; here, " + all
	}
	if best := Nearest(key, names); best != "" {
		return fmt.Sprintf("did you mean %q? %s", best, all)
	}
	return all
}

// places returns the paths at or below path, whose type is t, that end with key, in
// order of declaration. "[]" stands for the entries of a list.
func places(key, path string, t reflect.Type, depth int) (all []string) {
	switch t.Kind() {
	case reflect.Pointer:
		return places(key, path, t.Elem(), depth)
	case reflect.Slice:
		return places(key, path+"[]", t.Elem(), depth)
	case reflect.Struct:
	default:
		return nil
	}
	if depth > maxDepth || reflect.PointerTo(t).Implements(textType) {
		return nil
	}
	for _, f := range fieldsOf(t) {
		at := join(path, f.key)
		if f.key == key {
			all = append(all, at)
		}
		all = append(all, places(key, at, f.Type, depth+1)...)
	}
	return all
}

// Nearest returns the name that is most similar to word; empty if none is similar.
func Nearest(word string, names []string) (best string) {
	dist := len(word)/2 + 1
	for _, name := range names {
		if d := distance(strings.ToLower(word), name); d < dist {
			best, dist = name, d
		}
	}
	return best
}

// distance is the Levenshtein distance of two short words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

func want(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a duration (such as 30s)"
	case t.Kind() == reflect.Bool:
		return "on or off"
	case t.Kind() == reflect.String:
		return "a text"
	}
	return "a number"
}

func describe(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "mapping"
	case *ast.SequenceNode:
		return "list"
	}
	return "single value"
}
