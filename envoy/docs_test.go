package envoy

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The documentation states the deadline of the code.
func TestDocumentedDeadline(t *testing.T) {
	t.Parallel()
	for _, page := range []string{"design", "envoy", "headers", "how-it-fails"} {
		text, err := os.ReadFile("../docs/" + page + ".md")
		require.NoError(t, err)
		assert.Contains(t, string(text), fmt.Sprintf("%d ms", checkTime.Milliseconds()), page)
	}
}
