package sharedsignals

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDocsNameEveryEvent(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/api.md")
	require.NoError(t, err)
	for uri := range effects {
		assert.True(t, strings.Contains(string(text), "`"+eventName(uri)+"`"), uri)
	}
}
