package rediscache

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// pieces is a connection that delivers text in pieces of the given size (0:
// random sizes) and then ends.
type pieces struct {
	net.Conn
	text string
	size int
	rng  *rand.Rand
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.text == "" {
		return 0, io.EOF
	}
	n := p.size
	if n == 0 {
		n = 1 + p.rng.IntN(1+p.rng.IntN(5000))
	}
	n = copy(b[:min(n, len(b))], p.text)
	p.text = p.text[n:]
	return n, nil
}

// through returns the part of text that the guard passes on, and its error.
func through(text string, size int) (string, *replyGuard, error) {
	c := &guardedConn{Conn: &pieces{text: text, size: size, rng: rand.New(rand.NewPCG(1, uint64(len(text))))}}
	var out bytes.Buffer
	_, err := io.Copy(&out, struct{ io.Reader }{c})
	return out.String(), &c.guard, err
}

// sizes of pieces; 0 means random.
var sizes = []int{1, 2, 3, 5, 7, 23, 0, 0, 4096, 1 << 30}

func TestReplyGuard(t *testing.T) {
	t.Parallel()
	nested := func(n int) string { return strings.Repeat("*1\r\n", n) + ":1\r\n" }
	for _, c := range []struct {
		name, reply string
		want        string // part of the error; empty: none
	}{
		{"status", "+OK\r\n", ""},
		{"no text", "+\r\n", ""},
		{"error", "-ERR unknown command 'x'\r\n", ""},
		{"number", ":-12\r\n", ""},
		{"string", "$5\r\nhello\r\n", ""},
		{"empty string", "$0\r\n\r\n", ""},
		{"no string", "$-1\r\n", ""},
		{"array", "*3\r\n:1\r\n$-1\r\n*2\r\n+a\r\n$1\r\nb\r\n", ""},
		{"empty array", "*0\r\n", ""},
		{"no array", "*-1\r\n", ""},
		{"string that contains replies", bulk("*4611686018427387904\r\n$99999999999\r\n%1\r\n\x00\n\n\n\n\r\n"), ""},
		{"longest string", bulk(strings.Repeat("\n", maxReplyString)), ""},
		{"longest array", fmt.Sprintf("*%d\r\n", maxReplyArray) + strings.Repeat(":1\r\n", maxReplyArray), ""},
		{"deepest array", nested(maxReplyDepth), ""},
		{"longest line", "+" + strings.Repeat("x", maxReplyLine-3) + "\r\n", ""},
		{"many replies", strings.Repeat(bulk(strings.Repeat("x", 100_000)), 2*maxReply/100_000), ""},

		{"string too long", fmt.Sprintf("$%d\r\n", maxReplyString+1), "262145"},
		{"impossible string", "$99999999999\r\n", "at most"},
		{"number wraps around", "$18446744073709551617\r\nx", "at most"},
		{"array too long", fmt.Sprintf("*%d\r\n", maxReplyArray+1), "32769"},
		{"impossible array", "*4611686018427387904\r\n", "at most"},
		{"within an array", "*2\r\n+OK\r\n*2000000000\r\n", "at most"},
		{"after a string", "$2\r\nhi\r\n*2000000000\r\n", "at most"},
		{"negative", "*-2\r\n", "not a length"},
		{"signed", "$+1\r\n", "not a length"},
		{"no digits", "$\r\n", "not a length"},
		{"not digits", "$0x10\r\n", "not a length"},
		{"long number", "*" + strings.Repeat("0", 50) + "1\r\n", "not a length"},
		{"too deep", nested(maxReplyDepth + 1), "deep"},
		{"line too long", "+" + strings.Repeat("x", maxReplyLine) + "\r\n", "a line of more"},
		{"line without end", strings.Repeat("x", maxReplyLine+1), "a line of more"},
		{"line ends in \\n", "+OK\n", "CRLF"},
		{"empty line", "\r\n", "CRLF"},
		{"many long strings", "*100\r\n" + strings.Repeat(bulk(strings.Repeat("x", maxReplyString)), 100), "larger than"},
		{"arrays of arrays", strings.Repeat(fmt.Sprintf("*%d\r\n", maxReplyArray), maxReplyDepth), "larger than"},
		{"another protocol", "HTTP/1.1 200 OK\r\n\r\n", "not RESP2"},
		{"map", "%1\r\n+a\r\n+b\r\n", "not RESP2"},
		{"set", "~1\r\n+a\r\n", "not RESP2"},
		{"push", ">1\r\n+a\r\n", "not RESP2"},
		{"attribute", "|0\r\n+OK\r\n", "not RESP2"},
		{"verbatim string", "=99999999999\r\n", "not RESP2"},
		{"long error", "!99999999999\r\n", "not RESP2"},
		{"large number", "(12\r\n", "not RESP2"},
		{"stream", "$?\r\n", "not a length"},
		{"nothing", "_\r\n", "not RESP2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, size := range sizes {
				out, g, err := through(c.reply+"+OK\r\n", size)
				if c.want == "" {
					require.NoError(t, err)
					require.Equal(t, c.reply+"+OK\r\n", out)
					require.Zero(t, g.depth+g.spent+len(g.line)+g.payload, "the reply is complete")
					continue
				}
				require.ErrorContains(t, err, c.want)
				require.True(t, strings.HasPrefix(c.reply, out), "a prefix is passed on")
				require.NotEqual(t, c.reply, out, "the violation is not passed on")
				require.Equal(t, err, g.pass([]byte("+OK\r\n")), "the error is permanent")
			}
		})
	}
}

