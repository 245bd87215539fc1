// Package config loads configuration into structs that other packages define:
// YAML, strictly, with every fault reported at once and each with its line;
// then the environment; then whatever the stanzas themselves have to say.
// It knows no stanza and never reads a secret.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sort"
	"strings"
)

// File is a configuration that has been read into its struct. Faults are
// collected until Err is asked for.
type File struct {
	name   string
	origin map[string]origin
	faults []located
	broken bool // no YAML: nothing of it has been read
}

// origin says where a value came from.
type origin struct {
	line, column int
	elsewhere    string // not the file: which variable or flag
}

type located struct {
	Problem
	order int
}

// Problem is one fault of a configuration.
type Problem struct {
	File         string
	Line, Column int    // from 1; 0 when the key does not stand in the file
	Key          string // YAML path such as "issuers[0].jwks"; empty for the whole file
	Message      string
}

func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Error is every fault of a configuration, in the order of the file.
type Error []Problem

func (e Error) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Read returns the text of the file called name, for Parse. A file that cannot
// be read is an Error.
func Read(name string) ([]byte, error) {
	text, err := os.ReadFile(name)
	if err == nil {
		return text, nil
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err // which names the file again
	}
	return nil, Error{{File: name, Message: err.Error()}}
}

// Parse reads YAML text into dst, a pointer to a struct that holds the defaults.
// Empty text leaves them. name is for messages. Faults wait for Err.
func Parse(name string, text []byte, dst any) *File {
	f := &File{name: name, origin: map[string]origin{}}
	f.decode(text, dst)
	return f
}

// Fault records what is wrong at path. A path that does not stand in the file
// is placed at its nearest parent that does. Where the text is no YAML at all,
// it does nothing: the values are not those that were meant.
func (f *File) Fault(path, format string, args ...any) {
	if f.broken {
		return
	}
	p := Problem{File: f.name, Key: path, Message: fmt.Sprintf(format, args...)}
	at := path
	for {
		if o, ok := f.origin[at]; ok {
			if o.elsewhere != "" {
				p.File = o.elsewhere
			} else {
				p.Line, p.Column = o.line, o.column
			}
			break
		}
		if at == "" {
			break
		}
		at = parent(at)
	}
	f.add(p)
}

// At returns a reporter for the stanza at prefix, to be handed to its Validate.
func (f *File) At(prefix string) func(path, format string, args ...any) {
	return func(path, format string, args ...any) { f.Fault(join(prefix, path), format, args...) }
}

// Set reports whether the value at path came from the file, the environment or a flag.
func (f *File) Set(path string) bool { _, ok := f.origin[path]; return ok }

// Faulty reports whether there is a fault at path or below it so far. Of what
// depends on a faulty value, nothing useful can be said.
func (f *File) Faulty(path string) bool {
	return slices.ContainsFunc(f.faults, func(l located) bool {
		rest, below := strings.CutPrefix(l.Key, path)
		return below && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

func (f *File) add(p Problem) {
	for _, have := range f.faults {
		if have.Problem == p {
			return
		}
	}
	f.faults = append(f.faults, located{p, len(f.faults)})
}

// Err returns all faults as an Error, or nil.
func (f *File) Err() error {
	if len(f.faults) == 0 {
		return nil
	}
	sort.SliceStable(f.faults, func(i, j int) bool {
		a, b := f.faults[i], f.faults[j]
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.order < b.order
	})
	e := make(Error, len(f.faults))
	for i, l := range f.faults {
		e[i] = l.Problem
	}
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
