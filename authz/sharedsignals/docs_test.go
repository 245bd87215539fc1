package sharedsignals

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDocsNameEveryEvent(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/api.md")
	require.NoError(t, err)
	for uri := range effects {
		assert.Contains(t, string(text), "`"+eventName(uri)+"`")
	}
}