// Every reply of a real server passes unchanged, to commands of this package and
// to many others.
func TestReplyGuardPassesRealReplies(t *testing.T) {
	t.Parallel()
	single := harness.Redis(t)
	cluster := harness.RedisCluster(t, 3, 1)
	bomb := "*4611686018427387904\r\n$99999999999\r\n"
	commands := [][]any{
		{"HELLO", 2}, {"PING"}, {"PING", bomb}, {"COMMAND"}, {"INFO", "everything"}, {"CLIENT", "LIST"}, {"CONFIG", "GET", "*"}, {"CLUSTER", "SLOTS"}, {"CLUSTER", "SHARDS"}, {"CLUSTER", "NODES"},
		{"NO SUCH COMMAND", bomb}, {"SET", "k", bomb}, {"GET", "k"}, {"GET", "missing"}, {"MGET", "k"}, {"SET", "k", strings.Repeat("\r\n", maxReplyString/2)}, {"GET", "k"}, {"STRLEN", "k"},
		{"LPUSH", "l", bomb, "", "\r\n", "$"}, {"LRANGE", "l", 0, -1}, {"LRANGE", "missing", 0, -1}, {"GET", "l"}, {"HSET", "h", "a", "b"}, {"HGETALL", "h"}, {"ZADD", "z", 1.5, "a"}, {"ZRANGE", "z", 0, -1, "WITHSCORES"},
		{"EVAL", "return {1, {2, {3, {'x', false, {}}}}, redis.status_reply('s'), redis.error_reply('E x')}", 0}, {"EVAL", "return {}", 0}, {"EVAL", "return false", 0}, {"EVAL", "error('x')", 0}, {"EVALSHA", "x", 0},
		{"SUBSCRIBE", "c"}, {"UNSUBSCRIBE", "c"}, {"PING", "the end"},
	}
	for name, addr := range map[string]string{"standalone": single.Addr, "cluster": cluster.Addrs[0]} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			recorded := converse(t, addr, commands)
			require.Greater(t, len(recorded), 100_000)
			for _, size := range sizes {
				out, g, err := through(recorded, size)
				require.NoError(t, err)
				require.True(t, out == recorded)
				require.Zero(t, g.depth+g.spent+len(g.line)+g.payload, "the guard is in step")
			}
		})
	}
}

