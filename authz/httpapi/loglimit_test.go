package httpapi_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi/httpapitest"
	"jwtbouncer/authz/httpapi/receiver"
)

// refuseAll refuses every message.
type refuseAll struct{ receiver.Verifier }

func (refuseAll) VerifySecurityEvent(context.Context, string, authz.SecurityEventRules) (*authz.Token, error) {
	return nil, authz.Failuref(authz.ReasonMalformedToken, "garbage")
}

// Strangers cannot fill the log. What is left out is counted.
func TestRefusalsAreLoggedWithinLimits(t *testing.T) {
	for name, c := range map[string]struct {
		message string
		request func() (path, kind, body string)
	}{
		"logout token": {"message refused", func() (string, string, string) {
			return "/oidc/backchannel-logout", httpapitest.FormType, "logout_token=x"
		}},
		"security event":  {"message refused", func() (string, string, string) { return "/ssf/events", httpapitest.EventType, "x" }},
		"Keycloak action": {"message refused", func() (string, string, string) { return "/keycloak/k_logout", "text/plain", "x" }},
		"sign-in":         {"sign-in refused", func() (string, string, string) { return "/login", httpapitest.FormType, "token=x" }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := httpapitest.New(t, func(o *httpapitest.Setup) {
					httpapitest.WithToken(httpapitest.SecretFile(t, httpapitest.APIToken))(o)
					o.Verifier, o.Clock = refuseAll{}, httpapitest.BubbleClock()
					o.Config.Logout.Audiences, o.Config.Events.Audiences = []string{"shop"}, []string{"here"}
					o.Config.Keycloak.Clients = []string{"shop"}
				})
				flood := func(n int) {
					for range n {
						path, kind, body := c.request()
						require.Contains(t, []int{400, 401}, b.Post(path, kind, body).Code)
					}
				}
				lines := func() (written, suppressed int) {
					for line := range strings.Lines(b.LogText()) {
						var entry struct {
							Message    string `json:"msg"`
							Line       string `json:"line"`
							Suppressed int    `json:"suppressed"`
						}
						require.NoError(t, json.Unmarshal([]byte(line), &entry))
						if entry.Message == c.message {
							written++
						} else if entry.Line == c.message {
							suppressed += entry.Suppressed
						}
					}
					return written, suppressed
				}
				flood(1000)
				written, suppressed := lines()
				assert.Equal(t, []int{10, 0}, []int{written, suppressed})
				time.Sleep(11 * time.Second) // of the bubble
				synctest.Wait()
				written, suppressed = lines()
				assert.Equal(t, []int{10, 990}, []int{written, suppressed})
				flood(11)
				time.Sleep(11 * time.Second)
				synctest.Wait()
				written, suppressed = lines()
				assert.Equal(t, []int{20, 991}, []int{written, suppressed})
			})
		})
	}
}

// The audit log of what authenticated callers do is complete.
func TestAuditLogIsComplete(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, nil)
	for range 50 {
		require.Equal(t, 201, b.Do("POST", "/v1/revocations", `{"jti":"x"}`).Code)
	}
	assert.Equal(t, 50, strings.Count(b.Log.String(), `"msg":"revocation requested"`))
}

// countingGatherer counts how often it gathers.
type countingGatherer struct {
	prometheus.Gatherer
	n atomic.Int32
}

func (g *countingGatherer) Gather() ([]*dto.MetricFamily, error) {
	g.n.Add(1)
	return g.Gatherer.Gather()
}

// Scrapes, which need no token, gather at most once a second.
func TestScrapesShareAGathering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &countingGatherer{}
		b := httpapitest.New(t, func(o *httpapitest.Setup) {
			g.Gatherer, o.Gatherer, o.Clock = o.Gatherer, g, httpapitest.BubbleClock()
		})
		scrape := func() *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			b.API.ServeHTTP(w, httpapitest.Request("GET", "/metrics", "", "Accept-Encoding", "gzip"))
			return w
		}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { assert.Equal(t, 200, scrape().Code) })
		}
		wg.Wait()
		assert.EqualValues(t, 1, g.n.Load())
		assert.Empty(t, scrape().Header().Get("Content-Encoding"), "compressing would cost as much")
		time.Sleep(time.Second) // of the bubble
		assert.Contains(t, scrape().Body.String(), `jwt_bouncer_http_requests_total{code="200",source="health"} 101`)
		assert.EqualValues(t, 2, g.n.Load())
	})
}
