package envoy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"jwtbouncer/authz"
	"jwtbouncer/authz/policy"
)

// bytesCodec lets a client send any bytes.
type bytesCodec struct{}

var _ encoding.CodecV2 = bytesCodec{}

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, _ := v.(*[]byte)
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, _ := v.(*[]byte)
	*b = data.Materialize()
	return nil
}

func (bytesCodec) Name() string { return "proto" }

const method = "/" + serviceName + "/Check"

func allowAll() deciderFunc {
	return decide(authz.Decision{Reason: authz.ReasonAllowedAnonymous})
}

func TestGarbageIsDenied(t *testing.T) {
	t.Parallel()
	r := run(t, allowAll(), testConfig(), Options{})
	full := marshal(t, checkRequest(map[string]string{":method": "GET", ":path": "/x", "authorization": "Bearer abc", "accept": strings.Repeat("a", 300)}))
	for name, message := range map[string][]byte{
		"empty":             {},
		"empty attributes":  {0x0a, 0x00},
		"no HTTP request":   marshal(t, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Source: &authv3.AttributeContext_Peer{}}}),
		"no method":         marshal(t, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Path: "/"}}}}),
		"noise":             bytes.Repeat([]byte{0xff}, 1000),
		"truncated":         full[:len(full)/2],
		"text":              []byte("GET / HTTP/1.1\r\n\r\n"),
		"3 MiB of a header": marshal(t, checkRequest(map[string]string{"x": strings.Repeat("x", 3<<20)}))[:3<<20],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var answer []byte
			require.NoError(t, r.conn.Invoke(t.Context(), method, &message, &answer, grpc.ForceCodecV2(bytesCodec{})))
			resp := strict(t, answer)
			assert.Equal(t, int32(400), int32(resp.GetDeniedResponse().GetStatus().GetCode()))
		})
	}
}

// Bodies (with_request_body) are accepted up to a limit. A compressed message is denied, because a
// few bytes could expand to any size.
func TestLargeMessages(t *testing.T) {
	t.Parallel()
	r := run(t, allowAll(), testConfig(), Options{})
	for name, c := range map[string]struct {
		body   int
		option grpc.CallOption
		status int32 // 0: allowed
		code   codes.Code
	}{
		"within the limit":        {maxMessage - 1<<10, grpc.EmptyCallOption{}, 0, codes.OK},
		"above the limit":         {maxMessage, grpc.EmptyCallOption{}, 0, codes.ResourceExhausted},
		"compressed":              {0, grpc.UseCompressor(gzip.Name), 400, codes.OK},
		"expands to the limit":    {maxMessage - 1<<10, grpc.UseCompressor(gzip.Name), 400, codes.OK},
		"expands to far above it": {5 * maxMessage, grpc.UseCompressor(gzip.Name), 400, codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := checkRequest(nil)
			req.GetAttributes().GetRequest().GetHttp().RawBody = make([]byte, c.body)
			resp, err := r.auth.Check(t.Context(), req, grpc.MaxCallSendMsgSize(6*maxMessage), c.option)
			require.Equal(t, c.code, status.Code(err), "%v", err)
			if err != nil {
				return
			}
			assert.Equal(t, c.status == 0, resp.GetStatus().GetCode() == int32(codes.OK))
			assert.Equal(t, c.status, int32(resp.GetDeniedResponse().GetStatus().GetCode()))
		})
	}
}

