package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
)

func newImporter(l *fakeLedger, in string, out io.Writer) *importer {
	return &importer{
		Process: &Process{In: strings.NewReader(in), Out: out, Err: io.Discard},
		revoker: l.revoker(), issuers: authz.Issuers{Verified: []string{"i"}},
	}
}

func TestImportStoresEveryLine(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 999, 1000, 1001, 2500} {
		var in strings.Builder
		for i := range n {
			fmt.Fprintf(&in, "{\"jti\":\"t%d\"}\n\n", i)
		}
		l, out := &fakeLedger{}, &bytes.Buffer{}
		i := newImporter(l, in.String(), out)
		i.output = outputFlag{outputJSON}
		require.NoError(t, i.run(t.Context()))
		if assert.Len(t, l.stored, n, "stored") {
			assert.Equalf(t, fmt.Sprintf("t%d", n-1), l.stored[n-1].Value, "%d stored, want %d", len(l.stored), n)
		}
		assert.Containsf(t, out.String(), fmt.Sprintf(`"stored":%d`, n), "printed %s", out)
	}
}

// latePublisher fails to publish the first batch.
type latePublisher struct{ batches int }

func (p *latePublisher) Publish(context.Context, []authz.Revocation) bool {
	p.batches++
	return p.batches > 1
}

func TestImportIsPublishedIfEveryBatchIs(t *testing.T) {
	t.Parallel()
	l, out := &fakeLedger{}, &bytes.Buffer{}
	i := newImporter(l, strings.Repeat("{\"jti\":\"a\"}\n", batchSize+1), out)
	i.output, i.revoker = outputFlag{outputJSON}, authz.NewRevoker(l, &latePublisher{}, authztest.BubbleClock{})
	require.NoError(t, i.run(t.Context()))
	require.Contains(t, out.String(), `"published":false`)
}

// Every layout of what POST /v1/revocations takes, and more revocations than it takes.
func TestImportLayouts(t *testing.T) {
	t.Parallel()
	var long strings.Builder
	long.WriteString("[")
	for i := range 25_000 {
		fmt.Fprintf(&long, `{"jti":"a-%d-%s"},`, i, strings.Repeat("x", 60))
	}
	long.WriteString(`{"jti":"last"}]`)
	for name, c := range map[string]struct {
		in    string
		count int
	}{
		"a byte order mark":            {"\ufeff" + `{"jti":"a"}{"jti":"last"}`, 2},
		"an array":                     {`[{"jti":"a"},{"jti":"last"}]`, 2},
		"an array on several lines":    {"[\n  {\n    \"jti\": \"a\"\n  },\n  {\n    \"jti\": \"last\"\n  }\n]\n", 2},
		"an object on several lines":   {"{\n  \"jti\":\r\n \"last\"\n}\n", 1},
		"two objects on a line":        {`{"jti":"a"} {"jti":"last"}`, 2},
		"arrays and objects":           {"[{\"jti\":\"a\"}]\n{\"jti\":\"b\"}\n[]\n[{\"jti\":\"last\"}]", 3},
		"an array of 2 MB on one line": {long.String(), 25_001},
	} {
		l, out := &fakeLedger{}, &bytes.Buffer{}
		if !assert.NoErrorf(t, newImporter(l, c.in, out).run(t.Context()), "%s", name) {
			continue
		}
		if assert.Lenf(t, l.stored, c.count, "%s: stored; printed %s", name, out) {
			if assert.Equalf(t, "last", l.stored[c.count-1].Value, "%s: %d stored, want %d; printed %s", name, len(l.stored), c.count, out) {
				assert.Containsf(t, out.String(), fmt.Sprintf("revoked %d,", c.count), "%s: %d stored, want %d; printed %s", name, len(l.stored), c.count, out)
			}
		}
	}
}

func TestImportReportsPosition(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                     "no revocation request",
		"[]":                   "no revocation request",
		"{\"jti\":\"a\"}\n{":   "line 2: the input ends in the middle",
		"[{\"jti\":\"a\"},\n":  "line 2, [1]: the input ends in the middle",
		"[{\"jti\":\"a\"},{}]": "line 1, [1]: invalid revocation: one of jti",
		"[\n{\"jti\":\"a\"},\n{\"jti\":\"b\"},\n{\n\"jti\":\"\"}]": "line 4, [2]: invalid revocation: jti: must not be empty",
		"\n\n{\"jti\":\"\"}":                      "line 3: invalid revocation: jti: must not be empty",
		"{\"jti\":\"a\"}\n[{}]":                   "line 2, [0]: invalid revocation: one of jti",
		"[[{\"jti\":\"a\"}]]":                     "line 1, [0]: is an array in an array",
		"{\"jti\":\"a\"\n{\"jti\":\"b\"}":         "line 2: is not well-formed JSON, or the value before it does not end",
		"{\"jti\":\"a\"}]":                        "line 1: is not well-formed JSON",
		"{\"jti\":\"a\"}\n{\"jti\":\"secret\",,}": "line 2: is not well-formed JSON",
	} {
		l := &fakeLedger{}
		err := newImporter(l, text, &bytes.Buffer{}).run(t.Context())
		if assert.Errorf(t, err, "%q, %d stored, want %s", text, len(l.stored), want) {
			if assert.Containsf(t, err.Error(), want, "%q: %v, %d stored", text, err, len(l.stored)) {
				assert.Emptyf(t, l.stored, "%q: %v, stored, want %s", text, err, want)
			}
		}
		if err != nil {
			assert.NotContainsf(t, err.Error(), "secret", "%q: the error repeats the input: %v", text, err)
		}
	}
}

// An import with --wait enforced returns when the bound of its last batch has passed.
func TestImportWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := newImporter(&fakeLedger{}, `{"jti":"a"}`, io.Discard)
		i.wait = true
		start := time.Now()
		err := i.run(t.Context())
		if assert.NoErrorf(t, err, "returned after %s", time.Since(start)) {
			assert.Equalf(t, 30*time.Second, time.Since(start), "returned after %s: %v", time.Since(start), err)
		}
	})
}

// With --skip-expired, expired requests are counted and not stored, and an
// import of nothing else succeeds.
func TestImportSkipsExpired(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int{
		`{"jti":"a","expires_at":"2020-01-01T00:00:00Z"}`:               0,
		`[{"jti":"a","expires_at":"2020-01-01T00:00:00Z"},{"jti":"b"}]`: 1,
	} {
		l, messages := &fakeLedger{}, &bytes.Buffer{}
		i := newImporter(l, in, io.Discard)
		i.Err, i.skipExpired = messages, true
		err := i.run(t.Context())
		if assert.NoErrorf(t, err, "%s, %d stored, said %q", in, len(l.stored), messages) {
			if assert.Lenf(t, l.stored, want, "%s: %v, stored, said %q", in, err, messages) {
				assert.Containsf(t, messages.String(), "skipped 1 request", "%s: %v, %d stored, said %q", in, err, len(l.stored), messages)
			}
		}
	}
}
