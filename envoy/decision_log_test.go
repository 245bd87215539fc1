package envoy

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

func TestDecisionLog(t *testing.T) {
	t.Parallel()
	const secret = "eyJhbGciOiJSUzI1NiJ9.c2VjcmV0.c2lnbmF0dXJl"
	token := testToken()
	token.Raw = secret
	for level, want := range map[string]map[string]int{
		logNone:   {"allowed": 0, "revoked": 0},
		logDenied: {"allowed": 0, "revoked": 1},
		logAll:    {"allowed": 1, "revoked": 1},
	} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			cfg := testConfig()
			cfg.DecisionLog = DecisionLogConfig{Decisions: level, PerSecond: 10}
			s, err := NewServer(deciderFunc(func(_ context.Context, req *authz.Request) authz.Decision {
				d := authz.Decision{Reason: authz.ReasonAllowed, Token: token, Route: "api", Credential: authz.Credential{Raw: secret, Source: "authorization"}}
				if req.Method == http.MethodDelete {
					d.Reason, d.Detail = authz.ReasonRevoked, "revoked"
				}
				return d
			}), cfg, Options{Logger: slog.New(slog.NewJSONHandler(&out, nil))})
			require.NoError(t, err)
			for _, m := range []string{"GET", "DELETE"} {
				req := checkRequest(map[string]string{"authorization": "Bearer " + secret, "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "cookie": "s=" + secret, "x-request-id": "request-7"})
				h := req.GetAttributes().GetRequest().GetHttp()
				h.Method, h.Path, h.Id = m, "/a\n\"b\"?access_token="+secret, "1234567890"
				strict(t, s.check(t.Context(), marshal(t, req)))
			}
			require.NoError(t, s.Drain(t.Context()))
			text := out.String()
			for reason, n := range want {
				assert.Equal(t, n, strings.Count(text, `"reason":"`+reason+`"`), text)
			}
			assert.NotContains(t, text, secret)
			assert.NotContains(t, text, "access_token")
			if want["revoked"] > 0 {
				assert.Contains(t, text, `"trace_id":"0af7651916cd43dd8448eb211c80319c"`)
				assert.Contains(t, text, `"request_id":"request-7"`, "as in Envoy's access log")
				assert.NotContains(t, text, "1234567890", "the number of Envoy's stream")
				assert.Regexp(t, `"took_ms":[0-9.]+`, text)
				assert.Contains(t, text, `"route":"api"`)
				assert.Contains(t, text, `"path":"/a\n\"b\""`, "escaped")
			}
		})
	}
}

