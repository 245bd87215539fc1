package envoy

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"jwtbouncer/authz"
)

// immediately is an ImmediateAuthorizer: now says whether it decides without waiting.
type immediately struct {
	deciderFunc
	now bool
}

func (i immediately) AuthorizeNow(req *authz.Request) (authz.Decision, bool) {
	if !i.now {
		return authz.Decision{}, false
	}
	return i.Authorize(context.Background(), req), true
}

// Recheck implements StreamAuthorizer. No stream is watched.
func (immediately) Recheck(context.Context, *authz.Grant) authz.Decision { panic("no stream is open") }

// RecheckNow implements StreamAuthorizer.
func (immediately) RecheckNow(*authz.Grant) (authz.Decision, bool) { panic("no stream is open") }

func newLocal(t testing.TB, a ImmediateAuthorizer, cfg Config, o Options) *Local {
	t.Helper()
	l, err := NewLocal(a, cfg, o, nil)
	require.NoError(t, err)
	t.Cleanup(l.Close)
	return l
}

// said is what an answer tells Envoy, whatever its encoding.
type said struct {
	Allowed  bool
	Status   int
	Set      map[string]string // of the request or of the reply
	Remove   []string
	Query    []string
	Metadata string
	Body     string
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

// saidByResponse reads a CheckResponse.
func saidByResponse(t testing.TB, b []byte) said {
	t.Helper()
	r := strict(t, b)
	ok, denied := r.GetOkResponse(), r.GetDeniedResponse()
	s := said{Allowed: ok != nil, Status: int(denied.GetStatus().GetCode()), Body: denied.GetBody()}
	if s.Allowed {
		s.Set, s.Remove, s.Query = headerMap(t, ok.GetHeaders()), sorted(ok.GetHeadersToRemove()), sorted(ok.GetQueryParametersToRemove())
	} else {
		s.Set = headerMap(t, denied.GetHeaders())
	}
	if m := r.GetDynamicMetadata(); m != nil {
		text, err := json.Marshal(m.AsMap())
		require.NoError(t, err)
		s.Metadata = string(text)
	}
	return s
}

// saidByPlan reads a plan, and requires that it is well-formed.
func saidByPlan(t testing.TB, b []byte) said {
	t.Helper()
	require.GreaterOrEqual(t, len(b), 6)
	s := said{Allowed: b[0] == PlanAllow, Status: int(binary.LittleEndian.Uint32(b[1:])), Set: map[string]string{}}
	require.True(t, s.Allowed || b[0] == PlanDeny, "kind %q", b[0])
	rest := b[5:]
	for rest[0] != PlanEnd {
		n, v := binary.LittleEndian.Uint32(rest[1:]), binary.LittleEndian.Uint32(rest[5:])
		code, name, value := rest[0], string(rest[9:9+n]), string(rest[9+n:9+n+v])
		rest = rest[9+n+v:]
		set := PlanSet
		if !s.Allowed {
			set = PlanHeader
		}
		switch code {
		case set:
			require.NotContains(t, s.Set, name, "set twice")
			s.Set[name] = value
		case PlanRemove:
			require.True(t, s.Allowed && value == "")
			s.Remove = append(s.Remove, name)
		case PlanRemoveQuery:
			require.True(t, s.Allowed && value == "")
			s.Query = append(s.Query, name)
		case PlanMetadata:
			require.True(t, s.Allowed && name == "")
			s.Metadata = metadataText(t, value)
		case PlanBody:
			require.True(t, !s.Allowed && name == "")
			s.Body = value
		default:
			t.Fatalf("order %q in a plan of kind %q", code, b[0])
		}
	}
	require.Len(t, rest, 1, "bytes after the end")
	s.Remove, s.Query = sorted(s.Remove), sorted(s.Query)
	return s
}

// metadataText reads a google.protobuf.Struct by way of a CheckResponse.
func metadataText(t testing.TB, encoded string) string {
	t.Helper()
	return saidByResponse(t, encodeCheckResponse(&answer{allowed: true, metadata: []byte(encoded)})).Metadata
}

// doors gives one request to every door, each with an Authorizer that decides d. It returns what they
// said, the metrics they have counted and the records they have logged.
func doors(t *testing.T, cfg Config, d authz.Decision, req *authz.Request) (answers []said, metrics, records []string) {
	t.Helper()
	type door struct {
		answer func() said
		close  func()
	}
	for _, open := range []func(o Options) door{
		func(o Options) door {
			s, err := NewServer(decide(d), cfg, o)
			require.NoError(t, err)
			return door{func() said { return saidByResponse(t, s.check(t.Context(), messageOf(t, req))) }, func() { require.NoError(t, s.Drain(t.Context())) }}
		},
		func(o Options) door {
			l, err := NewLocal(immediately{decide(d), true}, cfg, o, nil)
			require.NoError(t, err)
			return door{func() said {
				plan, _, ok := l.AnswerNow(req)
				require.True(t, ok)
				return saidByPlan(t, plan)
			}, l.Close}
		},
		func(o Options) door {
			l, err := NewLocal(immediately{decide(d), false}, cfg, o, nil)
			require.NoError(t, err)
			return door{func() said {
				plan, _, ok := l.AnswerNow(req)
				require.True(t, !ok && plan == nil)
				return saidByPlan(t, later(t, l, req))
			}, l.Close}
		},
	} {
		var log bytes.Buffer
		reg := prometheus.NewRegistry()
		door := open(Options{Logger: slog.New(slog.NewJSONHandler(&log, nil)), Registerer: reg})
		if d.Token != nil {
			d.Token.Encoded.Store(nil) // each door is in a process of its own
		}
		first := door.answer()
		require.Equal(t, first, door.answer(), "the second answer, which may be cached")
		answers = append(answers, first)
		door.close()
		metrics = append(metrics, counted(t, reg))
		records = append(records, logText(t, log.String()))
	}
	return answers, metrics, records
}

// later returns the plan that AnswerLater passes on.
func later(t testing.TB, l *Local, req *authz.Request) []byte {
	t.Helper()
	plans := make(chan []byte, 2)
	require.Nil(t, l.AnswerLater(context.Background(), req, func(plan []byte, _ Watch) { plans <- plan }))
	return <-plans
}

// messageOf is the CheckRequest with the request.
func messageOf(t testing.TB, req *authz.Request) []byte {
	t.Helper()
	headers := map[string]string{}
	for _, h := range req.Headers {
		headers[h.Name] = h.Value
	}
	m := checkRequest(headers)
	http := m.GetAttributes().GetRequest().GetHttp()
	http.Method, http.Path, http.Host = req.Method, req.Path, req.Host
	return marshal(t, m)
}

// counted returns all metrics but durations.
func counted(t testing.TB, reg *prometheus.Registry) string {
	t.Helper()
	all, err := reg.Gather()
	require.NoError(t, err)
	var b strings.Builder
	for _, family := range all {
		for _, m := range family.GetMetric() {
			b.WriteString(family.GetName())
			for _, l := range m.GetLabel() {
				b.WriteString(" " + l.GetName() + "=" + l.GetValue())
			}
			switch {
			case m.GetHistogram() != nil:
				fmt.Fprintln(&b, "", m.GetHistogram().GetSampleCount())
			default:
				fmt.Fprintln(&b, "", m.GetCounter().GetValue())
			}
		}
	}
	return b.String()
}

// logText returns the records without what differs from run to run.
func logText(t testing.TB, text string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(text) {
		var record map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &record))
		for _, name := range []string{"time", "at", "took_ms"} {
			delete(record, name)
		}
		out, err := json.Marshal(record)
		require.NoError(t, err)
		b.Write(append(out, '\n'))
	}
	return b.String()
}

