package httpapi_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/collectors"
	"jwtbouncer/authz/httpapi/httpapitest"
)

func BenchmarkZZ(b *testing.B) {
	t := &testing.T{}
	d := httpapitest.New(t, nil)
	d.Metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	run := func(path string) func(b *testing.B) {
		return func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				d.API.ServeHTTP(w, httpapitest.Request("GET", path, ""))
			}
		}
	}
	b.Run("metrics", run("/metrics"))
	b.Run("strange", run("/strange"))
	b.Run("longstrange", run("/"+strings.Repeat("%ff", 10000)))
	b.Run("livez", run("/livez"))
	b.Run("readyz", run("/readyz"))
	b.Run("post", run("/oauth2/revoke"))
	b.Run("gather", func(b *testing.B) { b.ReportAllocs(); for b.Loop() { d.Metrics.Gather() } })
}
