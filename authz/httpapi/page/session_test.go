package page

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestSessionsAreBounded(t *testing.T) {
	t.Parallel()
	s := newSessions()
	for range maxSessions + 5 {
		s.start("x", "correct-horse-battery", time.Now(), true)
	}
	assert.LessOrEqual(t, len(s.open), maxSessions)
}
