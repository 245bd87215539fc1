package config_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/config"
)

type inner struct {
	Wait  time.Duration `yaml:"wait" doc:"How long."`
	Mode  string        `yaml:"mode" enum:"a,b" doc:"Which."`
	Names []string      `yaml:"names"`
}

type sample struct {
	Listen string            `yaml:"listen" doc:"Where."`
	Inner  inner             `yaml:"inner"`
	List   []inner           `yaml:"list"`
	Map    map[string]string `yaml:"map"`
	On     bool              `yaml:"on"`
	Count  int               `yaml:"count"`
}

func defaults() sample {
	return sample{Listen: "here", Inner: inner{Wait: 30 * time.Second, Mode: "a"}}
}

func TestParse(t *testing.T) {
	t.Parallel()
	got := defaults()
	f := config.Parse("c.yaml", []byte(`
listen: 127.0.0.1:80
on: on
count: 1_000
inner: &in
  wait: 5m
  names: [x, "1", 2]
list:
  - *in
  - {mode: b}
map: {k: v, x-jwt-sub: sub}
`), &got)
	require.NoError(t, f.Err())
	want := defaults()
	want.Listen, want.On, want.Count = "127.0.0.1:80", true, 1000
	want.Inner.Wait, want.Inner.Names = 5*time.Minute, []string{"x", "1", "2"}
	want.List = []inner{{Wait: 5 * time.Minute, Names: []string{"x", "1", "2"}}, {Mode: "b"}}
	want.Map = map[string]string{"k": "v", "x-jwt-sub": "sub"}
	assert.Empty(t, cmp.Diff(want, got))
}

func TestAllErrorsAtOnceWithTheirLines(t *testing.T) {
	t.Parallel()
	c := defaults()
	f := config.Parse("c.yaml", []byte(`listne: x
inner:
  wait: 30
  mod: a
  names: one
list:
  - wait: soon
  -
map: [1]
on: maybe
on: off
count: "7"
`), &c)
	f.At("inner")("mode", "must be %s", "a or b")
	f.At("list")("[0].mode", "missing")
	f.Invalid("nowhere", "must be there")
	err := f.Err()
	var all config.Error
	require.ErrorAsf(t, err, &all, "%v", err)
	want := []string{
		`c.yaml:1:1: listne: unknown key; did you mean "listen"?`,
		`c.yaml:2:1: inner.mode: must be a or b`,
		`c.yaml:3:9: inner.wait: "30" is not a duration`,
		`c.yaml:4:3: inner.mod: unknown key; did you mean "mode"?`,
		`c.yaml:5:10: inner.names: must be a list, not a single value`,
		`list[0].wait: "soon" is not a duration`,
		`c.yaml:7:5: list[0].mode: missing`,
		`c.yaml: nowhere: must be there`,
		`list[1]: empty list entry`,
		`c.yaml:9:6: map: must be a mapping (key: value), not a list`,
		`on: "maybe" is neither on nor off`,
		`on: duplicate key (first defined in line 10)`,
		`count: must be a number, not the text "7"`,
	}
	text := err.Error()
	assert.Lenf(t, all, len(want), "errors:\n%s", text)
	for _, w := range want {
		assert.Containsf(t, text, w, "missing %q in\n%s", w, text)
	}
}

// A key in the wrong stanza is told where it belongs.
func TestMisplacedKeys(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"wait: 30s":              "c.yaml:1:1: wait: unknown key; it belongs at inner.wait or list[].wait; here, allowed: listen,",
		"inner: {listen: there}": `c.yaml:1:9: inner.listen: unknown key; it belongs at listen; here, allowed: wait, mode, names`,
		"list: [{count: 3}]":     "list[0].count: unknown key; it belongs at count; here",
		"list: [{wat: 3s}]":      `list[0].wat: unknown key; did you mean "wait"? allowed: wait, mode, names`,
	} {
		c := defaults()
		err := config.Parse("c.yaml", []byte(text), &c).Err()
		assert.ErrorContains(t, err, want, text)
	}
}

func TestSyntaxErrorsNameTheLine(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"a: b\n  c: [", "\tlisten: x", "listen: 'x", "- a", "listen: *nowhere", "listen: !!binary x", "listen: a\n---\nlisten: b"} {
		c := defaults()
		err := config.Parse("c.yaml", []byte(text), &c).Err()
		if assert.Errorf(t, err, "%q", text) {
			assert.Containsf(t, err.Error(), "c.yaml", "%q: %v", text, err)
		}
	}
}

