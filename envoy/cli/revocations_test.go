package cli

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
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
		require.NoError(t, p.list(t.Context(), l, authz.Filter{}, limit, outputFlag{}))
		got := strings.Count(out.String(), "\n") - 1
		assert.Equalf(t, want, got, "limit %d: rows\n%q", limit, out)
		assert.Falsef(t, strings.ContainsRune(out.String(), 0x1b), "limit %d: %d rows, want %d\n%q", limit, got, want, out)
		assert.Equalf(t, want < 5, strings.Contains(hint.String(), "there are more"), "limit %d: said %q", limit, hint)
	}
}
