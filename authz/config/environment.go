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

// Overlay sets every key whose environment variable is not empty. Lists of texts
// are separated by commas; keys inside lists can only be set in the file. Other
// variables with the prefix are ignored: Kubernetes defines some for a Service
// called jwt-bouncer.
func (f *File) Overlay(dst any, lookup func(string) (string, bool)) {
	walk("", reflect.ValueOf(dst).Elem(), func(path string, v reflect.Value, _ reflect.StructField) {
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
	walk("", reflect.ValueOf(dst).Elem(), func(at string, v reflect.Value, _ reflect.StructField) {
		if at == path {
			f.set(path, "flag "+name, v, text)
		}
	})
}

func (f *File) set(path, from string, v reflect.Value, text string) {
	f.origin[path] = origin{source: from}
	var err error
	switch {
	case v.CanAddr() && isText(v):
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

func isText(v reflect.Value) bool {
	_, ok := v.Addr().Interface().(encoding.TextUnmarshaler)
	return ok
}

// walk visits every key below v that the environment can set.
func walk(path string, v reflect.Value, visit func(string, reflect.Value, reflect.StructField)) {
	t := v.Type()
	fs := fieldsOf(t)
	for _, name := range fs.names {
		sf := t.FieldByIndex(fs.byName[name])
		at, fv := join(path, name), v.FieldByIndex(fs.byName[name])
		switch {
		case fv.CanAddr() && isText(fv):
			visit(at, fv, sf)
		case fv.Kind() == reflect.Struct:
			walk(at, fv, visit)
		case fv.Kind() == reflect.Slice && fv.Type().Elem().Kind() == reflect.String, scalarKind(fv.Kind()):
			visit(at, fv, sf)
		}
	}
}

func scalarKind(k reflect.Kind) bool {
	return k == reflect.Bool || k == reflect.String || k >= reflect.Int && k <= reflect.Uint64 || k == reflect.Float32 || k == reflect.Float64
}
