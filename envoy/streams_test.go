package envoy

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/policy"
)

// streamJudge allows every request and watches its stream. It decides about an open stream with now,
// and without it with later.
type streamJudge struct {
	immediately

	mu    sync.Mutex
	now   authz.Reason // ReasonUnset: memory proves nothing
	later func(ctx context.Context, g *authz.Grant) authz.Reason
}

func newStreamJudge() *streamJudge {
	token := &authz.Token{Raw: "t", Issuer: "https://issuer.example"}
	token.SetKeys()
	j := &streamJudge{now: authz.ReasonAllowed}
	j.immediately = immediately{func(context.Context, *authz.Request) authz.Decision {
		return authz.Decision{Reason: authz.ReasonAllowed, Token: token, Grant: new(authz.Grant)}
	}, true}
	return j
}

func (j *streamJudge) set(r authz.Reason) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.now = r
}

func (j *streamJudge) RecheckNow(g *authz.Grant) (authz.Decision, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.now == authz.ReasonUnset {
		return authz.Decision{}, false
	}
	return authz.Decision{Reason: j.now, Route: "r", Grant: g}, true
}

func (j *streamJudge) Recheck(ctx context.Context, g *authz.Grant) authz.Decision {
	return authz.Decision{Reason: j.later(ctx, g), Route: "r", Grant: g}
}

// watched opens a stream and returns the plans that end it.
func watched(t *testing.T, l *Local) (stop func(), ends chan []byte) {
	t.Helper()
	req := localRequest()
	req.Headers = append(req.Headers, authz.Header{Name: "x-request-id", Value: "4711"})
	plan, watch, ok := l.AnswerNow(req)
	require.True(t, ok && watch != nil)
	require.Equal(t, PlanAllow, plan[0])
	ends = make(chan []byte, 2)
	return watch(func(plan []byte) { ends <- plan }), ends
}

func newStreamLocal(t *testing.T, j *streamJudge, o Options, revoked <-chan struct{}) *Local {
	t.Helper()
	l, err := NewLocal(j, testConfig(), o, revoked)
	require.NoError(t, err)
	return l
}

// ended requires that plan ends a stream with the reply of a denial with this status.
func ended(t *testing.T, plan []byte, status int) {
	t.Helper()
	require.Equal(t, PlanEndStream, plan[0])
	plan[0] = PlanDeny
	assert.Equal(t, status, saidByPlan(t, plan).Status)
}

// A revocation ends every stream whose token it revokes, at once and once. It is counted and logged,
// with the id of the request.
func TestStreamsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		j, revoked := newStreamJudge(), make(chan struct{}, 1)
		l := newStreamLocal(t, j, Options{Logger: slog.New(slog.NewJSONHandler(&log, nil))}, revoked)
		_, first := watched(t, l)
		closed, second := watched(t, l)
		_, third := watched(t, l)
		closed()
		closed()
		assert.InDelta(t, 2, testutil.ToFloat64(l.metrics.openStreams), 0)
		start := time.Now()
		j.set(authz.ReasonRevoked)
		revoked <- struct{}{}
		ended(t, <-first, 401)
		ended(t, <-third, 401)
		assert.Zero(t, time.Since(start), "it waited for the next examination")
		time.Sleep(3 * recheckInterval)
		assert.Empty(t, first, "ended twice")
		assert.Empty(t, second, "the stream had ended by itself")
		assert.Zero(t, testutil.ToFloat64(l.metrics.openStreams))
		assert.InDelta(t, 2, testutil.ToFloat64(l.metrics.streamsEnded.WithLabelValues("revoked")), 0)
		l.Close()
		assert.Equal(t, 2, strings.Count(log.String(), `"reason":"revoked"`), log.String())
		assert.Contains(t, log.String(), `"request_id":"4711"`)
	})
}

