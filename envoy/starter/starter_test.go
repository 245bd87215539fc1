package starter

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The demo's docker-compose.yml has the same template as the one that init writes.
func TestDemoComposeFileIsCurrent(t *testing.T) {
	t.Parallel()
	got, err := composeFile{Demo: true, Listen: "127.0.0.1:8080"}.render()
	require.NoError(t, err)
	const file = "../../docker-compose.yml"
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(file, got, 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Emptyf(t, cmp.Diff(string(want), string(got)), "%s differs from compose.yaml.tmpl; run with UPDATE=1 and review the difference", file)
}
