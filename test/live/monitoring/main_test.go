package monitoring

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

var images = flag.String("images", "", "directory into which the pictures of the documentation are written; empty means none")

func TestMain(m *testing.M) { harness.Main(m) }

// live returns the path of a program in .tools/live.
func live(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(harness.Root(), ".tools", "live", name)
	_, err := os.Stat(path)
	require.NoError(t, err, "run make test-live-monitoring, which installs it")
	return path
}

// read returns the text of a file of the repository.
func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(harness.Root(), name))
	require.NoError(t, err)
	return string(text)
}

// picture writes a picture of the documentation, if the flag -images asks for it.
func picture(t *testing.T, name, svg string) {
	t.Helper()
	if *images != "" {
		require.NoError(t, os.WriteFile(filepath.Join(*images, name), []byte(svg), 0o644))
	}
}