// Every door gives the same answer to the same decision, and counts and logs the same.
func TestDoorsAgree(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.Headers = HeadersConfig{Claims: map[string]string{"x-jwt-sub": "sub", "x_jwt_iss": "iss", "x-jwt-none": "none"}, Metadata: []string{"*"}}
	cfg.DecisionLog = DecisionLogConfig{Decisions: logAll}
	unfit := testToken()
	unfit.Claims = map[string]any{"sub": "a\r\nb"}
	decisions := map[string]authz.Decision{
		"allowed":                 {Reason: authz.ReasonAllowed, Token: testToken(), Route: "api", Credential: authz.Credential{Source: "authorization"}},
		"cookie":                  {Reason: authz.ReasonAllowed, Token: testToken(), Credential: authz.Credential{Source: "cookie:s"}},
		"query":                   {Reason: authz.ReasonAllowed, Token: testToken(), Credential: authz.Credential{Source: "query:t"}},
		"header":                  {Reason: authz.ReasonAllowed, Token: testToken(), Credential: authz.Credential{Source: "header:x-a", Remove: true}},
		"public":                  {Reason: authz.ReasonAllowedAnonymous, Route: "open"},
		"unknown, allowed":        {Reason: authz.ReasonAllowed, Token: testToken(), RevocationUnknown: true, Credential: authz.Credential{Source: "authorization"}},
		"allowed without a token": {Reason: authz.ReasonAllowed},
		"unfit claim":             {Reason: authz.ReasonAllowed, Token: unfit},
		"scopes":                  {Reason: authz.ReasonInsufficientScope, Token: testToken(), RequiredScopes: []string{"a", "b"}},
		"challenge":               {Reason: authz.ReasonBindingMismatch, Challenge: &authz.Challenge{Scheme: "dpop", Error: "use_dpop_nonce", Algorithms: []string{"ES256"}, Nonce: "n"}},
		"dpop":                    {Reason: authz.ReasonExpired, Credential: authz.Credential{Scheme: "dpop"}},
		"out of range":            {Reason: 200},
	}
	for _, reason := range authz.Reasons() {
		if d := (authz.Decision{Reason: reason}); !d.Allowed() {
			decisions[reason.String()] = d
		}
	}
	plain := []authz.Header{{Name: "accept", Value: "*/*"}, {Name: "cookie", Value: "a=1; s=x; b=2"}, {Name: "x-request-id", Value: "r1"}}
	for _, name := range slices.Sorted(maps.Keys(decisions)) {
		for kind, headers := range map[string][]authz.Header{
			"plain": plain, "gRPC": append(slices.Clone(plain), authz.Header{Name: "content-type", Value: "application/grpc"}),
			"lookalike": append(slices.Clone(plain), authz.Header{Name: "x-jwt_sub", Value: "root"}),
		} {
			req := &authz.Request{Method: "GET", Path: "/x?t=1&%74=2", Host: "example.test", Headers: headers, Source: authz.Peer{Address: "10.0.0.1"}}
			answers, metrics, records := doors(t, cfg, decisions[name], req)
			for i := 1; i < len(answers); i++ {
				assert.Equal(t, answers[0], answers[i], "%s, %s: door %d", name, kind, i)
				assert.Equal(t, metrics[0], metrics[i], "%s, %s: metrics of door %d", name, kind, i)
				assert.Equal(t, records[0], records[i], "%s, %s: records of door %d", name, kind, i)
			}
			assert.Equal(t, 2, strings.Count(records[0], "\n"), records[0])
		}
	}
}

