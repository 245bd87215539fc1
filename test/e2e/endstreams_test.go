package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/test/harness"
)

// accessLog is a setting of streamListener that writes why a stream ended to Envoy's output.
const accessLog = `access_log: [{name: envoy.access_loggers.stdout, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog, log_format: {text_format_source: {inline_string: "ended %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS%\n"}}}}]`

// newStreamEnvoy starts an Envoy with the module and the listener "front" in front of up. The product
// in it is configured like the rig, and with more stanzas.
func newStreamEnvoy(t *testing.T, r *harness.Rig, up *streamUpstream, more string) (*harness.EnvoyServer, *harness.BouncerServer) {
	t.Helper()
	return r.ModuleEnvoy(t, more, "static_resources:\n  listeners:"+fmt.Sprintf(streamListener, "front", accessLog, "0s")+"  clusters:\n"+cluster("upstream", up.http, false)+cluster("grpc", up.grpc, true))
}

// TestModuleEndStreams: on a route with end_streams, an open WebSocket, event stream or gRPC stream ends
// when its token is revoked, here through another process, and when it expires. Streams with other
// tokens, and of other routes, stay open.
func TestModuleEndStreams(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	r := harness.NewRig(t, harness.RigOptions{NoFront: true})
	up := newStreamUpstream(t)
	const routes = `routes:
- {name: kept, match: {paths: [{prefix: /kept}]}}
- {name: ended, end_streams: true}
`
	e, _ := newStreamEnvoy(t, r, up, routes+"decision_log: {decisions: denied}\n")
	for kind, open := range map[string]func(*testing.T, string, string) *stream{"WebSocket": up.openWebSocket, "event stream": up.openEvents, "gRPC stream": up.openGRPC} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			doomed := r.Token(map[string]any{"sub": kind})
			good := open(t, e.Addr("front"), r.Token(nil))
			first, second := open(t, e.Addr("front"), doomed), open(t, e.Addr("front"), doomed)
			kept := up.openEventsAt(t, e.Addr("front"), "/kept", doomed)
			require.NoError(t, first.exchange())
			r.Revoke(t, map[string]any{"sub": kind})
			first.awaitReset(t)
			second.awaitReset(t)
			assert.NoError(t, kept.exchange(), "the stream of another route")

			short := open(t, e.Addr("front"), r.Token(map[string]any{"exp": time.Now().Add(8 * time.Second).Unix()}))
			require.NoError(t, short.exchange())
			short.awaitReset(t)
			assert.NoError(t, good.exchange(), "the stream of a good token")
		})
	}
}

// TestModuleEndStreamsRecords: a request that has no response yet is answered like a denied one, and
// the access log, the decision log and the metrics tell what was ended.
func TestModuleEndStreamsRecords(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	r := harness.NewRig(t, harness.RigOptions{NoFront: true})
	up := newStreamUpstream(t)
	e, b := newStreamEnvoy(t, r, up, "routes: [{name: ended, end_streams: true}]\n")
	token := r.Token(map[string]any{"jti": "gone"})
	events := up.openEvents(t, e.Addr("front"), token)
	replies := make(chan harness.Reply, 1)
	go func() {
		reply, err := harness.FrontOf(t, e, "front").Do(t.Context(), http.MethodGet, "/silent", "Authorization", "Bearer "+token, "X-Request-Id", "4711")
		assert.NoError(t, err)
		replies <- reply
	}()
	awaitMetric(t, b, "jwt_bouncer_open_streams 2\n")
	receipt, err := harness.PostRevocation(t.Context(), b.HTTP, map[string]any{"jti": "gone"})
	require.NoError(t, err)
	require.Equal(t, http.StatusCreated, receipt.Status, receipt.Body)
	events.awaitReset(t)
	reply := <-replies
	assert.Equal(t, 401, reply.Status)
	assert.Contains(t, reply.Header.Get("Www-Authenticate"), `error="invalid_token"`)
	awaitMetric(t, b, "jwt_bouncer_open_streams 0\n")
	awaitMetric(t, b, `jwt_bouncer_streams_ended_total{reason="revoked"} 2`)
	for _, line := range []string{"ended /silent 401 jwt_bouncer_ended\n", "ended /events 200 jwt_bouncer_ended\n", `"detail":"open stream ended: the token has been revoked"`} {
		awaitLog(t, e, line)
	}
	endsCleanly(t, harness.FrontOf(t, e, "front"))
}

