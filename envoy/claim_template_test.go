package envoy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const unfit = "(denied)"

func TestClaimsBecomeHeaders(t *testing.T) {
	t.Parallel()
	const token = `{"sub":"alice","n":9007199254740993,"f":1.50,"e":1e3,"yes":true,"no":false,"null":null,"empty":"","list":["a","b",1,null],
		"object":{"b":2,"a":{"x":"<&>"}},"a.b":"dotted","https://x.test/roles":["r"],"slash/tilde~":"s","unicode":"Zoë ✓",
		"newline":"a\nb","cr":"a\rb","nul":"a\u0000b","tab":"a\tb","del":"a\u007fb","lead":" a","trail":"a ","space":" ","in list":["a\nb","\u007f"],
		"deep":{"er":{"est":["zero",{"one":"found"}]}},"emptylist":[],"emptyobject":{},"quote":"a\"b\\c"}`
	for template, want := range map[string]string{
		"sub":                      "alice",
		"n":                        "9007199254740993",
		"f":                        "1.50",
		"e":                        "1e3",
		"yes":                      "true",
		"no":                       "false",
		"null":                     "",
		"empty":                    "",
		"missing":                  "",
		"sub.x":                    "",
		"list":                     `["a","b",1,null]`,
		"list.1":                   "b",
		"list.01":                  "",
		"list.9":                   "",
		"list.-1":                  "",
		"object":                   `{"a":{"x":"<&>"},"b":2}`,
		"object.a.x":               "<&>",
		"a.b":                      "", // a nested claim; the dotted one is /a.b
		"/a.b":                     "dotted",
		"/slash~1tilde~0":          "s",
		"https://x.test/roles":     `["r"]`,
		"https://x.test/roles.0":   "", // one name
		"deep.er.est.1.one":        "found",
		"/deep/er/est/0":           "zero",
		"unicode":                  "Zoë ✓",
		"newline":                  unfit,
		"cr":                       unfit,
		"nul":                      unfit,
		"tab":                      unfit,
		"del":                      unfit,
		"lead":                     unfit,
		"trail":                    unfit,
		"space":                    unfit,
		"in list":                  `["a\nb","\u007f"]`, // escaped by JSON
		"emptylist":                "[]",
		"emptyobject":              "{}",
		"quote":                    `a"b\c`,
		"user:{sub}":               "user:alice",
		"{sub}@{deep.er.est.0}!":   "alice@zero!",
		"{{{sub}}}":                "{alice}",
		"{sub}/{missing}":          "",
		"x {newline}":              unfit,
		"{/a.b}":                   "dotted",
		"{sub} {https://x.test/a}": "",
	} {
		t.Run(template, func(t *testing.T) {
			t.Parallel()
			c, err := parseClaimTemplate(template)
			require.NoError(t, err)
			got, ok, err := c.expand([]byte("before"), claims(t, token))
			text, untouched := strings.CutPrefix(string(got), "before")
			require.True(t, untouched)
			if want == unfit {
				var e *unfitClaimError
				require.ErrorAs(t, err, &e)
				require.False(t, ok)
				require.Empty(t, text)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, want, text)
			assert.Equal(t, want != "", ok)
		})
	}
}

func TestBadClaimTemplates(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "{}", "{", "}", "{sub", "sub}", "constant{{}}", "a..b", ".a", "a.", "/", "//a", "x\n{sub}", "{a..b}"} {
		_, err := parseClaimTemplate(s)
		assert.Error(t, err, "%q", s)
	}
}