// A request without a method is answered like a message that is no CheckRequest.
func TestLocalMalformed(t *testing.T) {
	t.Parallel()
	l := newLocal(t, immediately{allowAll(), true}, testConfig(), Options{})
	plan, _, ok := l.AnswerNow(&authz.Request{})
	require.True(t, ok)
	assert.Equal(t, 400, saidByPlan(t, plan).Status)
	assert.Equal(t, 400, saidByPlan(t, l.AnswerLater(t.Context(), &authz.Request{}, nil)).Status)
	assert.InDelta(t, 2, testutil.ToFloat64(l.metrics.undecodable), 0)
}

// A panic denies the one request.
func TestLocalPanics(t *testing.T) {
	t.Parallel()
	for _, now := range []bool{true, false} {
		l := newLocal(t, immediately{func(context.Context, *authz.Request) authz.Decision { panic("boom") }, now}, testConfig(), Options{})
		for range 2 {
			plan, _, ok := l.AnswerNow(localRequest())
			require.Equal(t, now, ok)
			if !ok {
				plan = later(t, l, localRequest())
			}
			assert.Equal(t, 503, saidByPlan(t, plan).Status)
		}
		assert.InDelta(t, 2, testutil.ToFloat64(l.metrics.decisions[authz.ReasonInternal]), 0)
	}
}

