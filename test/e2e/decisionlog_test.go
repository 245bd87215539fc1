package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// A record of the decision log names the request as Envoy's access log and the
// upstream do, by x-request-id.
func TestDecisionLogJoinsEnvoysAccessLog(t *testing.T) {
	t.Parallel()
	r := harness.NewRig(t, harness.RigOptions{Config: "decision_log: {decisions: all}\n"})
	reply := r.Front.Bearer(t, r.Token(nil))
	require.Equal(t, 200, reply.Status, reply.Body)
	var seen harness.Seen
	require.NoError(t, json.Unmarshal([]byte(reply.Body), &seen))
	id := seen.Header.Get("x-request-id")
	require.NotEmpty(t, id)

	var record struct {
		RequestID string   `json:"request_id"`
		Took      *float64 `json:"took_ms"`
	}
	harness.Eventually(t, 10*time.Second, "a record of the decision", func(context.Context) error {
		for line := range strings.Lines(r.Bouncer.Log()) {
			if strings.Contains(line, `"msg":"decision"`) {
				return json.Unmarshal([]byte(line), &record)
			}
		}
		return fmt.Errorf("no decision in the log: %s", r.Bouncer.Log())
	})
	assert.Equal(t, id, record.RequestID)
	assert.NotNil(t, record.Took, "took_ms")
}
