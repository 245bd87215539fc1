package rediscache

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
)

// Limits on a server's replies. go-redis allocates a string or an array as soon as
// its length is announced, and bounds neither nesting nor the length of a line. A
// few bytes from a server in Redis's place, or a long string from anybody who can
// write to the real one, could end the process. The largest replies read here are
// a freshness epoch (12 bytes for each sidecar), the map of a Cluster (one array
// for each range of its 16384 slots) and its list of commands (about eight deep).
const (
	maxReplyLine   = 4 << 10   // bytes of a status, an error or a number
	maxReplyString = 256 << 10 // bytes of one string
	maxReplyArray  = 32 << 10  // members of one array
	maxReplyDepth  = 16        // arrays in arrays
	maxDigits      = 23        // of an announced length
	maxReply       = 4 << 20   // bytes of one whole reply; each member of an array counts as memberSize more
	memberSize     = 16        // bytes that a member of an array costs before it has arrived
)

// replyGuard follows a server's replies (RESP2) as far as needed to see the
// lengths they announce, and fails before go-redis sees one beyond the limits.
// Anything but RESP2 is beyond them, because the client asks for nothing else.
type replyGuard struct {
	payload int                // bytes of a string that are still to come, its line end included
	line    []byte             // the current line so far
	depth   int                // number of incomplete arrays
	members [maxReplyDepth]int // members still to come in each of them
	spent   int                // bytes of maxReply used up
	broken  error              // the first violation; nothing passes after it
}

// pass takes in the next bytes of the stream. On an error, which is permanent,
// the bytes must not be passed on.
func (g *replyGuard) pass(b []byte) error {
	for g.broken == nil && len(b) > 0 {
		if g.payload > 0 {
			n := min(g.payload, len(b))
			b = b[n:]
			if g.payload -= n; g.payload == 0 {
				g.complete()
			}
			continue
		}
		part := b[:cmp.Or(bytes.IndexByte(b, '\n')+1, len(b))] // up to the end of the line
		b = b[len(part):]
		if len(g.line)+len(part) > maxReplyLine {
			g.broken = fmt.Errorf("the server's reply has a line of more than %d bytes", maxReplyLine)
			break
		}
		g.line = append(g.line, part...)
		if part[len(part)-1] == '\n' {
			g.broken = g.announced()
			g.line = g.line[:0]
		}
	}
	return g.broken
}

// announced checks a complete line.
func (g *replyGuard) announced() error {
	text, ok := bytes.CutSuffix(g.line, []byte("\r\n"))
	if !ok || len(text) == 0 {
		return fmt.Errorf("the server's reply is not RESP2: a line does not end in CRLF")
	}
	g.spent += len(g.line)
	switch kind := text[0]; kind {
	case '+', '-', ':':
		g.complete()
	case '$', '*':
		n, limit := replyLength(text[1:]), maxReplyString
		if kind == '*' {
			limit = maxReplyArray
		}
		switch {
		case n < -1:
			return fmt.Errorf("the server's reply is not RESP2: %.24q is not a length", text)
		case n > limit:
			return fmt.Errorf("the server announces a reply of %q; at most %d bytes or members are allowed", text, limit)
		case kind == '$' && n >= 0:
			g.payload = n + 2
			g.spent += g.payload
		case n <= 0: // null or empty
			g.complete()
		case g.depth == maxReplyDepth:
			return fmt.Errorf("the server's reply nests more than %d deep", maxReplyDepth)
		default:
			g.members[g.depth] = n
			g.depth++
			g.spent += n * memberSize
		}
	default:
		return fmt.Errorf("the server's reply is not RESP2: unexpected type %q", kind)
	}
	if g.spent > maxReply {
		return fmt.Errorf("the server's reply is larger than %d bytes", maxReply)
	}
	return nil
}

// replyLength returns an announced length, capped at 2^24; -1 for null; and -2 for
// anything that no server would write.
func replyLength(digits []byte) int {
	if string(digits) == "-1" {
		return -1
	}
	n, err := strconv.ParseUint(string(digits), 10, 64)
	if errors.Is(err, strconv.ErrSyntax) || len(digits) > maxDigits {
		return -2
	}
	return int(min(n, 1<<24))
}

// complete ends a member, and every array whose last member it was.
func (g *replyGuard) complete() {
	for g.depth > 0 {
		if g.members[g.depth-1]--; g.members[g.depth-1] > 0 {
			return
		}
		g.depth--
	}
	g.spent = 0
}

// guardedConn is a connection with a replyGuard on its replies.
type guardedConn struct {
	net.Conn
	guard  replyGuard // used by the one goroutine that reads
	closed atomic.Bool
}

func (c *guardedConn) Read(b []byte) (int, error) {
	if c.guard.broken != nil {
		return 0, c.guard.broken
	}
	n, err := c.Conn.Read(b)
	if broken := c.guard.pass(b[:n]); broken != nil {
		return 0, broken
	}
	return n, err
}

func (c *guardedConn) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

// isClosed reports whether Close was called.
func (c *guardedConn) isClosed() bool { return c.closed.Load() }

// guardedSocket is a guardedConn without TLS. go-redis looks at its socket before
// using it again, to see whether the server has closed it.
type guardedSocket struct {
	*guardedConn
	socket syscall.Conn
}

func (c guardedSocket) SyscallConn() (syscall.RawConn, error) { return c.socket.SyscallConn() }

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// guarded returns dial with a guard on every connection.
func guarded(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		g := &guardedConn{Conn: conn}
		if socket, ok := conn.(syscall.Conn); ok {
			return guardedSocket{g, socket}, nil
		}
		return g, nil
	}
}
