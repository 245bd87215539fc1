package envoy

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

// What tokens and reloads say cannot make metrics grow: issuers are those of the
// configuration, and routes are bounded.
func TestNamesOfMetricsAreBounded(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	m, err := newMetrics(registry, authz.Issuers{Verified: []string{"https://a.example"}, Templates: []string{"https://entra.example/" + authz.TenantPlaceholder}})
	require.NoError(t, err)
	decided := func(reason authz.Reason, route, issuer string) {
		d := authz.Decision{Reason: reason, Route: route}
		if issuer != "" {
			d.Token = &authz.Token{Issuer: issuer}
		}
		m.count(&d, time.Millisecond)
	}
	decided(authz.ReasonAllowed, "api", "https://a.example")
	decided(authz.ReasonRevoked, "api", "https://entra.example/tenant-1")
	decided(authz.ReasonRevocationUnknown, "api", "https://entra.example/tenant-2")
	decided(authz.ReasonAllowedAnonymous, "health", "")
	decided(authz.ReasonNoRoute, "", "")
	for i := range 2 * maxNames {
		decided(authz.ReasonAllowed, fmt.Sprint("route-", i), fmt.Sprint("https://attacker.example/", i))
	}
	value := func(o *outcomes, name, outcome string) float64 {
		return testutil.ToFloat64(o.total.WithLabelValues(name, outcome))
	}
	assert.InDelta(t, 1, value(m.issuers, "https://a.example", "allowed"), 0)
	assert.InDelta(t, 1, value(m.issuers, "https://entra.example/{tenantid}", "denied"), 0)
	assert.InDelta(t, 1, value(m.issuers, "https://entra.example/{tenantid}", "error"), 0)
	assert.InDelta(t, 2*maxNames, value(m.issuers, "other", "allowed"), 0)
	assert.InDelta(t, 1, value(m.routes, "api", "error"), 0)
	assert.InDelta(t, 1, value(m.routes, "health", "allowed"), 0)
	assert.InDelta(t, 1, value(m.routes, "", "denied"), 0)
	assert.Equal(t, 3*3, testutil.CollectAndCount(m.issuers.total))
	assert.Equal(t, 3*(maxNames+1), testutil.CollectAndCount(m.routes.total))
	assert.InDelta(t, 2*maxNames-(maxNames-3), value(m.routes, "other", "allowed"), 0)
}

// A server that was told of no issuers names none.
func TestIssuersOfTokensAreNoLabels(t *testing.T) {
	t.Parallel()
	m, err := newMetrics(prometheus.NewRegistry(), authz.Issuers{})
	require.NoError(t, err)
	m.count(&authz.Decision{Reason: authz.ReasonAllowed, Token: &authz.Token{Issuer: "https://token.example"}}, 0)
	assert.InDelta(t, 1, testutil.ToFloat64(m.issuers.total.WithLabelValues("other", "allowed")), 0)
}
