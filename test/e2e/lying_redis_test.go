package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// TestLyingRedis puts a server in Redis's place that accepts connections and
// then announces impossible lengths or sends unexpected replies. The sidecar
// keeps running, its memory stays small, and other tiers answer the checks.
func TestLyingRedis(t *testing.T) {
	t.Parallel()
	for _, lookup := range []bool{false, true} {
		for name, reply := range map[string]string{
			"impossible array": "*4611686018427387904\r\n", "impossible number": ":4611686018427387904\r\n", "huge array": "*2000000000\r\n", "huge string": "$99999999999\r\n",
			"endless depth": strings.Repeat("*1\r\n", 1<<20), "endless line": strings.Repeat("x", 16<<20), "empty array": "*0\r\n",
		} {
			t.Run(fmt.Sprintf("%s, lookup=%v", name, lookup), func(t *testing.T) {
				t.Parallel()
				r := harness.NewRig(t, harness.RigOptions{RedisURL: "redis://" + liar(t, reply), Lookup: lookup, NoFront: !harness.ThroughModule()})
				check := checkThrough(t, r)
				token := r.Token(nil)
				passed := 0
				for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
					v := check(token)
					if v.Status == http.StatusOK {
						passed++
					} else if v.Status != http.StatusServiceUnavailable || v.Took < 150*time.Millisecond { // 503 is accepted only at the deadline
						t.Fatalf("%+v", v)
					}
				}
				assert.NotZero(t, passed, "no check was allowed")
				assert.NoError(t, r.Bouncer.Live(t.Context()), "the sidecar is not alive")
				peak := peakMemory(t, r.Bouncer.PID())
				assert.LessOrEqualf(t, peak, int64(512<<20), "the sidecar's peak memory is %d MiB, want at most 512", peak>>20)
			})
		}
	}
}

// checkThrough returns a check of a token: over gRPC, or with a request to an Envoy with
// the module.
func checkThrough(t *testing.T, r *harness.Rig) func(token string) harness.Answer {
	t.Helper()
	if r.Front == nil {
		c := harness.NewChecker(t, r.Bouncer.GRPC)
		return func(token string) harness.Answer { return c.Check(t.Context(), token) }
	}
	return func(token string) harness.Answer {
		start := time.Now()
		reply := r.Front.Bearer(t, token)
		return harness.Answer{Status: reply.Status, Took: time.Since(start)}
	}
}

// liar starts a server that accepts connections as Redis does and answers every
// command with reply. It returns the server's address.
func liar(t *testing.T, reply string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := bufio.NewReader(c)
				for {
					line, err := in.ReadString('\n')
					if err != nil {
						return
					}
					answer := ""
					switch strings.ToLower(strings.TrimSpace(line)) {
					case "hello":
						answer = "-ERR unknown command\r\n"
					case "client", "select":
						answer = "+OK\r\n"
					case "mget", "eval", "evalsha", "subscribe", "publish", "set":
						answer = reply
					}
					if _, err := io.WriteString(c, answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// peakMemory returns the process's peak resident memory in bytes.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	line, _, _ := strings.Cut(rest, "kB")
	kb, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	require.NoError(t, err)
	return kb << 10
}
