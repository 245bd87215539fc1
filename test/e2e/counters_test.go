package e2e

import (
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

var statementLine = regexp.MustCompile(`LOG:  (statement:|execute |fastpath function call:)`)

// statements counts the SQL statements in the server's log (log_statement = all).
func statements(r *harness.Rig) int {
	return len(statementLine.FindAllString(r.PG.Log(), -1))
}

var processed = regexp.MustCompile(`total_commands_processed:(\d+)`)

var synced = regexp.MustCompile(`(?m)^jwt_bouncer_replica_syncs_total\{result="ok"\} (\d+)$`)

// syncs returns the number of syncs that have ended well.
func syncs(t *testing.T, r *harness.Rig) int {
	t.Helper()
	m := synced.FindStringSubmatch(r.Bouncer.Metrics(t))
	require.NotNil(t, m, "no syncs are counted")
	n, _ := strconv.Atoi(m[1])
	return n
}

// redisCalls returns the number of commands that Redis has processed.
func redisCalls(t *testing.T, r *harness.Rig) int {
	t.Helper()
	info, _ := r.Redis.Do(t, "INFO", "stats").(string)
	m := processed.FindStringSubmatch(info)
	require.NotNilf(t, m, "no total_commands_processed in %q", info)
	n, _ := strconv.Atoi(m[1])
	return n
}
