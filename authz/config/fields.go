package config

import (
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// fields of a struct by their YAML names; inline structs are flattened.
type fields struct {
	byName map[string][]int
	names  []string // in order of declaration
}

func fieldsOf(t reflect.Type) fields {
	f := fields{byName: map[string][]int{}}
	f.collect(t, nil)
	return f
}

func (f *fields) collect(t reflect.Type, index []int) {
	for i := range t.NumField() {
		sf := t.Field(i)
		name, opts, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		at := append(slices.Clone(index), i)
		switch {
		case !sf.IsExported() || name == "-":
		case opts == "inline":
			f.collect(sf.Type, at)
		default:
			if name == "" {
				name = strings.ToLower(sf.Name)
			}
			f.byName[name] = at
			f.names = append(f.names, name)
		}
	}
}

// suggest returns a hint: the allowed key most similar to key, and all of them.
func suggest(key string, names []string) string {
	best, dist := "", len(key)/2+1
	for _, n := range names {
		if d := distance(strings.ToLower(key), n); d < dist {
			best, dist = n, d
		}
	}
	if best != "" {
		return "did you mean \"" + best + "\"? allowed: " + strings.Join(names, ", ")
	}
	return "allowed: " + strings.Join(names, ", ")
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
