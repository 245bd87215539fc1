package authz

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestCheckUserinfo(t *testing.T) {
	t.Parallel()
	for raw, cut := range map[string]bool{
		"postgres://u@h/db":                       false,
		"postgres://u:p@h1:5432,h2:5433/db?a=b@c": false,
		"postgres://u:S3cr%40et%2FPw%23@h/db":     false,
		"postgres://h/db?user=me@tenant":          false,
		"postgres://u@[::1]:5432/db":              false,
		"unix:///run/redis@1.sock":                false,
		"sqlite:///var/lib/a@b.db":                false,
		"redis://:p@h:1/0":                        false,
		"postgres://app:S3cr@et/Pw#rd@h:1/db":     true,
		"postgres://app:Se@cret@h:1/db":           true,
		"postgres://app:S3/cr@h/db":               true,
		"postgres://app:12/cr@h/db":               true,
		"postgres://app:12?cr@h/db":               true,
		"postgres://app:12#cr@h/db":               true,
		"postgres://app@S3cret/x@h/db":            true,
		"redis://:Top@sec#ret@h:1/0":              true,
		"redis://:Top#secret@h:1/0":               true,
		"redis://:/secret@h:1/0":                  true,
		"postgres://u@h/db#":                      true,
		"postgres://u:p@h1,h2@x/db":               true,
		"":                                        false,
		"nonsense":                                false,
	} {
		assert.Equal(t, cut, CheckUserinfo(raw) != nil, raw)
	}
}

func TestQuoteURL(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"https://h/a":       `"https://h/a"`,
		"https://u:p@h/a":   `"https://"…`,
		"https://u:p/x@h/a": `"https://"…`,
		"u:p@h":             "the given value",
	} {
		assert.Equal(t, want, QuoteURL(raw))
	}
}
