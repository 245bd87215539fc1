package httpapi_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/httpapitest"
)

func TestRevoke(t *testing.T) {
	t.Parallel()
	future := time.Now().Add(time.Hour).Unix()
	jwt := httpapitest.UnsignedJWT(fmt.Sprintf(`{"iss":%q,"exp":%d}`, httpapitest.IssuerA, future))
	for name, c := range map[string]struct {
		body string
		want authz.Revocation
	}{
		"jti":                {`{"jti":"x"}`, authz.Revocation{Kind: authz.KindJTI, Value: "x"}},
		"sub with times":     {`{"sub":"bob","not_before":"2026-01-02T03:04:05Z","reason":"left"}`, authz.Revocation{Kind: authz.KindSub, Value: "bob", NotBefore: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Reason: "left"}},
		"numeric date":       {`{"sub":"bob","not_before":1767323045}`, authz.Revocation{Kind: authz.KindSub, Value: "bob", NotBefore: time.Unix(1767323045, 0)}},
		"null means absent":  {`{"sid":"s","jti":null,"not_before":null}`, authz.Revocation{Kind: authz.KindSID, Value: "s"}},
		"kid":                {`{"kid":"k","iss":"` + httpapitest.IssuerA + `"}`, authz.Revocation{Kind: authz.KindKID, Value: "k"}},
		"expires":            {fmt.Sprintf(`{"jti":"x","expires_at":%d}`, future), authz.Revocation{Kind: authz.KindJTI, Value: "x", ExpiresAt: time.Unix(future, 0)}},
		"token hash":         {`{"token":"` + strings.Repeat("0a", 32) + `"}`, authz.Revocation{Kind: authz.KindToken, Value: strings.Repeat("0a", 32)}},
		"whole token":        {`{"token":"` + jwt + `"}`, authz.Revocation{Kind: authz.KindToken, Value: authz.TokenValue(jwt), ExpiresAt: time.Unix(future, 0).Add(authz.ExpiryMargin)}},
		"issuer":             {`{"iss":"` + httpapitest.IssuerA + `","all":true,"not_before":1767323045}`, authz.Revocation{Kind: authz.KindIss, NotBefore: time.Unix(1767323045, 0)}},
		"client":             {`{"client":"app"}`, authz.Revocation{Kind: authz.KindClient, Value: "app"}},
		"actor":              {`{"actor":"agent"}`, authz.Revocation{Kind: authz.KindActor, Value: "agent"}},
		"unicode and quotes": {`{"sub":"Zoë \"\u0007\" \ud83d\ude00"}`, authz.Revocation{Kind: authz.KindSub, Value: "Zoë \"\a\" 😀"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := httpapitest.New(t, nil)
			w := b.Do("POST", "/v1/revocations", c.body)
			require.Equal(t, http.StatusCreated, w.Code, w.Body)
			var out httpapi.Receipt
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &out))
			stored := b.Ledger.All()
			require.Len(t, stored, 1)
			got := stored[0]
			assert.Equal(t, c.want.Kind, got.Kind)
			assert.Equal(t, httpapitest.IssuerA, got.Issuer)
			assert.Equal(t, c.want.Value, got.Value)
			assert.Equal(t, c.want.Reason, got.Reason)
			assert.Equal(t, "local", got.RevokedBy)
			if c.want.NotBefore.IsZero() && got.Kind.ByTime() {
				assert.False(t, got.NotBefore.IsZero(), "filled by the core")
			} else {
				assert.True(t, c.want.NotBefore.Equal(got.NotBefore), "%s", got.NotBefore)
			}
			if !c.want.ExpiresAt.IsZero() {
				assert.True(t, c.want.ExpiresAt.Equal(got.ExpiresAt), "%s", got.ExpiresAt)
			}
			assert.Equal(t, got.ID, out.ID)
			assert.Equal(t, []string{got.ID}, out.IDs)
			assert.Equal(t, 30.0, out.EnforcedWithin)
			assert.True(t, out.Published)
			assert.False(t, out.Enforced)
			committed, err := time.Parse(time.RFC3339Nano, out.Committed)
			require.NoError(t, err)
			assert.False(t, committed.IsZero())
			assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		})
	}
}

