package cli

import (
	"bytes"
	"fmt"
	"jwtbouncer/authz"
	"strings"
	"testing"
)

func TestListPagesAndNeverPrintsControlBytes(t *testing.T) {
	t.Parallel()
	l := &fakeLedger{}
	for i := range 5 {
		l.stored = append(l.stored, authz.Revocation{ID: fmt.Sprint(i), Kind: authz.KindSub, Issuer: "i", Value: "a\x1b[2J\tb", Reason: "r"})
	}
	for limit, want := range map[int]int{0: 5, 3: 3, 4: 4, 5: 5, 9: 5} {
		out, hint := &bytes.Buffer{}, &bytes.Buffer{}
		p := &Process{Out: out, Err: hint}
		if err := p.list(t.Context(), l, authz.Filter{}, limit, false); err != nil {
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
