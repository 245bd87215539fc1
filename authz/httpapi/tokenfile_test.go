package httpapi_test

import (
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/httpapitest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAPITokenFileFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, says string }{
		"empty":      {"", "holds no token"},
		"comments":   {"# nothing\n", "holds no token"},
		"short":      {"name fifteen-charact", "15 characters"},
		"three":      {"a b cccccccccccccccccccccc", "NAME TOKEN"},
		"not ASCII":  {"päßword-päßword-päßword", "ASCII"},
		"control":    {"abcdefgh\x01abcdefghij", "ASCII"},
		"very large": {strings.Repeat("#", httpapi.MaxSecretFile+1), "larger"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := httpapi.OpenTokenFile(httpapitest.SecretFile(t, c.text))
			require.ErrorContains(t, err, c.says)
			assert.NotContains(t, err.Error(), "cccc")
		})
	}
	_, err := httpapi.OpenTokenFile(filepath.Join(t.TempDir(), "none"))
	require.Error(t, err)
}
