package policy

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz"
)

func TestFindInHeader(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		values []string
		raw    string
		scheme string
		want   authz.Reason // ReasonAllowed: found
	}{
		{[]string{"Bearer a.b.c"}, "a.b.c", "bearer", authz.ReasonAllowed},
		{[]string{"bEARER a.b.c"}, "a.b.c", "bearer", authz.ReasonAllowed},
		{[]string{"Bearer   a.b.c "}, "a.b.c", "bearer", authz.ReasonAllowed},
		{[]string{"Bearer abc+/~-_=="}, "abc+/~-_==", "bearer", authz.ReasonAllowed},
		{[]string{"DPoP a.b.c"}, "a.b.c", "dpop", authz.ReasonAllowed},
		{nil, "", "", authz.ReasonNoCredential},
		{[]string{"Basic dXNlcjpwYXNz"}, "", "", authz.ReasonNoCredential},
		{[]string{"Digest a=b, c=d"}, "", "", authz.ReasonNoCredential},
		{[]string{"Bearerx a"}, "", "", authz.ReasonNoCredential},
		{[]string{""}, "", "", authz.ReasonMalformedRequest},
		{[]string{"  "}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Bearer"}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Bearer "}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Bearer\ta.b.c"}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Bearer,a"}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Bearer=a"}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Bearer ="}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Bearer a=b"}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Bearer a b"}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Bearer a, Bearer b"}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Bearer a,b"}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Basic abc, Bearer b"}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Basic abc,bearer b"}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Bearer a\x00b"}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Bearer \"a\""}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Bearer a;b"}, "", "", authz.ReasonMalformedRequest},
		{[]string{"(Bearer) a"}, "", "", authz.ReasonMalformedRequest},
		{[]string{"B\xc3\xa9arer a"}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Bearer a", "Bearer a"}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Bearer a", "Basic a"}, "", "", authz.ReasonMalformedRequest},
		{[]string{"Basic a", ""}, "", "", authz.ReasonMalformedRequest},
	} {
		req := &authz.Request{}
		for _, v := range tt.values {
			req.Headers = append(req.Headers, authz.Header{Name: "authorization", Value: v})
		}
		cred, fail := (&Route{}).Find(req)
		got := authz.ReasonAllowed
		if fail != nil {
			got = fail.Reason
		}
		assert.Equalf(t, tt.want, got, "%q: %+v %v %q", tt.values, cred, got, tt.raw)
		assert.Equalf(t, tt.raw, cred.Raw, "%q: %+v %v, want %s %q", tt.values, cred, got, tt.want, tt.raw)
		assert.Equalf(t, tt.scheme, cred.Scheme, "%q: %+v %v, want %s %q", tt.values, cred, got, tt.want, tt.raw)
	}
}