// A panic of the filter's own function neither ends the process nor leaves the decision pending.
func TestLocalSurvivesTheFilter(t *testing.T) {
	t.Parallel()
	l := newLocal(t, immediately{allowAll(), false}, testConfig(), Options{})
	l.maxPending = 1
	called := make(chan struct{})
	require.Nil(t, l.AnswerLater(t.Context(), localRequest(), func([]byte, Watch) { close(called); panic("in the filter") }))
	<-called
	require.Eventually(t, func() bool { return l.pending.Load() == 0 }, 10*time.Second, time.Millisecond)
	assert.True(t, saidByPlan(t, later(t, l, localRequest())).Allowed)
}

func localRequest() *authz.Request { return &authz.Request{Method: "GET", Path: "/x"} }

// Without a decision by the deadline the answer is 503, once, and the late decision is dropped.
func TestLocalLate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ callers, want time.Duration }{
		"no deadline": {0, checkTime}, "short deadline": {100 * time.Millisecond, 90 * time.Millisecond}, "deadline passed": {-time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				l, err := NewLocal(immediately{func(context.Context, *authz.Request) authz.Decision {
					<-release
					return authz.Decision{Reason: authz.ReasonAllowedAnonymous}
				}, false}, testConfig(), Options{}, nil)
				require.NoError(t, err)
				ctx, cancel := context.Background(), context.CancelFunc(func() {})
				if c.callers != 0 {
					ctx, cancel = context.WithTimeout(ctx, c.callers)
				}
				defer cancel()
				start, plans := time.Now(), make(chan []byte, 2)
				require.Nil(t, l.AnswerLater(ctx, localRequest(), func(plan []byte, _ Watch) { plans <- plan }))
				assert.Equal(t, 503, saidByPlan(t, <-plans).Status)
				assert.Equal(t, c.want, time.Since(start))
				close(release)
				l.Close()
				assert.Empty(t, plans, "a second answer")
				assert.InDelta(t, 1, testutil.ToFloat64(l.metrics.late), 0)
				assert.InDelta(t, 1, testutil.ToFloat64(l.metrics.decisions[authz.ReasonOverloaded]), 0)
				assert.Zero(t, testutil.ToFloat64(l.metrics.decisions[authz.ReasonAllowedAnonymous]), "the late decision is not counted")
			})
		})
	}
}

// The end of the stream ends the wait.
func TestLocalStreamEnds(t *testing.T) {
	t.Parallel()
	l := newLocal(t, immediately{func(ctx context.Context, _ *authz.Request) authz.Decision {
		<-ctx.Done()
		return authz.Decision{Reason: authz.ReasonRevocationUnknown, Detail: context.Cause(ctx).Error()}
	}, false}, testConfig(), Options{})
	ctx, end := context.WithCancel(t.Context())
	plans := make(chan []byte, 1)
	require.Nil(t, l.AnswerLater(ctx, localRequest(), func(plan []byte, _ Watch) { plans <- plan }))
	end()
	assert.Equal(t, 503, saidByPlan(t, <-plans).Status)
}

