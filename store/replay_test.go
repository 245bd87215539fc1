package store_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/store"
	"jwtbouncer/test/harness"
)

// replayer is a pooler gone wrong: it answers every question about changes, and
// every function call, after the first with the first one's answer.
type replayer struct {
	listener net.Listener
	upstream string
	noCalls  atomic.Bool // a function call ends the connection
	wg       sync.WaitGroup
	queries  atomic.Int64

	mu     sync.Mutex
	answer []byte
}

func newReplayer(t testing.TB, upstream string) *replayer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &replayer{listener: l, upstream: upstream}
	r.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() { r.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); r.wg.Wait() })
	return r
}

func (r *replayer) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", r.upstream)
	if err != nil {
		return
	}
	defer server.Close()
	if relay(client, server, 0) != nil { // the startup message has no type
		return
	}
	for relay(server, client, 1) == nil {
		break
	}
	if !r.untilReady(server, client, nil) {
		return
	}
	for {
		head, body, err := message(client)
		if err != nil {
			return
		}
		if head[0] == 'Q' {
			r.queries.Add(1)
		}
		if head[0] == 'F' && r.noCalls.Load() {
			return
		}
		question := head[0] == 'F' || head[0] == 'Q' && bytes.Contains(body, []byte("authz.changes"))
		r.mu.Lock()
		answer := r.answer
		r.mu.Unlock()
		if question && answer != nil {
			if _, err := client.Write(answer); err != nil {
				return
			}
			continue
		}
		if _, err := server.Write(append(head, body...)); err != nil || head[0] == 'X' {
			return
		}
		var kept bytes.Buffer
		if !r.untilReady(server, client, &kept) {
			return
		}
		if question {
			r.mu.Lock()
			r.answer = kept.Bytes()
			r.mu.Unlock()
		}
	}
}

// untilReady relays the server's messages up to ReadyForQuery.
func (*replayer) untilReady(server, client net.Conn, kept *bytes.Buffer) bool {
	for {
		head, body, err := message(server)
		if err != nil {
			return false
		}
		if kept != nil {
			kept.Write(head)
			kept.Write(body)
		}
		if _, err := client.Write(append(head, body...)); err != nil {
			return false
		}
		if head[0] == 'Z' {
			return true
		}
	}
}

func message(c io.Reader) (head, body []byte, err error) {
	head = make([]byte, 5)
	if _, err := io.ReadFull(c, head); err != nil {
		return nil, nil, err
	}
	body = make([]byte, binary.BigEndian.Uint32(head[1:])-4)
	_, err = io.ReadFull(c, body)
	return head, body, err
}

// relay copies one message whose length stands after typed bytes.
func relay(from, to net.Conn, typed int) error {
	head := make([]byte, typed+4)
	if _, err := io.ReadFull(from, head); err != nil {
		return err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[typed:])-4)
	if _, err := io.ReadFull(from, body); err != nil {
		return err
	}
	if _, err := to.Write(head); err != nil {
		return err
	}
	_, err := to.Write(body)
	return err
}

// The answer to an earlier question proves nothing, however complete it looks.
func TestReusedAnswer(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	open(t, pg.URL, store.Options{})
	r := newReplayer(t, pg.Addr)
	s := openOnly(t, pg.Via(r.listener.Addr().String()), store.Options{})
	snap, err := s.Changes(t.Context(), authz.Position{}, "first", func(authz.Row) {})
	require.NoErrorf(t, err, "%+v", snap)
	require.Truef(t, snap.Proves, "%+v, %v", snap, err)
	require.Equalf(t, "first", snap.Nonce, "%+v, %v", snap, err)
	for range 2 {
		snap, err = s.Changes(t.Context(), authz.Position{}, "second", func(authz.Row) {})
		if assert.NoErrorf(t, err, "%+v", snap) {
			if assert.Falsef(t, snap.Proves, "%+v, %v", snap, err) {
				assert.Equalf(t, "first", snap.Nonce, "%+v, %v", snap, err)
			}
		}
	}
	assert.NoError(t, s.Close())
}

// A revocation with its receipt is one round trip.
func TestRevokeIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	pg := harness.Postgres(t)
	open(t, pg.URL, store.Options{})
	r := newReplayer(t, pg.Addr)
	s := openOnly(t, pg.Via(r.listener.Addr().String()), store.Options{})
	revoker := authz.NewRevoker(s, nil, authz.SystemClock{})
	for i := range 3 {
		before := r.queries.Load()
		rec, err := revoker.Revoke(t.Context(), []authz.Revocation{jti(string(rune('a' + i)))})
		require.NoErrorf(t, err, "%+v", rec)
		require.Equalf(t, 30*time.Second, rec.EnforcedWithin, "%+v, %v", rec, err)
		n := r.queries.Load() - before
		assert.Equalf(t, int64(1), n, "%d round trips", n)
	}
	assert.NoError(t, s.Close())
}
