package harness

import (
	"encoding/json"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// UpstreamServer is the service behind Envoy. It responds with 200 and the
// request as JSON.
type UpstreamServer struct {
	Addr  string
	Calls atomic.Int64
}

// Seen is a request as the upstream received it.
type Seen struct {
	Method, Host, Path string
	Header             http.Header
}

// Upstream starts an UpstreamServer.
func Upstream(t testing.TB) *UpstreamServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	u := &UpstreamServer{Addr: l.Addr().String()}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.Calls.Add(1)
		w.Header().Set("X-From-Upstream", "1")
		_ = json.NewEncoder(w).Encode(Seen{r.Method, r.Host, r.RequestURI, r.Header})
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return u
}