// TestModuleEndStreamsByIssuer: a stream with an opaque token stays open while its issuer reports the
// token active, and ends when it no longer does.
func TestModuleEndStreamsByIssuer(t *testing.T) {
	t.Parallel()
	harness.NeedsCompiler(t)
	var asked atomic.Int64
	var logout atomic.Bool
	login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.PostFormValue("token") != "opaque-token" || logout.Load() { // a probe, or the end
			fmt.Fprint(w, `{"active":false}`)
			return
		}
		asked.Add(1)
		fmt.Fprintf(w, `{"active":true,"sub":"carol","aud":"api","exp":%d}`, time.Now().Add(time.Hour).Unix())
	}))
	t.Cleanup(login.Close)
	secret := harness.WriteFile(t, harness.Dir(t), "secret", "introspection-secret\n")
	r := harness.NewRig(t, harness.RigOptions{NoFront: true})
	up := newStreamUpstream(t)
	e, _ := newStreamEnvoy(t, r, up, fmt.Sprintf(`
routes: [{name: ended, introspection: login, end_streams: true}]
introspection:
- {name: login, endpoint: %q, issuer: "https://login.example", audiences: [api], client_id: bouncer, client_secret_file: %s, cache_ttl: 1s}
`, login.URL, secret))
	harness.FrontOf(t, e, "front").AwaitStatus(t, "opaque-token", 404, 20*time.Second) // the upstream's
	socket := up.openWebSocket(t, e.Addr("front"), "opaque-token")
	before := asked.Load()
	harness.Eventually(t, 30*time.Second, "the issuer is asked again", func(context.Context) error {
		if asked.Load() == before {
			return errors.New("not yet")
		}
		return nil
	})
	require.NoError(t, socket.exchange(), "the token is still active")
	logout.Store(true)
	socket.awaitReset(t)
}

// awaitMetric waits until the metrics contain the text.
func awaitMetric(t *testing.T, b *harness.BouncerServer, text string) {
	t.Helper()
	harness.Eventually(t, 20*time.Second, text, func(context.Context) error {
		if m := b.Metrics(t); !strings.Contains(m, text) {
			return fmt.Errorf("the metrics lack %q", text)
		}
		return nil
	})
}

// TestServeRefusesEndStreams: ext_authz is asked once, so the sidecar refuses a promise that it cannot
// keep.
func TestServeRefusesEndStreams(t *testing.T) {
	t.Parallel()
	r := harness.NewRig(t, harness.RigOptions{NoFront: true})
	config := "listen: {grpc: '127.0.0.1:0', http: ''}\n" + r.Config + "routes: [{name: ended, end_streams: true}]\n"
	result := harness.Run(t, "", "serve", "--config", harness.WriteFile(t, harness.Dir(t), "config.yaml", config))
	assert.Equal(t, 1, result.Code)
	assert.Contains(t, result.Stderr, "routes[0].end_streams: ext_authz cannot end open streams")
	r.Bouncer.SetConfig(t, r.Config+"routes: [{name: ended, end_streams: true}]\n")
	harness.Eventually(t, 20*time.Second, "the running sidecar refuses it, too", func(context.Context) error {
		if log := r.Bouncer.Log(); !strings.Contains(log, "not reloaded") || !strings.Contains(log, "ext_authz cannot end open streams") {
			return fmt.Errorf("not logged")
		}
		return nil
	})
}