// Clients put tokens into paths and everything else that they control.
func TestDecisionLogHidesTokens(t *testing.T) {
	t.Parallel()
	const (
		header = "eyJhbGciOiJFZERTQSJ9"
		rest   = ".eyJpc3MiOiJodHRwczovL2EuZXhhbXBsZSIsImF1ZCI6ImFwaSIsImV4cCI6MTk5OTk5OTk5OX0.c2lnbmF0dXJlc2lnbmF0dXJlc2lnbmF0dXJl"
		token  = header + rest
	)
	escaped := func(dot string) string { return strings.ReplaceAll(token, ".", dot) }
	for path, want := range map[string]string{
		"/verify/" + token:                                                   "/verify/[token]",
		"/verify/" + token + "/x?y":                                          "/verify/[token]/x",
		"/verify_" + token:                                                   "/verify_[token]",
		"/cb;access_token=" + token + ";a=b":                                 "/cb;access_token=[token];a=b",
		"/cb%3Faccess_token=" + token + "&a=b":                               "/cb%3Faccess_token=[token]&a=b",
		"/#access_token=" + token:                                            "/#access_token=[token]",
		"/" + escaped("%2E") + "/" + escaped("%2e"):                          "/[token]/[token]",
		"/" + escaped("%252E"):                                               "/[token]",
		"/" + token + "~WyJzYWx0IiwiYSIsMV0~/x":                              "/[token]/x",
		"/ewogImFsZyI6ICJFUzI1NiIKfQ" + rest:                                 "/[token]", // header with line breaks
		"/IHsiYWxnIjoiRVMyNTYifQ.Cnsi" + rest[3:]:                            "/[token]", // white space before both objects
		"/ICAgICB7ICJhbGciOiJFUzI1NiJ9.CgkNICB7Ig" + rest[3:]:                "/[token]",
		"/eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..aXZpdml2aXZpdml2.Yw.dGFn": "/[token]", // JWE with an empty key
		"/" + header + header + header + rest:                                "/[token]",
		"/" + strings.Repeat("x", 250) + token:                               "/" + strings.Repeat("x", 250) + "[toke",
		"/" + strings.Repeat("x", 300) + token:                               "/" + strings.Repeat("x", 255),
		"/eyJ" + strings.Repeat("a", 10_000) + rest:                          "/[token]",
		"/" + strings.Repeat(token+"/", 100):                                 ("/" + strings.Repeat("[token]/", 32))[:256],
		"/" + strings.Repeat("eyJ", 1<<20):                                   ("/" + strings.Repeat("eyJ", 100))[:256], // takes hours if the search for the end restarts at each "eyJ"
		"/" + strings.Repeat("ICAg", 1<<18):                                  ("/" + strings.Repeat("ICAg", 100))[:256],
		"/" + strings.Repeat(header+".", 1<<16):                              "/[token]",
		"/" + strings.Repeat(header+"%", 1<<16):                              ("/" + strings.Repeat(header+"%", 20))[:256],
		// Not tokens.
		"/keyJoin/moneyJar.html":                 "/keyJoin/moneyJar.html",
		"/eyewitness-reports-of-2024.html":       "/eyewitness-reports-of-2024.html",
		"/pages/eyJpZCI6MTIzNDU2Nzg5MH0":         "/pages/eyJpZCI6MTIzNDU2Nzg5MH0",
		"/pages/eyJpZCI6MTIzNDU2Nzg5MH0.png":     "/pages/eyJpZCI6MTIzNDU2Nzg5MH0.png",
		"/a.b.c/e/ey/eyJ":                        "/a.b.c/e/ey/eyJ",
		"/exchange-rates-history.2024-01-02-all": "/exchange-rates-history.2024-01-02-all",
		"/ICAgICAgICAgICAgICAg.ICAgICAgICAgICAg": "/ICAgICAgICAgICAgICAg.ICAgICAgICAgICAg",
		"/%":                                     "/%",
		"/eyJpZCI6MTIzNDU2Nzg5MH0%25":            "/eyJpZCI6MTIzNDU2Nzg5MH0%25",
	} {
		name := path[:min(len(path), 40)]
		var out bytes.Buffer
		s, err := NewServer(allowAll(), testConfig(), Options{Logger: slog.New(slog.NewJSONHandler(&out, nil))})
		require.NoError(t, err)
		s.log.decision(&authz.Request{Method: "GET", Path: path, Headers: []authz.Header{{Name: "x-request-id", Value: token}}, Host: token + ".example", Source: authz.Peer{Address: token}}, &authz.Decision{Detail: "kid " + token}, 0)
		require.NoError(t, s.Drain(t.Context()))
		var record struct {
			Path                 string `json:"path"`
			RequestID            string `json:"request_id"`
			Host, Source, Detail string
		}
		require.NoError(t, json.Unmarshal(out.Bytes(), &record), name)
		assert.Equal(t, want, record.Path, name)
		assert.Equal(t, []string{"[token]", "[token]", "[token]", "kid [token]"}, []string{record.RequestID, record.Host, record.Source, record.Detail})
	}
}

// The cause of a denial is at the end of its reason.
func TestDecisionLogKeepsTheEnd(t *testing.T) {
	t.Parallel()
	const token = "eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJodHRwczovL2EuZXhhbXBsZSIsImF1ZCI6ImFwaSIsImV4cCI6MTk5OTk5OTk5OX0.c2lnbmF0dXJlc2lnbmF0dXJl"
	for name, detail := range map[string]string{
		"ASCII":     "keys of https://issuer.example: " + strings.Repeat("x", 2000) + ": connection refused",
		"two bytes": "keys of https://issuer.example: " + strings.Repeat("é", 2000) + ": connection refused",
		"tokens":    "keys of https://issuer.example: " + strings.Repeat(token+" ", 100) + ": connection refused",
		"short":     "keys of https://issuer.example: connection refused",
	} {
		var out bytes.Buffer
		s, err := NewServer(allowAll(), testConfig(), Options{Logger: slog.New(slog.NewJSONHandler(&out, nil))})
		require.NoError(t, err)
		s.log.decision(&authz.Request{Method: "GET", Path: "/"}, &authz.Decision{Detail: detail}, 0)
		require.NoError(t, s.Drain(t.Context()))
		var record struct{ Detail string }
		require.NoError(t, json.Unmarshal(out.Bytes(), &record), name)
		assert.LessOrEqual(t, len(record.Detail), 256, name)
		assert.True(t, utf8.ValidString(record.Detail), name)
		assert.True(t, strings.HasPrefix(record.Detail, "keys of https://issuer.example: "), "%s: %s", name, record.Detail)
		assert.True(t, strings.HasSuffix(record.Detail, ": connection refused"), "%s: %s", name, record.Detail)
		assert.NotContains(t, record.Detail, "eyJ", name)
	}
}

func TestDecisionLogIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		cfg := testConfig()
		cfg.DecisionLog.PerSecond = 3
		s, err := NewServer(decide(authz.Decision{Reason: authz.ReasonRevoked}), cfg, Options{Logger: slog.New(slog.NewJSONHandler(&out, nil))})
		require.NoError(t, err)
		wire := marshal(t, checkRequest(nil))
		for range 2 {
			for range 10 {
				s.check(t.Context(), wire)
			}
			time.Sleep(time.Second) // synctest
		}
		require.NoError(t, s.Drain(t.Context()))
		assert.Equal(t, 6, strings.Count(out.String(), "\n"))
		assert.InDelta(t, 14, testutil.ToFloat64(s.metrics.logDropped), 0)
	})
}
