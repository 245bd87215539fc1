package filter_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/envoy/filter"
)

// A program that is no Envoy is refused, and loaded only on demand. test/e2e has the
// Envoys.
func TestCheckABI(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	v, err := filter.CheckABI(self, false)
	require.ErrorContains(t, err, filter.UntestedVariable)
	assert.Empty(t, v)
	v, err = filter.CheckABI(self, true)
	require.Error(t, err)
	assert.Equal(t, filter.TestedABIs()[len(filter.TestedABIs())-1].Version, v)
	_, err = filter.CheckABI("/nonexistent", false)
	assert.Error(t, err)
}
