package receiver_test

import (
	"fmt"
	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/httpapitest"
	"jwtbouncer/authz/httpapi/receiver"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func events(name string, payload httpapitest.Claims) httpapitest.Claims {
	return httpapitest.Claims{"events": httpapitest.Claims{name: payload}}
}

func TestSecurityEvents(t *testing.T) {
	t.Parallel()
	issSub := func(iss, sub string) httpapitest.Claims {
		return httpapitest.Claims{"format": "iss_sub", "iss": iss, "sub": sub}
	}
	opaque := func(id string) httpapitest.Claims { return httpapitest.Claims{"format": "opaque", "id": id} }
	sub := func(v any) httpapitest.Claims { return httpapitest.Claims{"sub_id": v} }
	join := func(all ...httpapitest.Claims) httpapitest.Claims {
		out := httpapitest.Claims{}
		for _, m := range all {
			for k, v := range m {
				out[k] = v
			}
		}
		return out
	}
	yes, no := true, false
	for name, c := range map[string]struct {
		change  httpapitest.Claims
		says    string // empty: 202
		revokes *bool  // the token of bob in session s-1 with jti j-1
	}{
		"session-revoked, user":          {nil, "", &yes},
		"session-revoked, opaque":        {sub(opaque("s-1")), "", &yes},
		"session-revoked, other session": {sub(opaque("s-2")), "", &no},
		"session-revoked, complex":       {sub(httpapitest.Claims{"format": "complex", "session": opaque("s-1"), "user": issSub(httpapitest.IssuerA, "someone else"), "tenant": opaque("t")}), "", &yes},
		"session-revoked, every session": {sub(httpapitest.Claims{"format": "complex", "session": opaque("ALL"), "user": issSub(httpapitest.IssuerA, "bob")}), "", &yes},
		"every session of another user":  {sub(httpapitest.Claims{"format": "complex", "session": opaque("ALL"), "user": issSub(httpapitest.IssuerA, "someone else")}), "", &no},
		"session-revoked, user + device": {sub(httpapitest.Claims{"format": "complex", "user": issSub(httpapitest.IssuerA, "bob"), "device": opaque("d")}), "", &yes},
		"complex without format":         {sub(httpapitest.Claims{"user": issSub(httpapitest.IssuerA, "bob")}), "", &yes},
		"complex, opaque user":           {sub(httpapitest.Claims{"format": "complex", "user": opaque("bob")}), "", &yes},
		"subject inside the event":       {join(sub(nil), events(receiver.CAEP+"session-revoked", httpapitest.Claims{"subject": issSub(httpapitest.IssuerA, "bob")})), "", &yes},
		"legacy RISC subject":            {join(sub(nil), events(receiver.RISC+"account-disabled", httpapitest.Claims{"subject": httpapitest.Claims{"subject_type": "iss-sub", "iss": httpapitest.IssuerA, "sub": "bob"}})), "", &yes},
		"aliases":                        {sub(httpapitest.Claims{"format": "aliases", "identifiers": []any{httpapitest.Claims{"format": "email", "email": "b@x"}, issSub(httpapitest.IssuerA, "bob")}}), "", &yes},
		"jwt_id":                         {join(sub(httpapitest.Claims{"format": "jwt_id", "iss": httpapitest.IssuerA, "jti": "j-1"}), events(receiver.CAEP+"token-claims-change", httpapitest.Claims{"claims": httpapitest.Claims{"role": "x"}})), "", &yes},
		"token-claims-change":            {events(receiver.CAEP+"token-claims-change", httpapitest.Claims{}), "", &yes},
		"password changed":               {events(receiver.CAEP+"credential-change", httpapitest.Claims{"credential_type": "password", "change_type": "update"}), "", &yes},
		"credential added":               {events(receiver.CAEP+"credential-change", httpapitest.Claims{"credential_type": "fido2-roaming", "change_type": "create"}), "", &no},
		"change of unknown type":         {events(receiver.CAEP+"credential-change", httpapitest.Claims{"credential_type": "password"}), "", &yes},
		"account-disabled":               {events(receiver.RISC+"account-disabled", httpapitest.Claims{"reason": "hijacking"}), "", &yes},
		"account-purged":                 {events(receiver.RISC+"account-purged", httpapitest.Claims{}), "", &yes},
		"sessions-revoked":               {events(receiver.RISC+"sessions-revoked", httpapitest.Claims{}), "", &yes},
		"credential-compromise":          {events(receiver.RISC+"credential-compromise", httpapitest.Claims{}), "", &yes},
		"account-enabled":                {events(receiver.RISC+"account-enabled", httpapitest.Claims{}), "", &no},
		"verification":                   {join(sub(opaque("stream-1")), events(receiver.SSF+"verification", httpapitest.Claims{"state": "x"})), "", &no},
		"unknown event":                  {events("https://example.com/event", httpapitest.Claims{}), "", &no},
		"two subjects of two events":     {join(sub(nil), httpapitest.Claims{"events": httpapitest.Claims{receiver.CAEP + "session-revoked": httpapitest.Claims{"subject": issSub(httpapitest.IssuerA, "bob")}, receiver.RISC + "account-disabled": httpapitest.Claims{"subject": issSub(httpapitest.IssuerA, "eve")}}}), "", &yes},
		"two events":                     {httpapitest.Claims{"events": httpapitest.Claims{"urn:x": httpapitest.Claims{}, receiver.RISC + "account-purged": httpapitest.Claims{}}}, "", &yes},
		"happened before the token":      {events(receiver.CAEP+"session-revoked", httpapitest.Claims{"event_timestamp": httpapitest.Ago(time.Hour)}), "", &no},
		"the same in milliseconds":       {events(receiver.CAEP+"session-revoked", httpapitest.Claims{"event_timestamp": httpapitest.Ago(time.Hour) * 1000}), "", &no},
		"toe before the token":           {httpapitest.Claims{"toe": httpapitest.Ago(time.Hour)}, "", &no},
		"claims to be from the future":   {events(receiver.CAEP+"session-revoked", httpapitest.Claims{"event_timestamp": time.Now().Add(time.Hour).Unix()}), "", &yes},
		"another issuer's user":          {sub(issSub(httpapitest.IssuerB, "bob")), "invalid_request", &no},
		"another issuer's token":         {sub(httpapitest.Claims{"format": "jwt_id", "iss": httpapitest.IssuerB, "jti": "j-1"}), "invalid_request", &no},
		"email":                          {sub(httpapitest.Claims{"format": "email", "email": "bob@example.com"}), "invalid_request", &no},
		"email, no effect":               {join(sub(httpapitest.Claims{"format": "email", "email": "b@x"}), events(receiver.RISC+"account-enabled", httpapitest.Claims{})), "", &no},
		"aliases without a token":        {sub(httpapitest.Claims{"format": "aliases", "identifiers": []any{httpapitest.Claims{"format": "email", "email": "b@x"}}}), "invalid_request", &no},
		"tenant only":                    {sub(httpapitest.Claims{"format": "complex", "tenant": opaque("t")}), "invalid_request", &no},
		"nested for ever":                {sub(httpapitest.Claims{"format": "complex", "user": httpapitest.Claims{"format": "complex", "user": httpapitest.Claims{"format": "complex", "user": httpapitest.Claims{"format": "complex", "user": issSub(httpapitest.IssuerA, "bob")}}}}), "invalid_request", &no},
		"empty sub":                      {sub(issSub(httpapitest.IssuerA, "")), "invalid_request", &no},
		"NUL in sub":                     {sub(issSub(httpapitest.IssuerA, "a\x00")), "invalid_request", &no},
		"subject a string":               {sub("bob"), "invalid_request", &no},
		"no subject":                     {sub(nil), "invalid_request", &no},
		"only one of two has a subject":  {join(sub(nil), httpapitest.Claims{"events": httpapitest.Claims{receiver.CAEP + "session-revoked": httpapitest.Claims{"subject": issSub(httpapitest.IssuerA, "bob")}, receiver.RISC + "account-disabled": httpapitest.Claims{}}}), "invalid_request", &no},
		"no jti":                         {httpapitest.Claims{"jti": nil}, "invalid_request", &no},
		"no events":                      {httpapitest.Claims{"events": httpapitest.Claims{}}, "invalid_request", &no},
		"event not an object":            {httpapitest.Claims{"events": httpapitest.Claims{receiver.CAEP + "session-revoked": "x"}}, "invalid_request", &no},
		"audience":                       {httpapitest.Claims{"aud": "api"}, "invalid_audience", &no},
		"issuer":                         {httpapitest.Claims{"iss": "https://c.example"}, "invalid_issuer", &no},
		"neither iat nor exp":            {httpapitest.Claims{"iat": nil}, "invalid_request", &no},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := httpapitest.NewReceivers(t, nil)
			token := d.A.Mint(httpapitest.Claims{"sub": "bob", "sid": "s-1", "jti": "j-1", "iat": httpapitest.Ago(time.Minute)})
			w := d.Post("/ssf/events", httpapitest.EventType, d.EventToken(c.change))
			if c.says == "" {
				require.Equal(t, 202, w.Code, w.Body)
				assert.Empty(t, w.Body.String())
			} else {
				require.Equal(t, 400, w.Code, w.Body)
				assert.Contains(t, w.Body.String(), `"err":"`+c.says+`"`)
				assert.Contains(t, w.Body.String(), `"description":"`)
			}
			assert.Equal(t, *c.revokes, d.Revokes(token))
			for _, r := range d.Ledger.All() {
				assert.Equal(t, httpapitest.IssuerA, r.Issuer)
				assert.LessOrEqual(t, r.NotBefore.Unix(), time.Now().Unix()+1, "later tokens stay valid")
			}
		})
	}
}

