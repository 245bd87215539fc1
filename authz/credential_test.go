package authz

import (
	"strings"
	"testing"
)

func TestFindInHeader(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		values []string
		raw    string
		scheme string
		want   Reason // ReasonAllowed: found
	}{
		{[]string{"Bearer a.b.c"}, "a.b.c", "bearer", ReasonAllowed},
		{[]string{"bEARER a.b.c"}, "a.b.c", "bearer", ReasonAllowed},
		{[]string{"Bearer   a.b.c "}, "a.b.c", "bearer", ReasonAllowed},
		{[]string{"Bearer abc+/~-_=="}, "abc+/~-_==", "bearer", ReasonAllowed},
		{[]string{"DPoP a.b.c"}, "a.b.c", "dpop", ReasonAllowed},
		{nil, "", "", ReasonNoCredential},
		{[]string{"Basic dXNlcjpwYXNz"}, "", "", ReasonNoCredential},
		{[]string{"Digest a=b, c=d"}, "", "", ReasonNoCredential},
		{[]string{"Bearerx a"}, "", "", ReasonNoCredential},
		{[]string{""}, "", "", ReasonMalformedRequest},
		{[]string{"  "}, "", "", ReasonMalformedRequest},
		{[]string{"Bearer"}, "", "", ReasonMalformedRequest},
		{[]string{"Bearer "}, "", "", ReasonMalformedRequest},
		{[]string{"Bearer\ta.b.c"}, "", "", ReasonMalformedRequest},
		{[]string{"Bearer,a"}, "", "", ReasonMalformedRequest},
		{[]string{"Bearer=a"}, "", "", ReasonMalformedRequest},
		{[]string{"Bearer ="}, "", "", ReasonMalformedRequest},
		{[]string{"Bearer a=b"}, "", "", ReasonMalformedRequest},
		{[]string{"Bearer a b"}, "", "", ReasonMalformedRequest},
		{[]string{"Bearer a, Bearer b"}, "", "", ReasonMalformedRequest},
		{[]string{"Bearer a,b"}, "", "", ReasonMalformedRequest},
		{[]string{"Basic abc, Bearer b"}, "", "", ReasonMalformedRequest},
		{[]string{"Basic abc,bearer b"}, "", "", ReasonMalformedRequest},
		{[]string{"Bearer a\x00b"}, "", "", ReasonMalformedRequest},
		{[]string{"Bearer \"a\""}, "", "", ReasonMalformedRequest},
		{[]string{"Bearer a;b"}, "", "", ReasonMalformedRequest},
		{[]string{"(Bearer) a"}, "", "", ReasonMalformedRequest},
		{[]string{"B\xc3\xa9arer a"}, "", "", ReasonMalformedRequest},
		{[]string{"Bearer a", "Bearer a"}, "", "", ReasonMalformedRequest},
		{[]string{"Bearer a", "Basic a"}, "", "", ReasonMalformedRequest},
		{[]string{"Basic a", ""}, "", "", ReasonMalformedRequest},
	} {
		req := &Request{}
		for _, v := range tt.values {
			req.Headers = append(req.Headers, Header{"authorization", v})
		}
		cred, fail := (&CompiledRoute{}).Find(req)
		got := ReasonAllowed
		if fail != nil {
			got = fail.Reason
		}
		if got != tt.want || cred.Raw != tt.raw || cred.Scheme != tt.scheme {
			t.Errorf("%q: %+v %v, want %s %q", tt.values, cred, got, tt.want, tt.raw)
		}
	}
}