// Editors on Windows write a byte order mark.
func TestByteOrderMark(t *testing.T) {
	t.Parallel()
	c := defaults()
	require.NoError(t, config.Parse("c.yaml", []byte("\xef\xbb\xbflisten: there\n"), &c).Err())
	assert.Equal(t, "there", c.Listen)
	require.NoError(t, config.Parse("c.yaml", []byte("\xef\xbb\xbf"), &c).Err())
	err := config.Parse("c.yaml", []byte("\xef\xbb\xbflistne: x\n"), &c).Err()
	assert.ErrorContains(t, err, "c.yaml:1:1: listne")
	for _, text := range []string{"\xff\xfel\x00i\x00", "\xfe\xff\x00l\x00i", "l\x00i\x00s\x00", "\x00l\x00i", "\x00\x00\xfe\xff\x00\x00\x00l", "\xff\xfe\x00\x00l\x00\x00\x00"} {
		err := config.Parse("c.yaml", []byte(text), &c).Err()
		if assert.Errorf(t, err, "%q", text) {
			assert.Equal(t, "c.yaml: the file is encoded as UTF-16 or UTF-32; save it as UTF-8", err.Error())
		}
	}
	err = config.Parse("c.yaml", []byte("listen: there\nmap: {k: caf\xe9}\n"), &c).Err()
	assert.ErrorContains(t, err, "line 2 is not UTF-8")
}

// Nothing replaces variables, so ${NAME} would be used as it is.
func TestPlaceholders(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"listen: ${LISTEN}":                "c.yaml:1:9: listen: contains a variable such as ${NAME}, which is not replaced; set the environment variable JWT_BOUNCER_LISTEN",
		"listen: 'http://u:${S3CRET}@h'":   "JWT_BOUNCER_LISTEN",
		"listen: ${S3CRET:-none}":          "JWT_BOUNCER_LISTEN",
		"listen: $S3CRET":                  "JWT_BOUNCER_LISTEN",
		"listen: $(S3CRET)":                "JWT_BOUNCER_LISTEN",
		"inner: {names: [a, '${S3CRET}']}": "inner.names[1]: contains a variable",
		"inner: {wait: '${S3CRET}'}":       "inner.wait: ",
		"map: {k: '${S3CRET}'}":            "map.k: contains a variable",
		"listen: pa$$w0rd$x":               "",
		"listen: '{sub}'":                  "",
		"listen: '$5'":                     "",
		"listen: '^a{2}$'":                 "",
	} {
		c := defaults()
		err := config.Parse("c.yaml", []byte(text), &c).Err()
		if want == "" {
			assert.NoError(t, err, text)
			continue
		}
		if assert.Error(t, err, text) {
			assert.Contains(t, err.Error(), want, text)
			assert.NotContains(t, err.Error(), "S3CRET", text)
		}
	}
	c := defaults()
	f := config.Parse("c.yaml", nil, &c)
	f.Overlay(&c, func(k string) (string, bool) { return "${OTHER}", k == "JWT_BOUNCER_LISTEN" })
	assert.ErrorContains(t, f.Err(), "environment variable JWT_BOUNCER_LISTEN: listen: contains a variable")
}

func TestOverlay(t *testing.T) {
	t.Parallel()
	env := map[string]string{"JWT_BOUNCER_LISTEN": "there", "JWT_BOUNCER_INNER_WAIT": "1h", "JWT_BOUNCER_INNER_NAMES": "a, b", "JWT_BOUNCER_COUNT": "many", "JWT_BOUNCER_PORT_80_TCP": "tcp://10.0.0.1"}
	c := defaults()
	f := config.Parse("c.yaml", []byte("listen: file\n"), &c)
	f.Overlay(&c, func(k string) (string, bool) { v, ok := env[k]; return v, ok })
	f.Invalid("listen", "is wrong")
	err := f.Err()
	if assert.Error(t, err) {
		if assert.Containsf(t, err.Error(), "environment variable JWT_BOUNCER_COUNT: count:", "got %v", err) {
			assert.Containsf(t, err.Error(), "environment variable JWT_BOUNCER_LISTEN: listen: is wrong", "got %v", err)
		}
	}
	if assert.Equalf(t, "there", c.Listen, "got %+v", c) {
		if assert.Equalf(t, time.Hour, c.Inner.Wait, "got %+v", c) {
			if assert.Lenf(t, c.Inner.Names, 2, "got %+v", c) {
				assert.Equalf(t, "b", c.Inner.Names[1], "got %+v", c)
			}
		}
	}
}

// A list with spaces between its entries would be one odd entry.
func TestOverlayOfAListWithoutCommas(t *testing.T) {
	t.Parallel()
	c := defaults()
	f := config.Parse("c.yaml", nil, &c)
	f.Overlay(&c, func(k string) (string, bool) { return " a b", k == "JWT_BOUNCER_INNER_NAMES" })
	err := f.Err()
	if assert.Error(t, err) {
		assert.Containsf(t, err.Error(), `environment variable JWT_BOUNCER_INNER_NAMES: inner.names: "a b" is one entry; entries are separated by commas`, "got %v", err)
	}
}