func TestFindElsewhere(t *testing.T) {
	t.Parallel()
	both := CredentialsConfig{Cookies: []string{"session"}, Queries: []string{"access_token"}}
	iap := CredentialsConfig{Headers: []string{"X-Goog-IAP-JWT-Assertion"}}
	for name, tt := range map[string]struct {
		config  CredentialsConfig
		headers []authz.Header
		path    string
		raw     string
		source  string
		want    authz.Reason
	}{
		"cookie":                    {both, []authz.Header{{Name: "cookie", Value: "a=b; session=x.y.z; c=d"}}, "/", "x.y.z", "cookie:session", authz.ReasonAllowed},
		"cookie quoted":             {both, []authz.Header{{Name: "cookie", Value: `session="x.y.z"`}}, "/", "x.y.z", "cookie:session", authz.ReasonAllowed},
		"cookie in second header":   {both, []authz.Header{{Name: "cookie", Value: "a=b"}, {Name: "cookie", Value: "session=x"}}, "/", "x", "cookie:session", authz.ReasonAllowed},
		"cookie empty":              {both, []authz.Header{{Name: "cookie", Value: "session="}}, "/", "", "", authz.ReasonNoCredential},
		"cookie not configured":     {CredentialsConfig{}, []authz.Header{{Name: "cookie", Value: "session=x"}}, "/", "", "", authz.ReasonNoCredential},
		"cookie name is sensitive":  {both, []authz.Header{{Name: "cookie", Value: "Session=x"}}, "/", "", "", authz.ReasonNoCredential},
		"cookie twice":              {both, []authz.Header{{Name: "cookie", Value: "session=x; session=y"}}, "/", "", "", authz.ReasonMalformedRequest},
		"cookie twice in two":       {both, []authz.Header{{Name: "cookie", Value: "session=x"}, {Name: "cookie", Value: "session=y"}}, "/", "", "", authz.ReasonMalformedRequest},
		"equal cookies":             {both, []authz.Header{{Name: "cookie", Value: `session=x; session="x"`}, {Name: "cookie", Value: "a=b; session=x"}}, "/", "x", "cookie:session", authz.ReasonAllowed},
		"equal, equal, different":   {both, []authz.Header{{Name: "cookie", Value: "session=x; session=x; session=y"}}, "/", "", "", authz.ReasonMalformedRequest},
		"different, equal":          {both, []authz.Header{{Name: "cookie", Value: "session=x; session=y; session=x"}}, "/", "", "", authz.ReasonMalformedRequest},
		"equal in two cookies":      {CredentialsConfig{Cookies: []string{"a", "b"}}, []authz.Header{{Name: "cookie", Value: "a=x; b=x"}}, "/", "", "", authz.ReasonMalformedRequest},
		"in a header":               {iap, []authz.Header{{Name: "x-goog-iap-jwt-assertion", Value: " x.y.z "}}, "/", "x.y.z", "header:x-goog-iap-jwt-assertion", authz.ReasonAllowed},
		"in a header, empty":        {iap, []authz.Header{{Name: "x-goog-iap-jwt-assertion", Value: ""}}, "/", "", "", authz.ReasonNoCredential},
		"in a header twice":         {iap, []authz.Header{{Name: "x-goog-iap-jwt-assertion", Value: "x.y.z"}, {Name: "x-goog-iap-jwt-assertion", Value: "x.y.z"}}, "/", "", "", authz.ReasonMalformedRequest},
		"in a joined header":        {iap, []authz.Header{{Name: "x-goog-iap-jwt-assertion", Value: "x.y.z,x.y.z"}}, "/", "", "", authz.ReasonMalformedRequest},
		"in a header, with scheme":  {iap, []authz.Header{{Name: "x-goog-iap-jwt-assertion", Value: "Bearer x.y.z"}}, "/", "", "", authz.ReasonMalformedRequest},
		"in a lookalike":            {iap, []authz.Header{{Name: "x_goog_iap_jwt_assertion", Value: "x.y.z"}}, "/", "", "", authz.ReasonMalformedRequest},
		"in a header and lookalike": {iap, []authz.Header{{Name: "x-goog-iap-jwt-assertion", Value: "x.y.z"}, {Name: "x-goog_iap-jwt-assertion", Value: "x.y.z"}}, "/", "", "", authz.ReasonMalformedRequest},
		"in two headers":            {CredentialsConfig{Headers: []string{"x-a", "x-b"}}, []authz.Header{{Name: "x-a", Value: "x.y"}, {Name: "x-b", Value: "x.y"}}, "/", "", "", authz.ReasonMalformedRequest},
		"header and Authorization":  {iap, []authz.Header{{Name: "authorization", Value: "Bearer a"}, {Name: "x-goog-iap-jwt-assertion", Value: "x.y.z"}}, "/", "", "", authz.ReasonMalformedRequest},
		"header and cookie value":   {CredentialsConfig{Headers: []string{"x-a"}, Cookies: []string{"s"}}, []authz.Header{{Name: "cookie", Value: "s=x"}, {Name: "x-a", Value: "x"}}, "/", "", "", authz.ReasonMalformedRequest},
		"basic and header":          {iap, []authz.Header{{Name: "authorization", Value: "Basic a"}, {Name: "x-goog-iap-jwt-assertion", Value: "x.y.z"}}, "/", "x.y.z", "header:x-goog-iap-jwt-assertion", authz.ReasonAllowed},
		"header not configured":     {both, []authz.Header{{Name: "x-goog-iap-jwt-assertion", Value: "x.y.z"}}, "/", "", "", authz.ReasonNoCredential},
		"query":                     {both, nil, "/a?b=c&access_token=x.y.z#f", "x.y.z", "query:access_token", authz.ReasonAllowed},
		"query encoded":             {both, nil, "/a?access%5Ftoken=x%2Ey", "x.y", "query:access_token", authz.ReasonAllowed},
		"query twice":               {both, nil, "/a?access_token=x&access_token=x", "", "", authz.ReasonMalformedRequest},
		"query twice, encoded":      {both, nil, "/a?access_token=x&access%5ftoken=y", "", "", authz.ReasonMalformedRequest},
		"query twice, semicolon":    {both, nil, "/a?access_token=x;access_token=y", "", "", authz.ReasonMalformedRequest},
		"query after a semicolon":   {both, nil, "/a?b=c;access_token=x.y.z", "", "", authz.ReasonMalformedRequest},
		"query before a semicolon":  {both, nil, "/a?access_token=x.y.z;b=c&d=e", "", "", authz.ReasonMalformedRequest},
		"query, ends in semicolon":  {both, nil, "/a?access_token=x.y.z;", "", "", authz.ReasonMalformedRequest},
		"query, empty at semicolon": {both, nil, "/a?b;access_token&c=d", "", "", authz.ReasonMalformedRequest},
		"query encoded, semicolon":  {both, nil, "/a?b=c;access%5Ftoken=x.y.z", "", "", authz.ReasonMalformedRequest},
		"semicolon elsewhere":       {both, nil, "/a;p?b=c;d=e&access_token=x%3By&f;g", "x;y", "query:access_token", authz.ReasonAllowed},
		"query empty":               {both, nil, "/a?access_token=&b", "", "", authz.ReasonNoCredential},
		"query bad escape":          {both, nil, "/a?access_token=%zz", "", "", authz.ReasonMalformedRequest},
		"query in fragment":         {both, nil, "/a#?access_token=x", "", "", authz.ReasonNoCredential},
		"query not configured":      {CredentialsConfig{Cookies: []string{"s"}}, nil, "/a?access_token=x", "", "", authz.ReasonNoCredential},
		"header and cookie":         {both, []authz.Header{{Name: "authorization", Value: "Bearer a"}, {Name: "cookie", Value: "session=a"}}, "/", "", "", authz.ReasonMalformedRequest},
		"header and query":          {both, []authz.Header{{Name: "authorization", Value: "Bearer a"}}, "/?access_token=a", "", "", authz.ReasonMalformedRequest},
		"cookie and query":          {both, []authz.Header{{Name: "cookie", Value: "session=a"}}, "/?access_token=a", "", "", authz.ReasonMalformedRequest},
		"basic and cookie":          {both, []authz.Header{{Name: "authorization", Value: "Basic a"}, {Name: "cookie", Value: "session=a"}}, "/", "a", "cookie:session", authz.ReasonAllowed},
		"bad header and cookie":     {both, []authz.Header{{Name: "authorization", Value: "Bearer"}, {Name: "cookie", Value: "session=a"}}, "/", "", "", authz.ReasonMalformedRequest},
		"header":                    {both, []authz.Header{{Name: "authorization", Value: "Bearer a"}}, "/", "a", "authorization", authz.ReasonAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := mustPolicy(t, RouteConfig{Credentials: tt.config})
			cred, fail := p.Routes()[0].Find(&authz.Request{Path: tt.path, Headers: tt.headers})
			got := authz.ReasonAllowed
			if fail != nil {
				got = fail.Reason
			}
			assert.Equalf(t, tt.want, got, "%+v, %v", cred, fail)
			assert.Equalf(t, tt.raw, cred.Raw, "%+v, %v", cred, fail)
			assert.Equalf(t, tt.source, cred.Source, "%+v, %v", cred, fail)
			if fail != nil {
				assert.NotContains(t, fail.Detail, "x.y", "the detail contains the token")
			}
		})
	}
}

func FuzzAuthorization(f *testing.F) {
	for _, s := range []string{"Bearer a.b.c", "DPoP x", "Basic dTpw", "Bearer a, Bearer b", "Basic x,bearer y", " Bearer  a= ", "Bearer\ta"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, v string) {
		cred, fail := parseAuthorization(v)
		if fail != nil {
			require.Equalf(t, authz.Credential{}, cred, "%q: %v", v, fail)
			require.Falsef(t, fail.Reason != authz.ReasonNoCredential && fail.Reason != authz.ReasonMalformedRequest, "%q: %+v %v", v, cred, fail)
			return
		}
		require.Falsef(t, !authz.IsToken68(cred.Raw) || cred.Scheme != "bearer" && cred.Scheme != "dpop", "%q: %+v", v, cred)
		// Printing and parsing the credential again is the identity.
		again, fail := parseAuthorization(cred.Scheme + " " + cred.Raw)
		require.Nilf(t, fail, "%q: %+v, then %+v %v", v, cred, again, fail)
		require.Equalf(t, cred, again, "%q, then %+v %v", v, again, fail)
	})
}
