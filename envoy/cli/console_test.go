package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"jwtbouncer/authz"
)

// ledger remembers what was ordered and fails from the failAt-th order on.
type ledger struct {
	orders  []authz.Revocation
	batches int
	failAt  int
	err     error
}

func (l *ledger) Revoke(_ context.Context, rs []authz.Revocation, _ authz.Wait) (authz.Receipt, error) {
	l.batches++
	if l.err != nil && l.batches > l.failAt {
		return authz.Receipt{}, l.err
	}
	for i := range rs {
		rs[i].ID = fmt.Sprint(len(l.orders) + 1)
		l.orders = append(l.orders, rs[i])
	}
	return authz.Receipt{Revocations: append([]authz.Revocation(nil), rs...), EnforcedWithin: 30 * time.Second, Committed: time.Unix(1700000000, 0), Published: true}, nil
}

func (l *ledger) List(_ context.Context, f authz.Filter) ([]authz.Revocation, string, error) {
	at := 0
	if f.After != "" {
		fmt.Sscan(f.After, &at)
	}
	end := min(at+min(f.Limit, 2), len(l.orders))
	next := ""
	if end < len(l.orders) {
		next = fmt.Sprint(end)
	}
	return l.orders[at:end], next, nil
}

func parse(b []byte) ([]authz.Revocation, error) {
	var orders []struct{ JTI string }
	if b[0] != '[' {
		b = append(append([]byte{'['}, b...), ']')
	}
	if err := json.Unmarshal(b, &orders); err != nil {
		return nil, err
	}
	var out []authz.Revocation
	for _, o := range orders {
		if o.JTI == "" {
			return nil, errors.New("jti: missing")
		}
		out = append(out, authz.Revocation{Kind: authz.KindJTI, Issuer: "i", Value: o.JTI})
	}
	return out, nil
}

func TestRevokeAllStoresEveryLine(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 999, 1000, 1001, 2500} {
		var in strings.Builder
		for i := range n {
			fmt.Fprintf(&in, "{\"jti\":\"t%d\"}\n\n", i)
		}
		l, out := &ledger{}, &bytes.Buffer{}
		p := Printer{Out: out, Err: &bytes.Buffer{}, JSON: true}
		if err := p.RevokeAll(context.Background(), l, strings.NewReader(in.String()), parse, authz.WaitCommitted); err != nil {
			t.Fatal(err)
		}
		if len(l.orders) != n || l.orders[n-1].Value != fmt.Sprintf("t%d", n-1) {
			t.Errorf("%d ordered, want %d", len(l.orders), n)
		}
		if !strings.Contains(out.String(), fmt.Sprintf(`"stored":%d`, n)) {
			t.Errorf("printed %s", out)
		}
	}
}

// What POST /v1/revocations takes, however it is laid out, and more of it.
func TestRevokeAllLayouts(t *testing.T) {
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
		"an array":                     {`[{"jti":"a"},{"jti":"last"}]`, 2},
		"an array on several lines":    {"[\n  {\n    \"jti\": \"a\"\n  },\n  {\n    \"jti\": \"last\"\n  }\n]\n", 2},
		"an object on several lines":   {"{\n  \"jti\":\r\n \"last\"\n}\n", 1},
		"two objects on a line":        {`{"jti":"a"} {"jti":"last"}`, 2},
		"arrays and objects":           {"[{\"jti\":\"a\"}]\n{\"jti\":\"b\"}\n[]\n[{\"jti\":\"last\"}]", 3},
		"an array of 2 MB on one line": {long.String(), 25_001},
	} {
		l, out := &ledger{}, &bytes.Buffer{}
		p := Printer{Out: out, Err: &bytes.Buffer{}}
		if err := p.RevokeAll(context.Background(), l, strings.NewReader(c.in), parse, authz.WaitEnforced); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(l.orders) != c.count || l.orders[c.count-1].Value != "last" || !strings.Contains(out.String(), fmt.Sprintf("revoked %d,", c.count)) {
			t.Errorf("%s: %d stored, want %d; printed %s", name, len(l.orders), c.count, out)
		}
	}
}

func TestRevokeAllSaysWhereItStopped(t *testing.T) {
	t.Parallel()
	p := Printer{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}}
	for text, want := range map[string]string{
		"":                     "no revocation",
		"[]":                   "no revocation",
		"{\"jti\":\"a\"}\n{":   "line 2: the input ends in the middle",
		"[{\"jti\":\"a\"},\n":  "line 2, [1]: the input ends in the middle",
		"[{\"jti\":\"a\"},{}]": "line 1, [1]: jti: missing",
		"[\n{\"jti\":\"a\"},\n{\"jti\":\"b\"},\n{\n\"jti\":\"\"}]": "line 4, [2]: jti: missing",
		"\n\n{\"jti\":\"\"}":                      "line 3: jti: missing",
		"{\"jti\":\"a\"}\n[{}]":                   "line 2, [0]: jti: missing",
		"[[{\"jti\":\"a\"}]]":                     "line 1, [0]: is an array in an array",
		"{\"jti\":\"a\"\n{\"jti\":\"b\"}":         "line 2: is not well-formed JSON, or what stands before it has no end",
		"{\"jti\":\"a\"}]":                        "line 1: is not well-formed JSON",
		"{\"jti\":\"a\"}\n{\"jti\":\"secret\",,}": "line 2: is not well-formed JSON",
	} {
		l := &ledger{}
		err := p.RevokeAll(context.Background(), l, strings.NewReader(text), parse, authz.WaitCommitted)
		if err == nil || !strings.Contains(err.Error(), want) || len(l.orders) != 0 {
			t.Errorf("%q: %v, %d stored, want %s", text, err, len(l.orders), want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error repeats the input: %v", text, err)
		}
	}
}

func TestRevokeFailureIsNeverSuccess(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{authz.ErrUnavailable, authz.ErrOutcomeUnknown, authz.ErrInvalid} {
		out := &bytes.Buffer{}
		p := Printer{Out: out, Err: &bytes.Buffer{}}
		err := p.Revoke(context.Background(), &ledger{err: cause}, []authz.Revocation{{Kind: authz.KindJTI, Issuer: "i", Value: "v"}}, authz.WaitCommitted)
		if !errors.Is(err, cause) || out.Len() != 0 {
			t.Errorf("%v: %v, printed %q", cause, err, out)
		}
	}
}

func TestListPagesAndNeverPrintsControlBytes(t *testing.T) {
	t.Parallel()
	l := &ledger{}
	for i := range 5 {
		l.orders = append(l.orders, authz.Revocation{ID: fmt.Sprint(i), Kind: authz.KindSub, Issuer: "i", Value: "a\x1b[2J\tb", Reason: "r"})
	}
	for limit, want := range map[int]int{0: 5, 3: 3, 4: 4, 5: 5, 9: 5} {
		out, hint := &bytes.Buffer{}, &bytes.Buffer{}
		p := Printer{Out: out, Err: hint}
		if err := p.List(context.Background(), l, authz.Filter{}, limit); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(out.String(), "\n") - 1; got != want || strings.ContainsRune(out.String(), 0x1b) {
			t.Errorf("limit %d: %d rows, want %d\n%q", limit, got, want, out)
		}
		if said := strings.Contains(hint.String(), "there are more"); said != (want < 5) {
			t.Errorf("limit %d: said %q", limit, hint)
		}
	}
}