// converse sends the commands and returns the raw replies. The last command must
// be a PING with a text.
func converse(t *testing.T, addr string, commands [][]any) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	go func() {
		for _, command := range commands {
			text := fmt.Sprintf("*%d\r\n", len(command))
			for _, arg := range command {
				text += bulk(fmt.Sprint(arg))
			}
			_, _ = io.WriteString(c, text)
		}
	}()
	var got bytes.Buffer
	last := bulk(fmt.Sprint(commands[len(commands)-1][1]))
	buf := make([]byte, 1<<16)
	for !strings.HasSuffix(got.String(), last) {
		n, err := c.Read(buf)
		require.NoError(t, err)
		got.Write(buf[:n])
	}
	return got.String()
}

func TestReplyGuardAllocatesNothing(t *testing.T) {
	reply := []byte("*3\r\n$6\r\nalways\r\n$-1\r\n*2\r\n:1\r\n+OK\r\n")
	var g replyGuard
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = g.pass(reply) }))
	require.NoError(t, g.broken)
}

// A connection that the server has closed is noticed before it is used again:
// go-redis looks at the socket behind the guard.
func TestGuardedConnectionsShowTheirSocket(t *testing.T) {
	t.Parallel()
	s := harness.Redis(t)
	r := open(t, func(c *Config, o *Options) { c.Addrs, o.Fill = []string{s.Addr}, false })
	for range 20 {
		require.NoError(t, r.client.Ping(t.Context()).Err())
		s.Do(t, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		_, err := r.Lookup(context.Background(), ptr(tokenOf("x", 1)))
		require.NoError(t, err)
	}
}

func BenchmarkReplyGuard(b *testing.B) {
	reply := []byte("*8\r\n" + strings.Repeat("$-1\r\n", 7) + bulk(strings.Repeat("x", 32)))
	var g replyGuard
	b.ReportAllocs()
	for b.Loop() {
		if g.pass(reply) != nil {
			b.Fatal(g.broken)
		}
	}
}

// readReply reads a whole reply in the simplest way, with recursion.
func readReply(in *bufio.Reader, depth int, spent *int) error {
	bad := fmt.Errorf("bad")
	line := ""
	for !strings.HasSuffix(line, "\n") {
		c, err := in.ReadByte()
		if err != nil {
			return err
		}
		if line += string([]byte{c}); len(line) > maxReplyLine {
			return bad
		}
	}
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return bad
	}
	*spent += len(line)
	kind, text := line[0], line[1:len(line)-2]
	n := -1
	if kind == '$' || kind == '*' {
		u, err := strconv.ParseUint(text, 10, 62)
		switch {
		case text == "-1":
		case err != nil || len(text) > 23:
			return bad
		default:
			n = int(min(u, 1<<40))
		}
	}
	switch {
	case strings.IndexByte("+-:$*", kind) < 0, kind == '$' && n > maxReplyString, kind == '*' && n > maxReplyArray, kind == '*' && n > 0 && depth == maxReplyDepth:
		return bad
	case kind == '$' && n >= 0:
		*spent += n + 2
	case kind == '*' && n > 0:
		*spent += n * memberSize
	}
	if *spent > maxReply {
		return bad
	}
	switch {
	case kind == '$' && n >= 0:
		_, err := in.Discard(n + 2)
		return err
	case kind == '*':
		for range n {
			if err := readReply(in, depth+1, spent); err != nil {
				return err
			}
		}
	}
	return nil
}

// The guard fails exactly where a simple reader of replies does, however the
// stream is cut into pieces, and passes everything else on unchanged.
func FuzzReplyGuard(f *testing.F) {
	for _, reply := range odd {
		if len(reply) < 1000 {
			f.Add(reply+"*2\r\n$3\r\na\nb\r\n:1\r\n", uint8(3))
		}
	}
	f.Fuzz(func(t *testing.T, stream string, size uint8) {
		in := bufio.NewReader(strings.NewReader(stream))
		var want error
		for want == nil {
			spent := 0
			want = readReply(in, 0, &spent)
		}
		out, g, err := through(stream, int(size))
		require.Equalf(t, err != nil, !errors.Is(want, io.EOF), "%q: %v, want %v", stream, err, want)
		require.Falsef(t, err == nil && out != stream || !strings.HasPrefix(stream, out), "%q became %q", stream, out)
		if err == nil {
			require.NoError(t, g.broken)
		}
	})
}