// Pending decisions are bounded, those included that were answered without the Authorizer.
func TestLocalIsBounded(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	l := newLocal(t, immediately{func(context.Context, *authz.Request) authz.Decision {
		<-release
		return authz.Decision{Reason: authz.ReasonAllowedAnonymous}
	}, false}, testConfig(), Options{})
	l.maxPending = 3
	plans := make(chan []byte, 3)
	for range 3 {
		require.Nil(t, l.AnswerLater(t.Context(), localRequest(), func(plan []byte, _ Watch) { plans <- plan }))
	}
	over := func() said {
		return saidByPlan(t, l.AnswerLater(t.Context(), localRequest(), func([]byte, Watch) { t.Error("called for a request that was answered") }))
	}
	assert.Equal(t, 503, over().Status)
	for range 3 { // the deadline passes
		assert.Equal(t, 503, saidByPlan(t, <-plans).Status)
	}
	assert.Equal(t, 503, over().Status, "the Authorizer still works on the answered ones")
	assert.InDelta(t, 5, testutil.ToFloat64(l.metrics.decisions[authz.ReasonOverloaded]), 0)
	close(release)
	require.Eventually(t, func() bool { return l.pending.Load() == 0 }, 10*time.Second, time.Millisecond)
	assert.True(t, saidByPlan(t, later(t, l, localRequest())).Allowed)
}

func TestLocalAfterClose(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.DecisionLog.Decisions = logNone
	l, err := NewLocal(immediately{allowAll(), false}, cfg, Options{}, nil)
	require.NoError(t, err)
	l.Close()
	assert.Equal(t, 503, saidByPlan(t, l.AnswerLater(t.Context(), localRequest(), func([]byte, Watch) { t.Error("called") })).Status)
}

func TestLocalSpans(t *testing.T) {
	t.Parallel()
	for _, now := range []bool{true, false} {
		spans := tracetest.NewInMemoryExporter()
		provider := trace.NewTracerProvider(trace.WithSyncer(spans))
		l := newLocal(t, immediately{decide(authz.Decision{Reason: authz.ReasonRevoked, Route: "api"}), now}, testConfig(), Options{TracerProvider: provider})
		req := localRequest()
		req.Headers = []authz.Header{{Name: "traceparent", Value: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
		if _, _, ok := l.AnswerNow(req); !ok {
			later(t, l, req)
			l.background.Close()
		}
		got := spans.GetSpans()
		require.Len(t, got, 1)
		assert.Equal(t, "0af7651916cd43dd8448eb211c80319c", got[0].SpanContext.TraceID().String())
		assert.False(t, got[0].StartTime.After(got[0].EndTime))
	}
}

func TestLocalConfig(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.Listen = ListenConfig{GRPC: "nonsense"} // there is no gRPC service
	newLocal(t, immediately{allowAll(), true}, cfg, Options{})
	cfg.Headers.Claims = map[string]string{"host": "sub"}
	_, err := NewLocal(immediately{allowAll(), true}, cfg, Options{}, nil)
	require.Error(t, err)
	reg := prometheus.NewRegistry()
	newLocal(t, immediately{allowAll(), true}, testConfig(), Options{Registerer: reg})
	_, err = NewLocal(immediately{allowAll(), true}, testConfig(), Options{Registerer: reg}, nil)
	require.Error(t, err, "the metrics are registered already")
}

// Whatever is wrong, a plan says no.
func TestPlansDenyByDefault(t *testing.T) {
	t.Parallel()
	for want, plan := range map[int][]byte{
		503: UnavailablePlan(), 403: encodePlan(&answer{}), 401: encodePlan(&answer{status: 401}),
	} {
		assert.Equal(t, want, saidByPlan(t, plan).Status)
		assert.False(t, saidByPlan(t, plan).Allowed)
	}
	for _, status := range []int{-1, 1, 200, 302, 600, 1 << 40} {
		assert.Equal(t, 403, saidByPlan(t, encodePlan(&answer{status: status})).Status, "%d", status)
	}
}

// An immediate check, like one over gRPC, allocates next to nothing for a token seen before.
func TestLocalAllocations(t *testing.T) {
	cfg := testConfig()
	cfg.DecisionLog.Decisions = logNone
	l := newLocal(t, immediately{decide(allowed()), true}, cfg, Options{})
	req := localRequest()
	assert.Zero(t, testing.AllocsPerRun(200, func() { _, _, _ = l.AnswerNow(req) }))
}