// A revocation that becomes known between the decision and the watch ends the stream.
func TestStreamEndsBeforeItIsWatched(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := newStreamJudge()
		l := newStreamLocal(t, j, Options{}, nil)
		defer l.Close()
		_, watch, _ := l.AnswerNow(localRequest())
		j.set(authz.ReasonRevoked)
		var plan []byte
		watch(func(p []byte) { plan = p })()
		ended(t, plan, 401)
	})
}

// Without any news, every stream is examined each second: tokens expire.
func TestStreamsExpire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := newStreamJudge()
		l := newStreamLocal(t, j, Options{}, nil)
		defer l.Close()
		_, plans := watched(t, l)
		time.Sleep(time.Hour)
		assert.Empty(t, plans)
		j.set(authz.ReasonExpired)
		start := time.Now()
		ended(t, <-plans, 401)
		assert.LessOrEqual(t, time.Since(start), recheckInterval)
	})
}

// What memory cannot decide, the store or the issuer is asked: about a few streams at a time, until
// they answer or time is up, and without delay for the streams that memory decides about.
func TestStreamsAreAskedAbout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asking, most atomic.Int64
		j, revoked := newStreamJudge(), make(chan struct{}, 1)
		j.later = func(ctx context.Context, _ *authz.Grant) authz.Reason {
			most.Store(max(most.Load(), asking.Add(1)))
			defer asking.Add(-1)
			<-ctx.Done() // it does not answer
			return authz.ReasonRevocationUnknown
		}
		l := newStreamLocal(t, j, Options{}, revoked)
		defer l.Close()
		var all []chan []byte
		for range 3 * maxAsking {
			_, plans := watched(t, l)
			all = append(all, plans)
		}
		j.set(authz.ReasonUnset)
		revoked <- struct{}{}
		synctest.Wait()
		assert.Equal(t, int64(maxAsking), most.Load(), "questions at the same time")
		j.set(authz.ReasonRevoked) // memory knows, while the questions are pending
		start := time.Now()
		revoked <- struct{}{}
		for _, plans := range all {
			ended(t, <-plans, 401)
		}
		assert.Less(t, time.Since(start), askTime, "they waited for the questions")
	})
}

// A stream without an answer is ended as a request would be denied; one that is confirmed stays open.
func TestStreamsWithoutProof(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := newStreamJudge()
		var answer, questions atomic.Uint32
		answer.Store(uint32(authz.ReasonAllowed))
		j.later = func(context.Context, *authz.Grant) authz.Reason {
			questions.Add(1)
			return authz.Reason(answer.Load())
		}
		l := newStreamLocal(t, j, Options{}, nil)
		defer l.Close()
		_, plans := watched(t, l)
		j.set(authz.ReasonUnset)
		time.Sleep(time.Minute)
		assert.Empty(t, plans, "it was confirmed")
		assert.InDelta(t, time.Minute/askInterval, questions.Load(), 2)
		answer.Store(uint32(authz.ReasonRevocationUnknown))
		ended(t, <-plans, 503)
	})
}

// A panic while a stream is ended stops there.
func TestStreamEndPanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := newStreamJudge()
		l := newStreamLocal(t, j, Options{}, nil)
		defer l.Close()
		_, watch, _ := l.AnswerNow(localRequest())
		watch(func([]byte) { panic("in the filter") })
		_, plans := watched(t, l)
		j.set(authz.ReasonRevoked)
		ended(t, <-plans, 401)
	})
}

// Streams come and go from many threads while all of them are examined.
func TestStreamsChurn(t *testing.T) {
	t.Parallel()
	j, revoked := newStreamJudge(), make(chan struct{}, 1)
	l := newStreamLocal(t, j, Options{}, revoked)
	_, watch, _ := l.AnswerNow(localRequest())
	var threads sync.WaitGroup
	for range 4 {
		threads.Go(func() {
			var open []func()
			for i := range 3000 {
				open = append(open, watch(func([]byte) { t.Error("a good stream was ended") }))
				if i%3 == 2 {
					open[i/3]()
				}
				select {
				case revoked <- struct{}{}:
				default:
				}
			}
			for _, stop := range open {
				stop()
			}
		})
	}
	threads.Wait()
	assert.Zero(t, testutil.ToFloat64(l.metrics.openStreams))
	l.Close()
}