// Clients that half-close without a message, never half-close, or send two messages.
func TestOddStreams(t *testing.T) {
	t.Parallel()
	r := run(t, allowAll(), testConfig(), Options{})
	open := func(t *testing.T) grpc.ClientStream {
		t.Helper()
		s, err := r.conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, grpc.ForceCodecV2(bytesCodec{}))
		require.NoError(t, err)
		return s
	}
	message := marshal(t, checkRequest(nil))
	var answer []byte
	t.Run("no message", func(t *testing.T) {
		s := open(t)
		require.NoError(t, s.CloseSend())
		require.NoError(t, s.RecvMsg(&answer))
		assert.NotNil(t, strict(t, answer).GetDeniedResponse())
		assert.ErrorIs(t, s.RecvMsg(&answer), io.EOF)
	})
	t.Run("half open", func(t *testing.T) {
		s := open(t)
		require.NoError(t, s.SendMsg(&message))
		require.NoError(t, s.RecvMsg(&answer))
		assert.NotNil(t, strict(t, answer).GetOkResponse())
		assert.ErrorIs(t, s.RecvMsg(&answer), io.EOF)
	})
	t.Run("two messages", func(t *testing.T) {
		s := open(t)
		require.NoError(t, s.SendMsg(&message))
		_ = s.SendMsg(&message) // the stream may have ended already
		require.NoError(t, s.RecvMsg(&answer))
		assert.NotNil(t, strict(t, answer).GetOkResponse())
		assert.ErrorIs(t, s.RecvMsg(&answer), io.EOF)
	})
}

// Connections that send nothing, or nonsense, do not affect other connections.
func TestBrokenConnections(t *testing.T) {
	t.Parallel()
	r := run(t, allowAll(), testConfig(), Options{})
	var conns []net.Conn
	for i := range 60 {
		c, err := net.Dial("tcp", r.addr)
		require.NoError(t, err)
		conns = append(conns, c)
		switch i % 4 {
		case 1:
			_, err = c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
		case 2:
			_, err = c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")) // without SETTINGS
		case 3:
			_, err = c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\xff\xff\xff\x01\x05\x00\x00\x00\x01garbage"))
		}
		require.NoError(t, err)
	}
	for range 20 {
		resp, err := r.auth.Check(t.Context(), checkRequest(nil))
		require.NoError(t, err)
		assert.Equal(t, int32(codes.OK), resp.GetStatus().GetCode())
	}
	for _, c := range conns {
		require.NoError(t, c.Close())
	}
}

func TestEveryFailureIsADenial(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	var mode atomic.Int32
	modes := []struct {
		name   string
		decide deciderFunc
		reason authz.Reason
		status int32
	}{
		{"zero decision", decide(authz.Decision{}), authz.ReasonUnset, 403},
		{"panic", func(context.Context, *authz.Request) authz.Decision { panic("boom") }, authz.ReasonInternal, 503},
		{"nil panic", func(context.Context, *authz.Request) authz.Decision { panic(nil) }, authz.ReasonInternal, 503},
		{"nil dereference", func(context.Context, *authz.Request) authz.Decision {
			var t *authz.Token
			return authz.Decision{Detail: t.Raw}
		}, authz.ReasonInternal, 503},
		{"allowed without a token", decide(authz.Decision{Reason: authz.ReasonAllowed}), authz.ReasonInternal, 503},
		{"unknown reason", decide(authz.Decision{Reason: 200}), authz.ReasonUnset, 403},
		{"claim that HTTP cannot carry", decide(authz.Decision{Reason: authz.ReasonAllowed, Token: &authz.Token{Claims: map[string]any{"sub": "a\r\nb"}}}), authz.ReasonBadClaim, 401},
		{"claim of an odd type", decide(authz.Decision{Reason: authz.ReasonAllowed, Token: &authz.Token{Claims: map[string]any{"sub": make(chan int)}}}), authz.ReasonBadClaim, 401},
	}
	r := run(t, deciderFunc(func(ctx context.Context, req *authz.Request) authz.Decision {
		return modes[mode.Load()].decide(ctx, req)
	}), testConfig(), Options{Registerer: reg})
	for i, m := range modes {
		mode.Store(int32(i))
		before := testutil.ToFloat64(r.server.metrics.decisions[m.reason])
		resp, err := r.auth.Check(t.Context(), checkRequest(nil))
		require.NoError(t, err, m.name)
		assert.NotEqual(t, int32(codes.OK), resp.GetStatus().GetCode(), m.name)
		assert.Equal(t, m.status, int32(resp.GetDeniedResponse().GetStatus().GetCode()), m.name)
		assert.InDelta(t, before+1, testutil.ToFloat64(r.server.metrics.decisions[m.reason]), 0, m.name)
	}
	assert.InDelta(t, 4, testutil.ToFloat64(r.server.metrics.errors), 0)
	n, err := testutil.GatherAndCount(reg, "auth_validation_duration_seconds")
	require.NoError(t, err)
	assert.Equal(t, 1, n)
}