func TestSetFlag(t *testing.T) {
	t.Parallel()
	c := defaults()
	f := config.Parse("c.yaml", []byte("listen: file\ninner: {wait: 1s}\n"), &c)
	f.Overlay(&c, func(k string) (string, bool) { return "environment", k == "JWT_BOUNCER_LISTEN" })
	f.SetFlag(&c, "listen", "--listen", "flag")
	f.SetFlag(&c, "inner.wait", "--wait", "soon")
	f.Invalid("listen", "is wrong")
	err := f.Err()
	if assert.Errorf(t, err, "got %q", c.Listen) {
		if assert.Truef(t, strings.HasPrefix(err.Error(), "flag --wait: inner.wait: \"soon\" is not a duration"), "got %q, %v", c.Listen, err) {
			if assert.Truef(t, strings.HasSuffix(err.Error(), "\nflag --listen: listen: is wrong"), "got %q, %v", c.Listen, err) {
				assert.Equalf(t, "flag", c.Listen, "%v", err)
			}
		}
	}
}

func TestSchemaAndReference(t *testing.T) {
	t.Parallel()
	d := defaults()
	text, err := config.Schema(&d, "https://example.org/s.json", "sample")
	require.NoError(t, err)
	var s struct {
		AdditionalProperties any `json:"additionalProperties"`
		Properties           map[string]struct {
			Type, Description string
			Default           any
			Properties        map[string]map[string]any
		}
	}
	require.NoError(t, json.Unmarshal(text, &s))
	assert.Equalf(t, false, s.AdditionalProperties, "schema:\n%s", text)
	assert.Equalf(t, "Where.", s.Properties["listen"].Description, "schema:\n%s", text)
	assert.Equalf(t, "here", s.Properties["listen"].Default, "schema:\n%s", text)
	if assert.Lenf(t, s.Properties["inner"].Properties["mode"]["enum"].([]any), 2, "schema:\n%s", text) {
		assert.Equalf(t, "30s", s.Properties["inner"].Properties["wait"]["default"], "schema:\n%s", text)
	}
	ref := config.Reference(&d)
	for _, w := range []string{"| `inner.wait` | duration | `30s` | `JWT_BOUNCER_INNER_WAIT` | How long. |", "| `list[].mode` | one of a, b |  |  | Which. |"} {
		assert.Containsf(t, ref, w, "missing %q in\n%s", w, ref)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("listen: x\ninner: {wait: 1s}\nlist: [{mode: a}]\n"))
	f.Add([]byte("inner: &a\n  names: *a\n"))
	f.Add([]byte("map: {<<: *x}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c := defaults()
		if len(text) > 4096 {
			return
		}
		_ = config.Parse("f", text, &c).Err()
	})
}

type target struct {
	URL   string `yaml:"url" doc:"Where."`
	Limit int    `yaml:"limit" doc:"How much."`
}

func (t *target) SetShorthand(text string) { t.URL = text }

func TestShorthand(t *testing.T) {
	t.Parallel()
	type root struct {
		Target target `yaml:"target" doc:"A target."`
	}
	for text, want := range map[string]root{
		"target: http://h":                  {target{URL: "http://h", Limit: 5}},
		"target: {url: http://h}":           {target{URL: "http://h", Limit: 5}},
		"target: {url: http://h, limit: 7}": {target{URL: "http://h", Limit: 7}},
	} {
		got := root{target{Limit: 5}}
		err := config.Parse("t.yaml", []byte(text), &got).Err()
		if assert.NoErrorf(t, err, "%s: got %+v", text, got) {
			assert.Equalf(t, want, got, "%s, %v", text, err)
		}
	}
	var got root
	err := config.Parse("t.yaml", []byte("target:\n  ulr: x"), &got).Err()
	if assert.Error(t, err) {
		assert.Containsf(t, err.Error(), "t.yaml:2:3: target.ulr: unknown key", "got %v", err)
	}
	schema, err := config.Schema(&root{}, "id", "title")
	if assert.NoErrorf(t, err, "schema allows one form only: %s", schema) {
		assert.Containsf(t, string(schema), `"anyOf"`, "schema allows one form only: %s, %v", schema, err)
	}
}

func TestHostPortWithoutQuotesGetsAHint(t *testing.T) {
	t.Parallel()
	c := defaults()
	err := config.Parse("c.yaml", []byte("inner: {names: [127.0.0.1:1, b]}\n"), &c).Err()
	if err != nil {
		assert.Containsf(t, err.Error(), "needs quotes", "no hint: %v", err)
	}
	if err == nil {
		assert.Equalf(t, "127.0.0.1:1", c.Inner.Names[0], "got %q", c.Inner.Names)
	}
}
