package authz

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestQuoteShort(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a":                           `"a"`,
		"a\r\nb\x00\x1b[0m\u202e":     `"a\r\nb\x00\x1b[0m\u202e"`,
		strings.Repeat("é", 40):       fmt.Sprintf(`"%s"…`, strings.Repeat(`\u00e9`, 32)),
		strings.Repeat("x", 63) + "é": `"` + strings.Repeat("x", 63) + `"…`,
		strings.Repeat("\xff", 100):   `"` + strings.Repeat(`\xff`, 64) + `"…`,
	} {
		assert.Equalf(t, want, QuoteShort(text), "%q", text)
	}
}