// An Authorizer that hangs and ignores its context is abandoned at the deadline of the check: after
// checkTime, or earlier if the caller's own deadline requires it.
func TestHangingAuthorizer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		callers time.Duration // until the deadline of the caller; 0: it has none
		want    time.Duration
	}{
		"no deadline":     {0, checkTime},
		"long deadline":   {time.Minute, checkTime},
		"short deadline":  {100 * time.Millisecond, 90 * time.Millisecond},
		"deadline passed": {-time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				cfg := testConfig()
				cfg.DecisionLog.Decisions = logNone
				s, err := NewServer(deciderFunc(func(context.Context, *authz.Request) authz.Decision {
					<-release
					return authz.Decision{Reason: authz.ReasonAllowedAnonymous}
				}), cfg, Options{})
				require.NoError(t, err)
				ctx, cancel := context.Background(), context.CancelFunc(func() {})
				if c.callers != 0 {
					ctx, cancel = context.WithTimeout(ctx, c.callers)
				}
				defer cancel()
				start := time.Now()
				r := strict(t, s.check(ctx, marshal(t, checkRequest(nil))))
				assert.Equal(t, c.want, time.Since(start))
				assert.Equal(t, int32(503), int32(r.GetDeniedResponse().GetStatus().GetCode()))
				assert.InDelta(t, 1, testutil.ToFloat64(s.metrics.late), 0)
				close(release)
				synctest.Wait()
				// The late decision is dropped.
				s.authorizer = decide(authz.Decision{})
				r = strict(t, s.check(context.Background(), marshal(t, checkRequest(nil))))
				assert.Equal(t, int32(403), int32(r.GetDeniedResponse().GetStatus().GetCode()))
				require.NoError(t, s.Drain(context.Background()))
			})
		})
	}
}

// Checks share buffers, timers and responses, but never see those of another check.
func TestConcurrentChecksDoNotMix(t *testing.T) {
	t.Parallel()
	tokens := make([]*authz.Token, 50)
	for i := range tokens {
		tokens[i] = &authz.Token{Claims: map[string]any{"sub": fmt.Sprintf("user-%d", i)}}
	}
	r := run(t, deciderFunc(func(_ context.Context, req *authz.Request) authz.Decision {
		v, _ := req.Header("x-user")
		var i int
		if _, err := fmt.Sscan(v, &i); err != nil {
			return authz.Decision{Reason: authz.ReasonInternal}
		}
		if i%10 == 9 {
			return authz.Decision{Reason: authz.ReasonRevoked, Token: tokens[i]}
		}
		return authz.Decision{Reason: authz.ReasonAllowed, Token: tokens[i], Credential: authz.Credential{Source: "authorization"}}
	}), testConfig(), Options{})
	var group sync.WaitGroup
	var late atomic.Int64
	for w := range 16 {
		group.Go(func() {
			for n := range 100 {
				i := (w*7 + n) % len(tokens)
				resp, err := r.auth.Check(t.Context(), checkRequest(map[string]string{"x-user": fmt.Sprint(i)}))
				if !assert.NoError(t, err) {
					return
				}
				if resp.GetDeniedResponse().GetStatus().GetCode() == 503 {
					late.Add(1) // a starved machine may exceed the deadline
					continue
				}
				if i%10 == 9 {
					assert.Equal(t, int32(401), int32(resp.GetDeniedResponse().GetStatus().GetCode()))
				} else {
					assert.Equal(t, fmt.Sprintf("user-%d", i), headerMap(t, resp.GetOkResponse().GetHeaders())["x-jwt-sub"])
				}
			}
		})
	}
	group.Wait()
	assert.Less(t, late.Load(), int64(800), "half of the checks exceeded the deadline")
}

