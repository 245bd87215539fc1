package jose

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// An error contains a position and no part of the text.
func TestParseObjectRefuses(t *testing.T) {
	t.Parallel()
	repeat := strings.Repeat
	tests := map[string]struct{ text, want string }{
		"empty":                 {"", "not a JSON object"},
		"array":                 {`["secret"]`, "not a JSON object"},
		"byte order mark":       {"\ufeff{}", "not a JSON object"},
		"two objects":           {`{"a":1}{}`, "text after the object"},
		"trailing comma":        {`{"a":"secret",}`, "not valid JSON"},
		"truncated":             {`{"secret":`, "not valid JSON"},
		"no colon":              {`{"secret" "secret"}`, "not valid JSON"},
		"control character":     {"{\"secret\":\"secret\n\"}", "not valid JSON"},
		"NUL":                   {"{\"secret\":1}\x00", "text after the object"},
		"unknown escape":        {`{"secret":"\x"}`, "not valid JSON"},
		"leading zero":          {`{"secret":01}`, "not valid JSON"},
		"not a number":          {`{"secret":NaN}`, "not valid JSON"},
		"invalid UTF-8":         {"{\"secret\":\"\xff\"}", "not valid JSON"},
		"encoded surrogate":     {"{\"secret\":\"\xed\xa0\x80\"}", "not valid JSON"},
		"invalid UTF-8 in name": {"{\"secret\xff\":1}", "not valid JSON"},
		"lone high surrogate":   {`{"secret":"\ud800"}`, "not valid JSON"},
		"lone low surrogate":    {`{"secret":"\udc00"}`, "not valid JSON"},
		"reversed surrogates":   {`{"secret":"\udc00\ud800"}`, "not valid JSON"},
		"high, then no low":     {`{"secret":"\ud800\u0041"}`, "not valid JSON"},
		"duplicate":             {`{"secret":1,"secret":1}`, "duplicate member"},
		"escaped duplicate":     {`{"secret":1,"s\u0065cret":1}`, "duplicate member"},
		"nested duplicate":      {`{"a":[{"secret":1,"secret":1}]}`, "duplicate member"},
		"depth":                 {repeat(`{"secret":`, 17) + "1" + repeat("}", 17), "nested too deeply"},
		"depth of arrays":       {`{"secret":` + repeat("[", 16) + repeat("]", 16) + "}", "nested too deeply"},
		"values":                {`{"secret":[` + repeat("1,", 1999) + "1]}", "too many values"},
		"long number":           {`{"secret":` + repeat("1", 41) + "}", "number too long"},
		"long exponent":         {`{"secret":1e` + repeat("0", 40) + "}", "number too long"},
		"infinite number":       {`{"secret":1e400}`, "number out of range"},
	}
	for name, tt := range tests {
		m, err := ParseObject(tt.text)
		require.ErrorContains(t, err, tt.want, name)
		require.NotContains(t, err.Error(), "secret", name)
		require.Nil(t, m, name)

		iss, err := SkimIssuer(tt.text, DefaultMaxValues)
		if tt.want == "duplicate member" || tt.want == "number out of range" {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorContains(t, err, tt.want, name)
		require.NotContains(t, err.Error(), "secret", name)
		require.Zero(t, iss, name)
	}
	_, err := SkimIssuer(`{"iss":"secret","i\u0073s":"secret"}`, DefaultMaxValues)
	require.EqualError(t, err, "duplicate member at byte 26")
	_, err = ParseObject(`{"a":1,"secret":!}`)
	require.EqualError(t, err, "not valid JSON at byte 16")
}

func TestParseObjectAcceptsItsLimits(t *testing.T) {
	t.Parallel()
	repeat := strings.Repeat
	for name, text := range map[string]string{
		"depth":  repeat(`{"a":`, 16) + "1" + repeat("}", 16),
		"values": `{"a":[` + repeat("1,", 1998) + "1]}",
		"number": `{"a":` + repeat("1", 40) + "}",
	} {
		_, err := ParseObject(text)
		require.NoError(t, err, name)
		_, err = SkimIssuer(text, DefaultMaxValues)
		require.NoError(t, err, name)
	}
	m, err := ParseObject(" {\t\"a\\\"b\" : [ 1.50 , \"\\ud83d\\ude00\" , { } , [ ] ] ,\r\n\"c\":null} ")
	require.NoError(t, err)
	require.Equal(t, map[string]any{`a"b`: []any{json.Number("1.50"), "\U0001f600", map[string]any{}, []any{}}, "c": nil}, m)
}

// No unverified text makes SkimIssuer allocate.
func TestSkimIssuerAllocatesNothing(t *testing.T) { //nolint:paralleltest // AllocsPerRun
	name := func(i int) string { return fmt.Sprintf(`"\n%d%s":"\n",`, i, strings.Repeat("x", i%50)) }
	var b strings.Builder
	b.WriteString(`{"iss":"a",`)
	for i := range 1500 {
		b.WriteString(name(i))
	}
	b.WriteString(`"x":[{}]}`)
	text := b.String()
	var iss IssuerClaim
	var err error
	allocations := math.Inf(1)
	for range 50 { // the pool may drop the reader, and often does under the race detector
		allocations = min(allocations, testing.AllocsPerRun(1, func() { iss, err = SkimIssuer(text, DefaultMaxValues) }))
	}
	require.NoError(t, err)
	require.Equal(t, "a", iss.Name)
	require.LessOrEqual(t, allocations, 2.0)
}