func TestSecurityEventSignatureAndType(t *testing.T) {
	t.Parallel()
	d := httpapitest.NewReceivers(t, nil)
	other := authztest.NewIssuer(authztest.Offline(), authztest.Named(httpapitest.IssuerA))
	for says, token := range map[string]string{
		"authentication_failed": d.EventToken(nil, authztest.Tampered()),
		"invalid_key":           d.EventToken(httpapitest.Claims{"exp": httpapitest.Ago(time.Hour), "iat": httpapitest.Ago(2 * time.Hour)}, authztest.With(other.Key(""))),
		"unsupported_token":     d.EventToken(nil, authztest.Header("typ", "JWT")),
		"malformed_token":       "x.y",
	} {
		w := d.Post("/ssf/events", httpapitest.EventType, token)
		assert.Equal(t, 400, w.Code)
		assert.Contains(t, w.Body.String(), says)
	}
	for status, w := range map[int]*httptest.ResponseRecorder{
		400: d.Post("/ssf/events", httpapitest.EventType, d.EventToken(httpapitest.Claims{"jti": nil})),
		415: d.Post("/ssf/events", "application/json", d.EventToken(nil)),
		413: d.Post("/ssf/events", httpapitest.EventType, strings.Repeat("a", httpapi.MaxForm+1)),
	} {
		assert.Equal(t, status, w.Code)
		assert.Equal(t, "en", w.Header().Get("Content-Language"), "RFC 8935, section 2.3: the language of the description")
	}
	assert.Empty(t, d.Ledger.All())
}

