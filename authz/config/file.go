// Package config loads configuration into structs that other packages define:
// strict YAML, then the environment, then flags. It collects all errors, each
// with its line and column, those of the structs' own Validate methods
// included. It knows no stanza and never reads a secret.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"jwtbouncer/authz"
)

// File is a configuration that has been read into its struct. It collects
// errors until Err is called.
type File struct {
	name   string
	origin map[string]origin
	errs   Error
	broken bool // not YAML: none of it has been read
}

// origin says where a value came from.
type origin struct {
	line, column int
	source       string // the environment variable or flag; empty: the file
}

// Error lists everything that is wrong with a configuration, in the order of
// the file.
type Error []authz.InvalidError

func (e Error) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Read returns the content of the file, for Parse. The error is an Error.
func Read(name string) ([]byte, error) {
	text, err := os.ReadFile(name)
	if err == nil {
		return text, nil
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err // without the name, which Error repeats
	}
	return nil, Error{{Source: name, Detail: err.Error()}}
}

// Parse reads YAML into dst, a pointer to a struct that contains the defaults.
// Empty text leaves them unchanged. name is for messages. Err returns the errors.
func Parse(name string, text []byte, dst any) *File {
	f := &File{name: name, origin: map[string]origin{}}
	f.decode(text, dst)
	return f
}

// Invalid records an invalid value. If path is not in the file, the error is
// placed at the nearest parent that is. If the text is not YAML, Invalid does
// nothing: the values are not the intended ones.
func (f *File) Invalid(path, format string, args ...any) {
	if f.broken {
		return
	}
	e := authz.InvalidError{Source: f.name, Field: path, Detail: fmt.Sprintf(format, args...)}
	for at := path; ; at = parent(at) {
		o, ok := f.origin[at]
		if ok {
			e.Source, e.Line, e.Column = cmp.Or(o.source, f.name), o.line, o.column
		}
		if ok || at == "" {
			break
		}
	}
	f.add(e)
}

// At returns Invalid for the stanza at prefix, for its Validate method.
func (f *File) At(prefix string) authz.Report {
	return func(path, format string, args ...any) { f.Invalid(join(prefix, path), format, args...) }
}

// IsSet reports whether the value at path came from the file, the environment
// or a flag.
func (f *File) IsSet(path string) bool { _, ok := f.origin[path]; return ok }

// IsInvalid reports whether there is an error at or below path so far. Rules
// that depend on the value cannot be checked then.
func (f *File) IsInvalid(path string) bool {
	return slices.ContainsFunc(f.errs, func(e authz.InvalidError) bool {
		rest, below := strings.CutPrefix(e.Field, path)
		return below && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

func (f *File) add(e authz.InvalidError) {
	if !slices.Contains(f.errs, e) {
		f.errs = append(f.errs, e)
	}
}

// Err returns all errors as an Error, or nil.
func (f *File) Err() error {
	if len(f.errs) == 0 {
		return nil
	}
	e := slices.Clone(f.errs)
	slices.SortStableFunc(e, func(a, b authz.InvalidError) int { return a.Line - b.Line })
	return e
}

func join(prefix, path string) string {
	switch {
	case prefix == "":
		return path
	case path == "" || path[0] == '[':
		return prefix + path
	}
	return prefix + "." + path
}

func parent(path string) string {
	if i := strings.LastIndexAny(path, ".["); i >= 0 {
		return path[:i]
	}
	return ""
}
