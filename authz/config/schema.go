package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/invopop/jsonschema"
)

// Schema returns a JSON Schema (draft 2020-12) of the configuration that dst,
// a pointer to a struct holding the defaults, describes.
func Schema(dst any, id, title string) ([]byte, error) {
	r := jsonschema.Reflector{
		FieldNameTag:               "yaml",
		RequiredFromJSONSchemaTags: true, // every key has a default; Validate reports missing keys
		ExpandedStruct:             true,
		DoNotReference:             true,
		Mapper: func(t reflect.Type) *jsonschema.Schema {
			switch {
			case t == durationType:
				return &jsonschema.Schema{Type: "string", Pattern: `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`}
			case t.Kind() == reflect.Bool:
				return &jsonschema.Schema{Enum: []any{true, false, "on", "off", "yes", "no"}}
			}
			return nil
		},
		LookupComment: func(t reflect.Type, field string) string {
			if t.Kind() == reflect.Struct && field != "" {
				if sf, ok := t.FieldByName(field); ok {
					return sf.Tag.Get("doc")
				}
			}
			return ""
		},
	}
	s := r.Reflect(dst)
	s.ID, s.Title = jsonschema.ID(id), title
	describeFields(s, reflect.ValueOf(dst).Elem())
	return json.MarshalIndent(s, "", "  ")
}

// describeFields adds the defaults, which v holds, and the values that "enum"
// tags allow.
func describeFields(s *jsonschema.Schema, v reflect.Value) {
	if s == nil || s.Properties == nil {
		return
	}
	for _, f := range fieldsOf(v.Type()) {
		p, ok := s.Properties.Get(f.key)
		if !ok {
			continue
		}
		fv := v.FieldByIndex(f.Index)
		if e := f.Tag.Get("enum"); e != "" {
			target := cmp.Or(p.Items, p)
			target.Enum = nil
			for word := range strings.SplitSeq(e, ",") {
				target.Enum = append(target.Enum, word)
			}
		}
		if text := defaultText(fv); text != "" && p.Default == nil {
			p.Default = text
			if k := fv.Kind(); k >= reflect.Int && k <= reflect.Float64 && fv.Type() != durationType {
				p.Default = fv.Interface()
			}
		}
		switch {
		case fv.Kind() == reflect.Struct:
			describeFields(p, fv)
			if _, ok := fv.Addr().Interface().(Shorthand); ok {
				mapping := *p
				*p = jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "string"}, &mapping}, Description: mapping.Description}
			}
		case fv.Kind() == reflect.Slice && fv.Type().Elem().Kind() == reflect.Struct:
			describeFields(p.Items, reflect.New(fv.Type().Elem()).Elem())
		}
	}
}

// Reference returns a Markdown table of every key: type, default, environment
// variable and meaning.
func Reference(dst any) string {
	var b strings.Builder
	b.WriteString("| key | type | default | environment | meaning |\n| --- | --- | --- | --- | --- |\n")
	rows(&b, "", reflect.ValueOf(dst).Elem(), true)
	return b.String()
}

func rows(b *strings.Builder, path string, v reflect.Value, env bool) {
	for _, f := range fieldsOf(v.Type()) {
		at, fv := join(path, f.key), v.FieldByIndex(f.Index)
		nested := fv.Kind() == reflect.Struct && !isText(fv)
		list := fv.Kind() == reflect.Slice && fv.Type().Elem().Kind() == reflect.Struct
		variable := ""
		if env && !nested && !list && fv.Kind() != reflect.Map {
			variable = "`" + EnvName(at) + "`"
		}
		def := ""
		if text := defaultText(fv); text != "" {
			def = "`" + text + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s | %s |\n", at, typeName(f.StructField), def, variable, cell(f.Tag.Get("doc")))
		switch {
		case nested:
			rows(b, at, fv, env)
		case list:
			rows(b, at+"[]", reflect.New(fv.Type().Elem()).Elem(), false)
		}
	}
}

func cell(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "|", "\\|"), "\n", " ")
}

func typeName(sf reflect.StructField) string {
	if e := sf.Tag.Get("enum"); e != "" {
		words := strings.ReplaceAll(e, ",", ", ")
		if sf.Type.Kind() == reflect.Slice {
			return "list of " + words
		}
		return "one of " + words
	}
	return kindName(sf.Type)
}

func kindName(t reflect.Type) string {
	switch {
	case t == durationType:
		return "duration"
	case t.Kind() == reflect.Pointer:
		return kindName(t.Elem())
	case reflect.PointerTo(t).Implements(textType), t.Kind() == reflect.String:
		return "text"
	case t.Kind() == reflect.Struct:
		return "mapping"
	case t.Kind() == reflect.Map:
		return "mapping to " + kindName(t.Elem())
	case t.Kind() == reflect.Slice:
		return "list of " + kindName(t.Elem())
	case t.Kind() == reflect.Bool:
		return "on or off"
	case t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64:
		return "number"
	}
	return "whole number"
}

// defaultText returns a default as text: "" for a zero value, which means "not
// set" for every kind except bool.
func defaultText(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			return "on"
		}
		return "off"
	case reflect.Slice, reflect.Map:
		if v.Len() == 0 || v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct {
			return ""
		}
		text, _ := json.Marshal(v.Interface())
		return string(text)
	case reflect.Struct, reflect.Pointer, reflect.Func, reflect.Interface:
		return ""
	}
	if v.IsZero() {
		return ""
	}
	if d, ok := v.Interface().(time.Duration); ok {
		return shortDuration(d)
	}
	return fmt.Sprint(v.Interface()) // a fmt.Stringer as its String
}

// shortDuration prints 24h rather than 24h0m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
