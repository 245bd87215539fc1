package wire

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestExactFloat(t *testing.T) {
	t.Parallel()
	for s, exact := range map[string]bool{"0": true, "-1": true, "9007199254740992": true, "9007199254740993": false, "1.5": true, "1e400": false, "x": false, "123456789012345678901234567890": false} {
		f, ok := exactFloat(s)
		assert.Equal(t, exact, ok, s)
		assert.False(t, math.IsInf(f, 0) && ok, s)
	}
}