func TestRevokeRefuses(t *testing.T) {
	t.Parallel()
	expired := httpapitest.UnsignedJWT(fmt.Sprintf(`{"iss":%q,"exp":1600000000}`, httpapitest.IssuerA))
	for name, c := range map[string]struct {
		body   string
		status int
		field  string
		says   string
		index  int
	}{
		"empty":                     {"", 400, "", "empty", 0},
		"no object":                 {`"jti"`, 400, "", "type", 0},
		"empty array":               {`[]`, 400, "", "empty", 0},
		"cut":                       {`{"jti":"x"`, 400, "", "well-formed", 0},
		"trailing":                  {`{"jti":"x"}{}`, 400, "", "well-formed", 0},
		"unknown member":            {`{"jti":"x","jtis":"y"}`, 400, "jtis", "not a member", 0},
		"other case":                {`{"JTI":"x"}`, 400, "JTI", "not a member", 0},
		"duplicate":                 {`{"jti":"x","jti":"y"}`, 400, "jti", "twice", 0},
		"not UTF-8":                 {"{\"jti\":\"\xff\"}", 400, "", "well-formed", 0},
		"lone surrogate":            {`{"jti":"\ud800"}`, 400, "", "well-formed", 0},
		"NUL":                       {`{"jti":"a\u0000b"}`, 400, "", "NUL", 0},
		"wrong type":                {`{"jti":7}`, 400, "jti", "wrong type", 0},
		"deep":                      {strings.Repeat("[", 20000), 400, "", "", 0},
		"nothing named":             {`{"reason":"x"}`, 400, "", "one of jti", 0},
		"only iss":                  {`{"iss":"` + httpapitest.IssuerA + `"}`, 400, "", `"all": true`, 0},
		"only iss and not_before":   {`{"iss":"` + httpapitest.IssuerA + `","not_before":1767323045}`, 400, "", `"all": true`, 0},
		"all without iss":           {`{"all":true}`, 400, "iss", "must be named", 0},
		"all with sub":              {`{"all":true,"iss":"` + httpapitest.IssuerA + `","sub":"x"}`, 400, "", "only one", 0},
		"two selectors":             {`{"jti":"x","sub":"y"}`, 400, "", "only one", 0},
		"empty value":               {`{"sub":""}`, 400, "sub", "empty", 0},
		"unknown issuer":            {`{"jti":"x","iss":"https://evil.example"}`, 400, "iss", "not a configured issuer", 0},
		"bad time":                  {`{"jti":"x","expires_at":"tomorrow"}`, 400, "expires_at", "RFC 3339", 0},
		"milliseconds":              {`{"sub":"x","not_before":1767323045000}`, 400, "not_before", "milliseconds", 0},
		"negative time":             {`{"sub":"x","not_before":-1}`, 400, "not_before", "seconds", 0},
		"time of wrong type":        {`{"sub":"x","not_before":true}`, 400, "not_before", "needed", 0},
		"expired":                   {`{"jti":"x","expires_at":1600000000}`, 400, "expires_at", "has passed", 0},
		"token too short":           {`{"token":"abc"}`, 400, "token", "neither", 0},
		"token upper case":          {`{"token":"` + strings.Repeat("0A", 32) + `"}`, 400, "token", "neither", 0},
		"token of other issuer":     {`{"token":"` + httpapitest.UnsignedJWT(`{"iss":"https://evil.example"}`) + `"}`, 400, "token", "not configured", 0},
		"token without exp":         {`{"token":"` + httpapitest.UnsignedJWT(`{"iss":"`+httpapitest.IssuerA+`"}`) + `"}`, 400, "token", "has no exp", 0},
		"token that lives longer":   {`{"token":"` + httpapitest.UnsignedJWT(`{"iss":"`+httpapitest.IssuerA+`","exp":4102444800}`) + `","expires_at":4102444799}`, 400, "expires_at", "leave expires_at out", 0},
		"token without iss":         {`{"token":"` + httpapitest.UnsignedJWT(`{}`) + `"}`, 400, "token", "names no issuer", 0},
		"expired token":             {`{"token":"` + expired + `"}`, 400, "token", "expired", 0},
		"not a JWT":                 {`{"token":"a.b.c"}`, 400, "token", "not a compact JWT", 0},
		"a JWT where a jti belongs": {`{"jti":"` + expired + `"}`, 400, "jti", "looks like a token", 0},
		"one with line breaks":      {`{"jti":"ewogImFsZyI6ICJFUzI1NiIKfQ.eyJpc3MiOiJhIn0.c2lnbmF0dXJl"}`, 400, "jti", "looks like a token", 0},
		"a JWT in the reason":       {`{"jti":"x","reason":"see ` + expired + `"}`, 400, "reason", "looks like a token", 0},
		"long":                      {`{"jti":"` + strings.Repeat("x", 1025) + `"}`, 400, "", "1024", 0},
		"second of three":           {`[{"jti":"x"},{"jti":""},{"jti":"z"}]`, 400, "jti", "empty", 1},
		"third has bad JSON type":   {`[{"jti":"x"},{"jti":"y"},{"jti":[]}]`, 400, "jti", "wrong type", 2},
		"too many":                  {"[" + strings.Repeat(`{"jti":"x"},`, 10000) + `{"jti":"x"}]`, 400, "", "10000", 0},
		"huge":                      {`{"jti":"` + strings.Repeat("x", 3<<20) + `"}`, 413, "", "bytes", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := httpapitest.New(t, nil)
			w := b.Do("POST", "/v1/revocations", c.body)
			require.Equal(t, c.status, w.Code, w.Body)
			assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
			assert.Contains(t, w.Body.String(), jsonText(c.says))
			var p httpapi.Problem
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
			if c.field != "" || c.index > 0 {
				require.NotEmpty(t, p.Errors)
				assert.Equal(t, c.field, p.Errors[0].Field)
				assert.Equal(t, c.index, p.Errors[0].Index)
			}
			assert.Empty(t, b.Ledger.All(), "all or none")
			assert.NotContains(t, w.Body.String(), "eyJ", "an answer repeats no token")
		})
	}
}

