package receiver

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestSeenIsBounded(t *testing.T) {
	t.Parallel()
	r := newSeen(time.Minute)
	start := time.Now()
	for i := range maxSeen + 10 {
		r.add(messageID("i", fmt.Sprint(i)), start)
	}
	assert.Len(t, r.ids, maxSeen)
	assert.Len(t, r.queue, maxSeen)
	assert.False(t, r.has(messageID("i", "0"), start))
	assert.True(t, r.has(messageID("i", "10"), start))
	assert.False(t, r.has(messageID("i", "10"), start.Add(2*time.Minute)))
	assert.Empty(t, r.ids)
}
