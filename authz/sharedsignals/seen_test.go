package sharedsignals

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestSeenIsBounded(t *testing.T) {
	t.Parallel()
	r := NewSeen(time.Minute)
	start := time.Now()
	for i := range maxSeen + 10 {
		r.Add(MessageID("i", fmt.Sprint(i)), start)
	}
	assert.Len(t, r.ids, maxSeen)
	assert.Len(t, r.queue, maxSeen)
	assert.False(t, r.Has(MessageID("i", "0"), start))
	assert.True(t, r.Has(MessageID("i", "10"), start))
	assert.False(t, r.Has(MessageID("i", "10"), start.Add(2*time.Minute)))
	assert.Empty(t, r.ids)
}
