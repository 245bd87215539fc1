package policy

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"golang.org/x/text/unicode/norm"
)

// Every character that a server may turn into ASCII is a lookalike, and no other
// that compatibility normalisation leaves alone.
func TestLookalikes(t *testing.T) {
	t.Parallel()
	for r := rune(utf8.RuneSelf); r <= unicode.MaxRune; r++ {
		ascii := strings.ContainsFunc(norm.NFKC.String(string(r)), func(c rune) bool { return c < utf8.RuneSelf })
		if got := lookalike(r); ascii != got && (ascii || norm.NFKC.IsNormalString(string(r)) && !unicode.In(r, unicode.C, unicode.Z) && r != utf8.RuneError && !strings.ContainsRune("⁄∕⧸∖⧵", r)) {
			t.Errorf("%U: lookalike %v, NFKC has ASCII: %v", r, got, ascii)
		}
	}
}

// Anyone can send a path of such characters, before any token is looked at.
func TestLookalikesCostLittle(t *testing.T) {
	for _, c := range []string{"é", "中", "가", "豈", "Å", "ｱ"} {
		runes := []rune(strings.Repeat(c, 1000))
		allocs := testing.AllocsPerRun(3, func() {
			for _, r := range runes {
				lookalike(r)
			}
		})
		assert.LessOrEqual(t, allocs, 1000.0, "%s", c)
	}
}