func TestFindElsewhere(t *testing.T) {
	t.Parallel()
	both := CredentialsConfig{Cookies: []string{"session"}, Queries: []string{"access_token"}}
	for name, tt := range map[string]struct {
		config  CredentialsConfig
		headers []Header
		path    string
		raw     string
		source  string
		want    Reason
	}{
		"cookie":                    {both, []Header{{"cookie", "a=b; session=x.y.z; c=d"}}, "/", "x.y.z", "cookie:session", ReasonAllowed},
		"cookie quoted":             {both, []Header{{"cookie", `session="x.y.z"`}}, "/", "x.y.z", "cookie:session", ReasonAllowed},
		"cookie in second header":   {both, []Header{{"cookie", "a=b"}, {"cookie", "session=x"}}, "/", "x", "cookie:session", ReasonAllowed},
		"cookie empty":              {both, []Header{{"cookie", "session="}}, "/", "", "", ReasonNoCredential},
		"cookie not asked for":      {CredentialsConfig{}, []Header{{"cookie", "session=x"}}, "/", "", "", ReasonNoCredential},
		"cookie name is sensitive":  {both, []Header{{"cookie", "Session=x"}}, "/", "", "", ReasonNoCredential},
		"cookie twice":              {both, []Header{{"cookie", "session=x; session=y"}}, "/", "", "", ReasonMalformedRequest},
		"cookie twice in two":       {both, []Header{{"cookie", "session=x"}, {"cookie", "session=x"}}, "/", "", "", ReasonMalformedRequest},
		"query":                     {both, nil, "/a?b=c&access_token=x.y.z#f", "x.y.z", "query:access_token", ReasonAllowed},
		"query encoded":             {both, nil, "/a?access%5Ftoken=x%2Ey", "x.y", "query:access_token", ReasonAllowed},
		"query twice":               {both, nil, "/a?access_token=x&access_token=x", "", "", ReasonMalformedRequest},
		"query twice, encoded":      {both, nil, "/a?access_token=x&access%5ftoken=y", "", "", ReasonMalformedRequest},
		"query twice, semicolon":    {both, nil, "/a?access_token=x;access_token=y", "", "", ReasonMalformedRequest},
		"query behind a semicolon":  {both, nil, "/a?b=c;access_token=x.y.z", "", "", ReasonMalformedRequest},
		"query before a semicolon":  {both, nil, "/a?access_token=x.y.z;b=c&d=e", "", "", ReasonMalformedRequest},
		"query, ends in semicolon":  {both, nil, "/a?access_token=x.y.z;", "", "", ReasonMalformedRequest},
		"query, empty at semicolon": {both, nil, "/a?b;access_token&c=d", "", "", ReasonMalformedRequest},
		"query encoded, semicolon":  {both, nil, "/a?b=c;access%5Ftoken=x.y.z", "", "", ReasonMalformedRequest},
		"semicolon elsewhere":       {both, nil, "/a;p?b=c;d=e&access_token=x%3By&f;g", "x;y", "query:access_token", ReasonAllowed},
		"query empty":               {both, nil, "/a?access_token=&b", "", "", ReasonNoCredential},
		"query bad escape":          {both, nil, "/a?access_token=%zz", "", "", ReasonMalformedRequest},
		"query in fragment":         {both, nil, "/a#?access_token=x", "", "", ReasonNoCredential},
		"query not asked for":       {CredentialsConfig{Cookies: []string{"s"}}, nil, "/a?access_token=x", "", "", ReasonNoCredential},
		"header and cookie":         {both, []Header{{"authorization", "Bearer a"}, {"cookie", "session=a"}}, "/", "", "", ReasonMalformedRequest},
		"header and query":          {both, []Header{{"authorization", "Bearer a"}}, "/?access_token=a", "", "", ReasonMalformedRequest},
		"cookie and query":          {both, []Header{{"cookie", "session=a"}}, "/?access_token=a", "", "", ReasonMalformedRequest},
		"basic and cookie":          {both, []Header{{"authorization", "Basic a"}, {"cookie", "session=a"}}, "/", "a", "cookie:session", ReasonAllowed},
		"bad header and cookie":     {both, []Header{{"authorization", "Bearer"}, {"cookie", "session=a"}}, "/", "", "", ReasonMalformedRequest},
		"header":                    {both, []Header{{"authorization", "Bearer a"}}, "/", "a", "authorization", ReasonAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := mustPolicy(t, RouteConfig{Credentials: tt.config})
			cred, fail := p.Routes()[0].Find(&Request{Path: tt.path, Headers: tt.headers})
			got := ReasonAllowed
			if fail != nil {
				got = fail.Reason
			}
			if got != tt.want || cred.Raw != tt.raw || cred.Source != tt.source {
				t.Errorf("%+v, %v", cred, fail)
			}
			if fail != nil && strings.Contains(fail.Detail, "x.y") {
				t.Errorf("detail holds the token: %s", fail.Detail)
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
			if cred != (Credential{}) || fail.Reason != ReasonNoCredential && fail.Reason != ReasonMalformedRequest {
				t.Fatalf("%q: %+v %v", v, cred, fail)
			}
			return
		}
		if !isToken68(cred.Raw) || cred.Scheme != "bearer" && cred.Scheme != "dpop" {
			t.Fatalf("%q: %+v", v, cred)
		}
		// Printing what was found and reading it again is the identity.
		again, fail := parseAuthorization(cred.Scheme + " " + cred.Raw)
		if fail != nil || again != cred {
			t.Fatalf("%q: %+v, then %+v %v", v, cred, again, fail)
		}
	})
}