// activeToken is an Introspector that calls every token active.
type activeToken struct{ token *authz.Token }

func (activeToken) Local(string) bool { return false }

func (i activeToken) Introspect(context.Context, string, *authz.Token, string) (*authz.Token, error) {
	return i.token, nil
}

// notRevoked is a Tier that knows of no revocation.
type notRevoked struct{ authz.AlwaysWaits }

func (notRevoked) Name() string { return "none" }

func (notRevoked) Lookup(context.Context, *authz.Query) (authz.Verdict, error) {
	return authz.NotRevoked, nil
}

// introspectedGrant returns the grant of an introspected token, and the token.
func introspectedGrant(t *testing.T) (*authz.Grant, *authz.Token) {
	t.Helper()
	token := &authz.Token{Raw: "opaque", Issuer: "https://issuer.example", Accepted: true, Expires: time.Now().Unix() + 3600}
	token.SetKeys()
	p, err := policy.Compile([]policy.RouteConfig{{Name: "r", EndStreams: true, Introspection: "as"}},
		policy.Options{Introspectors: map[string]authz.Introspector{"as": activeToken{token}}})
	require.NoError(t, err)
	d := authz.NewAuthorizer(neverVerify{t}, nil, notRevoked{}, p, authz.SystemClock{}).Authorize(t.Context(),
		&authz.Request{Method: "GET", Path: "/", Headers: []authz.Header{{Name: "authorization", Value: "Bearer opaque"}}})
	require.True(t, d.Grant != nil && d.Grant.Introspected(), "%v", d)
	return d.Grant, token
}

// A slow issuer delays only streams that it is asked about: not one whose token was verified here, be
// it that memory decides about it, or that the store is asked.
func TestStreamsOfASlowIssuer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		issuer, token := introspectedGrant(t)
		j, grant := newStreamJudge(), issuer
		j.now = authz.ReasonUnset
		j.deciderFunc = func(context.Context, *authz.Request) authz.Decision {
			return authz.Decision{Reason: authz.ReasonAllowed, Token: token, Grant: grant}
		}
		j.later = func(ctx context.Context, g *authz.Grant) authz.Reason {
			if !g.Introspected() {
				return authz.ReasonRevoked
			}
			<-ctx.Done()
			return authz.ReasonRevocationUnknown
		}
		l := newStreamLocal(t, j, Options{}, nil)
		defer l.Close()
		for range 10 * maxAsking {
			watched(t, l)
		}
		time.Sleep(2 * askTime)
		grant = new(authz.Grant)
		_, plans := watched(t, l)
		start := time.Now()
		ended(t, <-plans, 401)
		assert.LessOrEqual(t, time.Since(start), 2*recheckInterval)
	})
}

// An issuer that is asked too much at the moment ends no stream, unless that lasts.
func TestStreamsSurviveOverload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := newStreamJudge()
		var free atomic.Bool
		j.later = func(context.Context, *authz.Grant) authz.Reason {
			if free.Load() {
				return authz.ReasonAllowed
			}
			return authz.ReasonOverloaded
		}
		l := newStreamLocal(t, j, Options{}, nil)
		defer l.Close()
		_, plans := watched(t, l)
		j.set(authz.ReasonUnset)
		time.Sleep(askTime / 2)
		free.Store(true)
		time.Sleep(time.Minute)
		assert.Empty(t, plans, "it was confirmed in the end")
		free.Store(false)
		start := time.Now()
		ended(t, <-plans, 503)
		assert.LessOrEqual(t, time.Since(start), askInterval+recheckInterval+askTime+time.Second)
	})
}