// neverVerify is a Verifier that must not be called.
type neverVerify struct{ t *testing.T }

var _ authz.Verifier = neverVerify{}

func (v neverVerify) Verify(context.Context, string) (*authz.Token, error) {
	v.t.Error("a token was verified")
	return nil, errors.New("unexpected call")
}

func (neverVerify) Current(*authz.Token, int64) bool { return false }

func (neverVerify) Expired(*authz.Token, int64) bool { return false }

// The real core denies a request with two credentials before it verifies either.
func TestTwoAuthorizationHeaders(t *testing.T) {
	t.Parallel()
	policy, err := policy.Compile(nil, policy.Options{})
	require.NoError(t, err)
	r := run(t, authz.NewAuthorizer(neverVerify{t}, nil, authz.NewChain(nil), policy, authz.SystemClock{}), testConfig(), Options{})
	raw := func(pairs ...string) *authv3.CheckRequest {
		m := &core.HeaderMap{}
		for i := 0; i < len(pairs); i += 2 {
			m.Headers = append(m.Headers, &core.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
		}
		req := checkRequest(nil)
		req.GetAttributes().GetRequest().GetHttp().HeaderMap = m
		return req
	}
	for name, c := range map[string]struct {
		req    *authv3.CheckRequest
		status int32
	}{
		"twice":               {raw("authorization", "Bearer a.b.c", "authorization", "Bearer d.e.f"), 400},
		"twice the same":      {raw("authorization", "Bearer a.b.c", "authorization", "Bearer a.b.c"), 400},
		"twice, mixed case":   {raw("Authorization", "Bearer a.b.c", "AUTHORIZATION", "Bearer d.e.f"), 400},
		"second is Basic":     {raw("authorization", "Bearer a.b.c", "authorization", "Basic eA=="), 400},
		"joined":              {checkRequest(map[string]string{"authorization": "Bearer a.b.c,Bearer d.e.f"}), 400},
		"joined with a space": {checkRequest(map[string]string{"authorization": "Bearer a.b.c, Bearer d.e.f"}), 400},
		"joined, Basic first": {checkRequest(map[string]string{"authorization": "Basic eA==,Bearer d.e.f"}), 400},
		"two keys in a map":   {checkRequest(map[string]string{"authorization": "Bearer a.b.c", "Authorization": "Bearer d.e.f"}), 400},
		"invalid UTF-8":       {raw("authorization", "Bearer a.b.\xff"), 400},
		"only in the ignored map": {func() *authv3.CheckRequest {
			r := raw("x", "y")
			r.GetAttributes().GetRequest().GetHttp().Headers = map[string]string{"authorization": "Bearer a.b.c"}
			return r
		}(), 401},
		"none": {checkRequest(nil), 401},
	} {
		resp, err := r.auth.Check(t.Context(), c.req)
		require.NoError(t, err, name)
		assert.Equal(t, c.status, int32(resp.GetDeniedResponse().GetStatus().GetCode()), name)
	}
}

func TestRepliesToGRPCCallers(t *testing.T) {
	t.Parallel()
	r := run(t, decide(authz.Decision{Reason: authz.ReasonRevoked}), testConfig(), Options{})
	for contentType, grpc := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "application/grpc-web": false, "application/json": false, "": false,
	} {
		resp, err := r.auth.Check(t.Context(), checkRequest(map[string]string{"content-type": contentType}))
		require.NoError(t, err)
		h := headerMap(t, resp.GetDeniedResponse().GetHeaders())
		assert.Equal(t, grpc, h["grpc-status"] == "16", contentType)
		assert.Equal(t, !grpc, h["content-type"] == "application/problem+json", contentType)
	}
}
