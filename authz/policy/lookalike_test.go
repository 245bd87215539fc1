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
		if got := lookalike(r); ascii != got && (ascii || norm.NFKC.IsNormalString(string(r)) && !unicode.In(r, unicode.C, unicode.Z) && r != utf8.RuneError && !strings.ContainsRune("\u2044\u2215\u29f8\u2216\u29f5", r)) {
			t.Errorf("%U: lookalike %v, NFKC has ASCII: %v", r, got, ascii)
		}
	}
}

// Anyone can send a path of such characters, before any token is looked at.
func TestLookalikesCostLittle(t *testing.T) {
	for _, c := range []string{"\u00e9", "\u4e2d", "\uac00", "\uf900", "\u212b", "\uff71"} {
		runes := []rune(strings.Repeat(c, 1000))
		allocs := testing.AllocsPerRun(3, func() {
			for _, r := range runes {
				lookalike(r)
			}
		})
		assert.LessOrEqual(t, allocs, 1000.0, "%q", c)
	}
}
