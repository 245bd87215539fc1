package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"unicode"
)

// Prefix is the prefix of all environment variables that set keys.
const Prefix = "JWT_BOUNCER_"

// EnvName returns the environment variable of a YAML path, such as
// JWT_BOUNCER_LISTEN_GRPC for "listen.grpc".
func EnvName(path string) string {
	return Prefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// Overlay sets every key whose environment variable is not empty. Commas separate
// the entries of lists; keys inside lists can only be set in the file. Other
// variables with the prefix are ignored, because Kubernetes defines some for a
// Service called jwt-bouncer.
func (f *File) Overlay(dst any, lookup func(string) (string, bool)) {
	walk("", reflect.ValueOf(dst).Elem(), func(path string, v reflect.Value) {
		if text, ok := lookup(EnvName(path)); ok && text != "" {
			f.SetEnv(path, EnvName(path), v, text)
		}
	})
}

// SetEnv sets one value from the environment variable called name.
func (f *File) SetEnv(path, name string, v reflect.Value, text string) {
	f.set(path, "environment variable "+name, v, text)
}

// SetFlag sets the value at path in dst from the flag called name.
func (f *File) SetFlag(dst any, path, name, text string) {
	walk("", reflect.ValueOf(dst).Elem(), func(at string, v reflect.Value) {
		if at == path {
			f.set(path, "flag "+name, v, text)
		}
	})
}

func (f *File) set(path, from string, v reflect.Value, text string) {
	f.origin[path] = origin{source: from}
	err := checkPlaceholder(path, text, from)
	switch {
	case err != nil:
	case isText(v):
		err = v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text))
	case v.Kind() == reflect.Slice:
		parts := strings.Split(text, ",")
		list := reflect.MakeSlice(v.Type(), len(parts), len(parts))
		for i, p := range parts {
			p = strings.TrimSpace(p)
			if strings.ContainsFunc(p, unicode.IsSpace) {
				err = fmt.Errorf("%q is one entry; entries are separated by commas (an entry with a space can only be set in the file)", p)
			}
			list.Index(i).SetString(p)
		}
		v.Set(list)
	default:
		err = setScalar(v, text)
	}
	if err != nil {
		f.Invalid(path, "%s", err)
	}
}

// isText reports whether v, a field of the configuration, reads itself from text.
func isText(v reflect.Value) bool { return reflect.PointerTo(v.Type()).Implements(textType) }

// walk visits every key below v that the environment can set.
func walk(path string, v reflect.Value, visit func(string, reflect.Value)) {
	for _, f := range fieldsOf(v.Type()) {
		at, fv := join(path, f.key), v.FieldByIndex(f.Index)
		switch {
		case fv.Kind() == reflect.Struct && !isText(fv):
			walk(at, fv, visit)
		case isText(fv), fv.Kind() == reflect.Slice && fv.Type().Elem().Kind() == reflect.String, scalarKind(fv.Kind()):
			visit(at, fv)
		}
	}
}

func scalarKind(k reflect.Kind) bool {
	return k == reflect.Bool || k == reflect.String || k >= reflect.Int && k <= reflect.Uint64 || k == reflect.Float32 || k == reflect.Float64
}
