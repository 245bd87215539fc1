package envoy

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"jwtbouncer/authz"
)

// Every check that arrived before the drain gets a correct response, health reports NOT_SERVING,
// and Serve returns nil.
func TestDrainAnswersChecksInFlight(t *testing.T) {
	t.Parallel()
	const inFlight = 64
	var entered sync.WaitGroup
	entered.Add(inFlight)
	release := make(chan struct{})
	s, err := NewServer(deciderFunc(func(ctx context.Context, _ *authz.Request) authz.Decision {
		entered.Done()
		select {
		case <-release:
		case <-ctx.Done():
		}
		return authz.Decision{Reason: authz.ReasonAllowedAnonymous}
	}), testConfig(), Options{})
	require.NoError(t, err)
	l, err := Listen(ListenConfig{GRPC: "127.0.0.1:0"})
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	s.SetReady(true)
	watch, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	first, err := watch.Recv()
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, first.GetStatus())

	var answers sync.WaitGroup
	for range inFlight {
		answers.Go(func() {
			resp, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), checkRequest(nil))
			if assert.NoError(t, err) {
				assert.NotNil(t, resp.GetStatus())
			}
		})
	}
	entered.Wait()
	// The stream of the watch never ends by itself; the drain must not wait for it.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(ctx) }()
	next, err := watch.Recv()
	require.NoError(t, err)
	assert.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, next.GetStatus())
	close(release)
	answers.Wait()
	require.NoError(t, <-drained)
	require.NoError(t, <-served)
	for err == nil {
		_, err = watch.Recv() // until it ends regularly
	}
	assert.NotEqual(t, codes.Unavailable, status.Code(err))
	_, err = net.Dial("tcp", l.Addr().String())
	require.Error(t, err, "the listener is closed")
}

// Under load a drain ends by itself, and no check gets a wrong response: it gets a correct one or
// fails with the connection.
func TestDrainUnderLoad(t *testing.T) {
	t.Parallel()
	r := run(t, decide(authz.Decision{Reason: authz.ReasonRevoked}), testConfig(), Options{})
	stop := make(chan struct{})
	var started, load sync.WaitGroup
	for range 8 {
		started.Add(1)
		load.Go(func() {
			once := sync.OnceFunc(started.Done)
			for {
				resp, err := r.auth.Check(t.Context(), checkRequest(nil))
				if err != nil {
					assert.Equal(t, codes.Unavailable, status.Code(err))
				} else {
					assert.Equal(t, int32(401), int32(resp.GetDeniedResponse().GetStatus().GetCode()))
				}
				once()
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	started.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, r.server.Drain(ctx))
	close(stop)
	load.Wait()
	require.NoError(t, r.server.Drain(ctx), "again")
}

// An idle stream never ends by itself. The drain closes it without an error.
func TestDrainClosesIdleStreams(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(context.Context, *grpc.ClientConn) (grpc.ClientStream, error){
		"reflection": func(ctx context.Context, c *grpc.ClientConn) (grpc.ClientStream, error) {
			return reflectionpb.NewServerReflectionClient(c).ServerReflectionInfo(ctx)
		},
		"check without a message": func(ctx context.Context, c *grpc.ClientConn) (grpc.ClientStream, error) {
			return c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, method)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := run(t, allowAll(), testConfig(), Options{})
			stream, err := open(t.Context(), r.conn)
			require.NoError(t, err)
			_, err = r.auth.Check(t.Context(), checkRequest(nil)) // on the same connection, so the stream has arrived before
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			require.NoError(t, r.server.Drain(ctx))
			assert.Error(t, stream.RecvMsg(&authv3.CheckResponse{}))
		})
	}
}

// An idle stream does not shorten the time of checks on other streams.
func TestDrainWaitsForChecksDespiteIdleStreams(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	r := run(t, deciderFunc(func(context.Context, *authz.Request) authz.Decision {
		close(entered)
		<-release
		return authz.Decision{Reason: authz.ReasonAllowedAnonymous}
	}), testConfig(), Options{})
	_, err := r.conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, method)
	require.NoError(t, err)
	answered := make(chan error, 1)
	go func() {
		_, err := r.auth.Check(t.Context(), checkRequest(nil))
		answered <- err
	}()
	<-entered
	drained := make(chan error, 1)
	go func() { drained <- r.server.Drain(context.Background()) }()
	require.NoError(t, <-answered, "by the deadline of a check")
	close(release)
	require.NoError(t, <-drained)
}

// A drain ends with its context, even if a check hangs.
func TestDrainIsBounded(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	r := run(t, deciderFunc(func(ctx context.Context, _ *authz.Request) authz.Decision {
		close(entered)
		<-ctx.Done()
		return authz.Decision{}
	}), testConfig(), Options{})
	answered := make(chan error, 1)
	go func() {
		_, err := r.auth.Check(t.Context(), checkRequest(nil))
		answered <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, r.server.Drain(ctx), context.Canceled)
	<-answered
}
