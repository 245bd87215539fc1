package httpapi_test

import (
	"context"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/httpapitest"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestServeDrains(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	s := httpapi.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		_, _ = w.Write([]byte("whole"))
	}), httpapi.DefaultConfig(), httpapitest.New(t, nil).Setup.Logger)
	for _, d := range []time.Duration{s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout, s.IdleTimeout} {
		assert.Positive(t, d)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- httpapi.Serve(ctx, s, l, 10*time.Second) }()
	got := make(chan int, 1)
	go func() {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + l.Addr().String() + "/")
		if err != nil {
			got <- 0
			return
		}
		_ = resp.Body.Close()
		got <- resp.StatusCode
	}()
	<-entered
	stop()
	close(release)
	assert.Equal(t, 200, <-got, "what is in flight is answered")
	require.NoError(t, <-served)
}

func TestSlowBodyIsCut(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, nil)
	c := httpapi.DefaultConfig()
	c.ReadTimeout = 100 * time.Millisecond
	s := httpapi.NewServer(b.API, c, b.Setup.Logger)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- httpapi.Serve(ctx, s, l, time.Second) }()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	_, err = conn.Write([]byte("POST /v1/revocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"jti\""))
	require.NoError(t, err)
	answer := make([]byte, 4096)
	n, err := conn.Read(answer) // ends only because the server gives up
	require.NoError(t, err)
	assert.Contains(t, string(answer[:n]), "400 Bad Request")
	require.NoError(t, conn.Close())
	stop()
	require.NoError(t, <-served)
	assert.Empty(t, b.Ledger.All())
}