func jsonText(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return strings.Trim(string(b), `"`)
}

func TestRevokeSeveralIssuers(t *testing.T) {
	t.Parallel()
	two := func(o *httpapitest.Setup) { o.Issuers.Verified = []string{httpapitest.IssuerA, httpapitest.IssuerB} }
	b := httpapitest.New(t, two)
	w := b.Do("POST", "/v1/revocations", `{"jti":"x"}`)
	require.Equal(t, 400, w.Code)
	assert.Contains(t, w.Body.String(), "more than one issuer")
	token := httpapitest.UnsignedJWT(fmt.Sprintf(`{"iss":%q,"exp":4102444800}`, httpapitest.IssuerB))
	require.Equal(t, 201, b.Do("POST", "/v1/revocations", `{"token":"`+token+`"}`).Code)
	assert.Equal(t, httpapitest.IssuerB, b.Ledger.All()[0].Issuer, "the token's own word scopes it")
	w = b.Do("POST", "/v1/revocations", `{"iss":"`+httpapitest.IssuerA+`","token":"`+token+`"}`)
	require.Equal(t, 400, w.Code)
	assert.Contains(t, w.Body.String(), "not the issuer that the token names")
}

func TestRevokeBulkIsIdempotent(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, nil)
	body := `[{"jti":"a"},{"sub":"b","not_before":1767323045},{"sid":"c"}]`
	first := b.Do("POST", "/v1/revocations", body)
	second := b.Do("POST", "/v1/revocations?wait=none", body)
	require.Equal(t, 201, first.Code, first.Body)
	require.Equal(t, 201, second.Code)
	var one, two httpapi.Receipt
	require.NoError(t, json.Unmarshal(first.Body.Bytes(), &one))
	require.NoError(t, json.Unmarshal(second.Body.Bytes(), &two))
	assert.Equal(t, one.IDs, two.IDs)
	assert.Len(t, one.Revocations, 3)
	assert.Empty(t, one.ID, "a list has no single id")
	assert.Len(t, b.Ledger.All(), 3)
}

func TestRevokeRefusesMalformedQueries(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, nil)
	for _, query := range []string{"wait=never", "wait=none&wait=enforced", "weit=enforced", "wait=enforced;x", "wait=enforced%"} {
		w := b.Do("POST", "/v1/revocations?"+query, `{"jti":"x"}`)
		assert.Equal(t, 400, w.Code, query)
	}
	assert.Empty(t, b.Ledger.All())
}

func TestRevokeLedgerFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err    error
		status int
		kind   string
	}{
		"away":            {fmt.Errorf("dial 10.1.2.3: %w", authz.ErrUnavailable), 503, httpapi.TypeUnavailable},
		"outcome unknown": {fmt.Errorf("commit: %w", authz.ErrOutcomeUnknown), 504, httpapi.TypeOutcomeUnknown},
		"both":            {errors.Join(authz.ErrUnavailable, authz.ErrOutcomeUnknown), 504, httpapi.TypeOutcomeUnknown},
		"anything else":   {errors.New("what"), 504, httpapi.TypeOutcomeUnknown},
		"invalid":         {fmt.Errorf("%w: expires_at: too late", authz.ErrInvalid), 400, httpapi.TypeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := httpapitest.New(t, nil)
			b.Ledger.SetFail(c.err)
			w := b.Do("POST", "/v1/revocations?wait=enforced", `{"jti":"x"}`)
			require.Equal(t, c.status, w.Code, w.Body)
			var p httpapi.Problem
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
			assert.Equal(t, c.kind, p.Type)
			assert.NotContains(t, w.Body.String(), "10.1.2.3", "the detail is for the log")
			if c.status >= 500 {
				assert.NotEmpty(t, w.Header().Get("Retry-After"))
			}
			b.Ledger.SetFail(nil)
			assert.Equal(t, 201, b.Do("POST", "/v1/revocations", `{"jti":"x"}`).Code, "repeating succeeds")
		})
	}
}

