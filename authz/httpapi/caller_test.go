package httpapi_test

import (
	"jwtbouncer/authz/httpapi/httpapitest"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAPIToken(t *testing.T) {
	t.Parallel()
	path := httpapitest.SecretFile(t, "# people\nalice "+httpapitest.APIToken+"\n\nanother-valid-token-2\n")
	for name, c := range map[string]struct {
		header string
		status int
		actor  string
	}{
		"named":           {"Bearer " + httpapitest.APIToken, 201, "api:alice"},
		"unnamed":         {"bearer another-valid-token-2", 201, "api:token-2"},
		"none":            {"", 401, ""},
		"empty":           {"Bearer ", 401, ""},
		"wrong":           {"Bearer correct-horse-batterz", 401, ""},
		"prefix":          {"Bearer correct-horse-batter", 401, ""},
		"longer":          {"Bearer " + httpapitest.APIToken + "x", 401, ""},
		"the name":        {"Bearer alice", 401, ""},
		"name and token":  {"Bearer alice " + httpapitest.APIToken, 401, ""},
		"comment":         {"Bearer # people", 401, ""},
		"other scheme":    {"Basic " + httpapitest.APIToken, 401, ""},
		"scheme left out": {httpapitest.APIToken, 401, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := httpapitest.New(t, httpapitest.WithToken(path))
			w := b.Do("POST", "/v1/revocations", `{"jti":"x"}`, "Authorization", c.header, "Host", "api.example")
			require.Equal(t, c.status, w.Code, w.Body)
			if c.status == 201 {
				assert.Equal(t, c.actor, b.Ledger.All()[0].RevokedBy)
				return
			}
			assert.Contains(t, w.Header().Get("WWW-Authenticate"), "Bearer")
			assert.Empty(t, b.Ledger.All())
		})
	}
	b := httpapitest.New(t, httpapitest.WithToken(path))
	r := httpapitest.Request("POST", "/v1/revocations", `{"jti":"x"}`, "Authorization", "Bearer "+httpapitest.APIToken)
	r.Header.Add("Authorization", "Bearer "+httpapitest.APIToken)
	w := httptest.NewRecorder()
	b.API.ServeHTTP(w, r)
	assert.Equal(t, 401, w.Code, "two credentials")
}

func TestAPITokenRotates(t *testing.T) {
	t.Parallel()
	path := httpapitest.SecretFile(t, httpapitest.APIToken)
	b := httpapitest.New(t, httpapitest.WithToken(path))
	status := func(token string) int {
		return b.Do("GET", "/v1/revocations", "", "Authorization", "Bearer "+token).Code
	}
	replace := func(text string) {
		next := path + ".new"
		require.NoError(t, os.WriteFile(next, []byte(text), 0o600))
		require.NoError(t, os.Rename(next, path))
	}
	require.Equal(t, 200, status(httpapitest.APIToken))
	replace(httpapitest.APIToken + "\nthe-new-token-number-2\n")
	assert.Equal(t, 200, status(httpapitest.APIToken))
	assert.Equal(t, 200, status("the-new-token-number-2"))
	replace("the-new-token-number-2")
	assert.Equal(t, 401, status(httpapitest.APIToken), "withdrawn")
	replace("short")
	assert.Equal(t, 503, status("the-new-token-number-2"), "an invalid file admits no one, and is not a refusal")
	require.NoError(t, os.Remove(path))
	assert.Equal(t, 503, status("the-new-token-number-2"))
	replace("the-new-token-number-2")
	assert.Equal(t, 200, status("the-new-token-number-2"))
	assert.NotContains(t, b.Log.String(), "the-new-token")
}

func TestOtherSitesAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		header []string
		status int
	}{
		"localhost":          {[]string{"Host", "localhost:9192"}, 201},
		"LOCALHOST":          {[]string{"Host", "LOCALHOST"}, 201},
		"IPv6":               {[]string{"Host", "[::1]:9192"}, 201},
		"configured":         {[]string{"Host", "bouncer.internal:80"}, 201},
		"rebinding":          {[]string{"Host", "evil.example:9192"}, 403},
		"rebinding, dotted":  {[]string{"Host", "127.0.0.1.evil.example"}, 403},
		"no host":            {[]string{"Host", ""}, 403},
		"cross-site fetch":   {[]string{"Sec-Fetch-Site", "cross-site"}, 403},
		"same-site fetch":    {[]string{"Sec-Fetch-Site", "same-site"}, 403},
		"same-origin fetch":  {[]string{"Sec-Fetch-Site", "same-origin"}, 201},
		"other origin":       {[]string{"Origin", "https://evil.example"}, 403},
		"null origin":        {[]string{"Origin", "null"}, 403},
		"simple form":        {[]string{"Content-Type", "text/plain"}, 415},
		"no type":            {[]string{"Content-Type", ""}, 415},
		"type with a suffix": {[]string{"Content-Type", "application/json; charset=utf-8"}, 201},
		"encoded":            {[]string{"Content-Encoding", "gzip"}, 415},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := httpapitest.New(t, func(o *httpapitest.Setup) { o.Config.Hosts = []string{"bouncer.internal"} })
			w := b.Do("POST", "/v1/revocations", `{"jti":"x"}`, c.header...)
			require.Equal(t, c.status, w.Code, w.Body)
			assert.Empty(t, w.Header().Get("Access-Control-Allow-Origin"))
			assert.Equal(t, c.status == 201, len(b.Ledger.All()) == 1)
		})
	}
}