func TestSecurityEventRepeated(t *testing.T) {
	t.Parallel()
	d := httpapitest.NewReceivers(t, nil)
	event := d.EventToken(nil)
	d.Ledger.SetFail(authz.ErrOutcomeUnknown)
	assert.Equal(t, 504, d.Post("/ssf/events", httpapitest.EventType, event).Code)
	d.Ledger.SetFail(nil)
	assert.Equal(t, 202, d.Post("/ssf/events", httpapitest.EventType, event).Code)
	assert.Equal(t, 202, d.Post("/ssf/events", httpapitest.EventType, event).Code, "acknowledged like the first")
	assert.Len(t, d.Ledger.All(), 1)
	assert.Contains(t, d.Do("GET", "/metrics", "").Body.String(), `jwt_bouncer_security_events_total{outcome="repeated"} 1`)
}

func TestTransmitterSpeaksForAnother(t *testing.T) {
	t.Parallel()
	d := httpapitest.NewReceivers(t, func(o *httpapitest.Setup) {
		o.Config.Events.SpeaksFor = map[string][]string{httpapitest.IssuerA: {httpapitest.IssuerB}}
	})
	tokens := d.B.Mint(httpapitest.Claims{"sub": "bob"})
	for i, iss := range []string{httpapitest.IssuerA, httpapitest.IssuerB} {
		require.Equal(t, 202, d.Post("/ssf/events", httpapitest.EventType, d.EventToken(httpapitest.Claims{"sub_id": httpapitest.Claims{"format": "iss_sub", "iss": iss, "sub": "bob"}})).Code)
		assert.True(t, d.Revokes(tokens), fmt.Sprint(i))
	}
	d.A, d.B = d.B, d.A
	assert.Equal(t, 400, d.Post("/ssf/events", httpapitest.EventType, d.EventToken(httpapitest.Claims{"sub_id": httpapitest.Claims{"format": "iss_sub", "iss": httpapitest.IssuerA, "sub": "bob"}})).Code, "not the other way round")
}

// iat is required (RFC 8417, section 2.2): without it, nothing says which tokens
// an event is about.
func TestSecurityEventWithoutIAT(t *testing.T) {
	t.Parallel()
	d := httpapitest.NewReceivers(t, nil)
	w := d.Post("/ssf/events", httpapitest.EventType, d.EventToken(httpapitest.Claims{
		"iat": nil, "exp": time.Now().Add(time.Minute).Unix(), "events": httpapitest.Claims{receiver.CAEP + "token-claims-change": httpapitest.Claims{}},
	}))
	assert.Equal(t, 400, w.Code, w.Body.String())
	assert.Contains(t, w.Body.String(), "invalid_request")
	assert.Empty(t, d.Ledger.All())
}