func TestListRevocations(t *testing.T) {
	t.Parallel()
	b := httpapitest.New(t, func(o *httpapitest.Setup) { o.Issuers.Verified = []string{httpapitest.IssuerA, httpapitest.IssuerB} })
	for i := range 7 {
		require.Equal(t, 201, b.Do("POST", "/v1/revocations", fmt.Sprintf(`{"iss":%q,"jti":"t%d"}`, []string{httpapitest.IssuerA, httpapitest.IssuerB}[i%2], i)).Code)
	}
	var got []string
	cursor := ""
	for pages := 0; ; pages++ {
		require.Less(t, pages, 10)
		w := b.Do("GET", "/v1/revocations?kind=jti&limit=2&cursor="+cursor+"&iss="+httpapitest.IssuerA, "")
		require.Equal(t, 200, w.Code, w.Body)
		var out httpapi.ListPage
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &out))
		for _, r := range out.Revocations {
			got = append(got, r.Value)
		}
		if cursor = out.Next; cursor == "" {
			break
		}
	}
	assert.Equal(t, []string{"t6", "t4", "t2", "t0"}, got)
	for _, query := range []string{"kind=jit", "limit=0", "limit=1001", "limit=x", "include_expired=maybe", "foo=bar", "iss=a&iss=b", "cursor=zzz", "value=%00", "iss=%ff", "value=" + strings.Repeat("x", 1025),
		// What net/url cannot read must not be left out of the filter.
		"kind=jti&value=50%off", "value=a;b", "%zz"} {
		w := b.Do("GET", "/v1/revocations?"+query, "")
		assert.Equal(t, 400, w.Code, query)
	}
	b.Ledger.SetFail(authz.ErrUnavailable)
	assert.Equal(t, 503, b.Do("GET", "/v1/revocations", "").Code)
}

func TestWaitEnforced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		draining := make(chan struct{})
		b := httpapitest.New(t, func(o *httpapitest.Setup) { o.Draining = draining })
		start := time.Now()
		w := b.Do("POST", "/v1/revocations?wait=enforced", `{"jti":"x"}`)
		require.Equal(t, 201, w.Code)
		assert.Contains(t, w.Body.String(), `"enforced":true`)
		assert.Equal(t, 30*time.Second, time.Since(start))

		done := make(chan *httptest.ResponseRecorder)
		go func() { done <- b.Do("POST", "/v1/revocations?wait=enforced", `{"jti":"y"}`) }()
		synctest.Wait()
		close(draining)
		w = <-done
		require.Equal(t, 201, w.Code, "it is committed")
		assert.Contains(t, w.Body.String(), `"enforced":false`, "but what was not waited for is not claimed")

		ctx, hangUp := context.WithCancel(t.Context())
		hangUp()
		rec := httptest.NewRecorder()
		b.API.ServeHTTP(rec, httpapitest.Request("POST", "/v1/revocations", `{"jti":"z"}`).WithContext(ctx))
		assert.Len(t, b.Ledger.All(), 3, "a caller that hangs up does not undo the revocation")
	})
	b := httpapitest.New(t, nil)
	for _, q := range []string{"wait=forever", "wait=none&wait=none", "await=none"} {
		assert.Equal(t, 400, b.Do("POST", "/v1/revocations?"+q, `{"jti":"x"}`).Code, q)
	}
}

// A byte order mark before the body is skipped (RFC 8259, section 8.1).
func TestRequestsAfterAByteOrderMark(t *testing.T) {
	t.Parallel()
	requests, list, err := httpapi.DecodeRequests([]byte("\ufeff" + `[{"jti":"x"}]`))
	require.NoError(t, err)
	require.True(t, list)
	require.Equal(t, "x", *requests[0].JTI)
	_, _, err = httpapi.DecodeRequests([]byte("\ufeff"))
	require.Error(t, err)
}
