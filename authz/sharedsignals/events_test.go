package sharedsignals_test

import (
	"fmt"
	"jwtbouncer/authz"
	"jwtbouncer/authz/authztest"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/httpapi/httpapitest"
	"jwtbouncer/authz/sharedsignals"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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
		"session-revoked, user":              {nil, "", &yes},
		"session-revoked, opaque":            {sub(opaque("s-1")), "", &yes},
		"session-revoked, other session":     {sub(opaque("s-2")), "", &no},
		"session-revoked, complex":           {sub(httpapitest.Claims{"format": "complex", "session": opaque("s-1"), "user": issSub(httpapitest.IssuerA, "someone else"), "tenant": opaque("t")}), "", &yes},
		"session-revoked, user + device":     {sub(httpapitest.Claims{"format": "complex", "user": issSub(httpapitest.IssuerA, "bob"), "device": opaque("d")}), "", &yes},
		"complex without format":             {sub(httpapitest.Claims{"user": issSub(httpapitest.IssuerA, "bob")}), "", &yes},
		"complex, format a number":           {sub(httpapitest.Claims{"format": 7, "user": issSub(httpapitest.IssuerA, "bob")}), "invalid_request", &no},
		"complex, opaque user":               {sub(httpapitest.Claims{"format": "complex", "user": opaque("bob")}), "", &yes},
		"subject inside the event":           {join(sub(nil), events(sharedsignals.CAEP+"session-revoked", httpapitest.Claims{"subject": issSub(httpapitest.IssuerA, "bob")})), "", &yes},
		"legacy RISC subject":                {join(sub(nil), events(sharedsignals.RISC+"account-disabled", httpapitest.Claims{"subject": httpapitest.Claims{"subject_type": "iss-sub", "iss": httpapitest.IssuerA, "sub": "bob"}})), "", &yes},
		"aliases":                            {sub(httpapitest.Claims{"format": "aliases", "identifiers": []any{httpapitest.Claims{"format": "email", "email": "b@x"}, issSub(httpapitest.IssuerA, "bob")}}), "", &yes},
		"jwt_id":                             {join(sub(httpapitest.Claims{"format": "jwt_id", "iss": httpapitest.IssuerA, "jti": "j-1"}), events(sharedsignals.CAEP+"token-claims-change", httpapitest.Claims{"claims": httpapitest.Claims{"role": "x"}})), "", &yes},
		"token-claims-change":                {events(sharedsignals.CAEP+"token-claims-change", httpapitest.Claims{}), "", &yes},
		"password changed":                   {events(sharedsignals.CAEP+"credential-change", httpapitest.Claims{"credential_type": "password", "change_type": "update"}), "", &yes},
		"credential added":                   {events(sharedsignals.CAEP+"credential-change", httpapitest.Claims{"credential_type": "fido2-roaming", "change_type": "create"}), "", &no},
		"change of unknown type":             {events(sharedsignals.CAEP+"credential-change", httpapitest.Claims{"credential_type": "password"}), "", &yes},
		"account-disabled":                   {events(sharedsignals.RISC+"account-disabled", httpapitest.Claims{"reason": "hijacking"}), "", &yes},
		"account-purged":                     {events(sharedsignals.RISC+"account-purged", httpapitest.Claims{}), "", &yes},
		"sessions-revoked":                   {events(sharedsignals.RISC+"sessions-revoked", httpapitest.Claims{}), "", &yes},
		"credential-compromise":              {events(sharedsignals.RISC+"credential-compromise", httpapitest.Claims{}), "", &yes},
		"assurance decreased":                {events(sharedsignals.CAEP+"assurance-level-change", httpapitest.Claims{"namespace": "NIST-AAL", "current_level": "nist-aal1", "previous_level": "nist-aal2", "change_direction": "decrease"}), "", &yes},
		"assurance increased":                {events(sharedsignals.CAEP+"assurance-level-change", httpapitest.Claims{"namespace": "NIST-AAL", "current_level": "nist-aal2", "previous_level": "nist-aal1", "change_direction": "increase"}), "", &no},
		"assurance, unknown direction":       {events(sharedsignals.CAEP+"assurance-level-change", httpapitest.Claims{"namespace": "NIST-AAL", "current_level": "nist-aal1"}), "", &yes},
		"device not compliant":               {events(sharedsignals.CAEP+"device-compliance-change", httpapitest.Claims{"previous_status": "compliant", "current_status": "not-compliant"}), "", &yes},
		"device compliant":                   {events(sharedsignals.CAEP+"device-compliance-change", httpapitest.Claims{"previous_status": "not-compliant", "current_status": "compliant"}), "", &no},
		"device of unknown status":           {events(sharedsignals.CAEP+"device-compliance-change", httpapitest.Claims{}), "", &yes},
		"risk high":                          {events(sharedsignals.CAEP+"risk-level-change", httpapitest.Claims{"principal": "USER", "current_level": "HIGH", "previous_level": "LOW"}), "", &yes},
		"risk medium":                        {events(sharedsignals.CAEP+"risk-level-change", httpapitest.Claims{"principal": "USER", "current_level": "MEDIUM"}), "", &no},
		"risk unknown":                       {events(sharedsignals.CAEP+"risk-level-change", httpapitest.Claims{"principal": "USER"}), "", &yes},
		"session-established":                {events(sharedsignals.CAEP+"session-established", httpapitest.Claims{}), "", &no},
		"session-presented":                  {events(sharedsignals.CAEP+"session-presented", httpapitest.Claims{}), "", &no},
		"credential deleted":                 {events(sharedsignals.CAEP+"credential-change", httpapitest.Claims{"credential_type": "fido2-roaming", "change_type": "delete"}), "", &yes},
		"credential revoked":                 {events(sharedsignals.CAEP+"credential-change", httpapitest.Claims{"credential_type": "x509", "change_type": "revoke"}), "", &yes},
		"account-credential-change-required": {events(sharedsignals.RISC+"account-credential-change-required", httpapitest.Claims{}), "", &yes},
		"identifier-changed, user":           {events(sharedsignals.RISC+"identifier-changed", httpapitest.Claims{"new-value": "new@example.com"}), "", &yes},
		"identifier-recycled, user":          {events(sharedsignals.RISC+"identifier-recycled", httpapitest.Claims{}), "", &yes},
		"identifier-changed, email":          {join(sub(httpapitest.Claims{"format": "email", "email": "bob@example.com"}), events(sharedsignals.RISC+"identifier-changed", httpapitest.Claims{})), "invalid_request", &no},
		"opt-out-effective":                  {events(sharedsignals.RISC+"opt-out-effective", httpapitest.Claims{}), "", &no},
		"recovery-activated":                 {events(sharedsignals.RISC+"recovery-activated", httpapitest.Claims{}), "", &no},
		"session by iss_sub":                 {sub(httpapitest.Claims{"format": "complex", "session": issSub(httpapitest.IssuerA, "s-1")}), "", &yes},
		"session by SAML, else user":         {sub(httpapitest.Claims{"format": "complex", "session": httpapitest.Claims{"format": "saml_assertion_id", "issuer": "x", "assertion_id": "y"}, "user": issSub(httpapitest.IssuerA, "bob")}), "", &yes},
		"session of another issuer":          {sub(httpapitest.Claims{"format": "complex", "session": issSub(httpapitest.IssuerB, "s-1"), "user": issSub(httpapitest.IssuerA, "bob")}), "invalid_request", &no},
		"application":                        {sub(httpapitest.Claims{"format": "complex", "application": opaque("shop"), "tenant": opaque("t")}), "", &yes},
		"other application":                  {sub(httpapitest.Claims{"format": "complex", "application": opaque("web")}), "", &no},
		"device and application":             {sub(httpapitest.Claims{"format": "complex", "device": opaque("d"), "application": opaque("shop")}), "invalid_request", &no},
		"application by address":             {sub(httpapitest.Claims{"format": "complex", "application": httpapitest.Claims{"format": "email", "email": "a@b"}}), "invalid_request", &no},
		"SAML assertion":                     {sub(httpapitest.Claims{"format": "saml_assertion_id", "issuer": httpapitest.IssuerA, "assertion_id": "_8e8"}), "invalid_request", &no},
		"IP addresses":                       {sub(httpapitest.Claims{"format": "ip-addresses", "ip-addresses": []string{"10.29.37.75"}}), "invalid_request", &no},
		"account":                            {sub(httpapitest.Claims{"format": "account", "uri": "acct:bob@example.com"}), "invalid_request", &no},
		"21 aliases":                         {sub(httpapitest.Claims{"format": "aliases", "identifiers": slices.Repeat([]any{issSub(httpapitest.IssuerA, "bob")}, 21)}), "invalid_request", &no},
		"account-enabled":                    {events(sharedsignals.RISC+"account-enabled", httpapitest.Claims{}), "", &no},
		"verification":                       {join(sub(opaque("stream-1")), events(sharedsignals.SSF+"verification", httpapitest.Claims{"state": "x"})), "", &no},
		"unknown event":                      {events("https://example.com/event", httpapitest.Claims{}), "", &no},
		"two subjects of two events":         {join(sub(nil), httpapitest.Claims{"events": httpapitest.Claims{sharedsignals.CAEP + "session-revoked": httpapitest.Claims{"subject": issSub(httpapitest.IssuerA, "bob")}, sharedsignals.RISC + "account-disabled": httpapitest.Claims{"subject": issSub(httpapitest.IssuerA, "eve")}}}), "", &yes},
		"two events":                         {httpapitest.Claims{"events": httpapitest.Claims{"urn:x": httpapitest.Claims{}, sharedsignals.RISC + "account-purged": httpapitest.Claims{}}}, "", &yes},
		"happened before the token":          {events(sharedsignals.CAEP+"session-revoked", httpapitest.Claims{"event_timestamp": httpapitest.Ago(time.Hour)}), "", &no},
		"the same in milliseconds":           {events(sharedsignals.CAEP+"session-revoked", httpapitest.Claims{"event_timestamp": httpapitest.Ago(time.Hour) * 1000}), "", &no},
		"toe before the token":               {httpapitest.Claims{"toe": httpapitest.Ago(time.Hour)}, "", &no},
		"claims to be from the future":       {events(sharedsignals.CAEP+"session-revoked", httpapitest.Claims{"event_timestamp": time.Now().Add(time.Hour).Unix()}), "", &yes},
		"another issuer's user":              {sub(issSub(httpapitest.IssuerB, "bob")), "invalid_request", &no},
		"another issuer's token":             {sub(httpapitest.Claims{"format": "jwt_id", "iss": httpapitest.IssuerB, "jti": "j-1"}), "invalid_request", &no},
		"email":                              {sub(httpapitest.Claims{"format": "email", "email": "bob@example.com"}), "invalid_request", &no},
		"email, no effect":                   {join(sub(httpapitest.Claims{"format": "email", "email": "b@x"}), events(sharedsignals.RISC+"account-enabled", httpapitest.Claims{})), "", &no},
		"aliases without a token":            {sub(httpapitest.Claims{"format": "aliases", "identifiers": []any{httpapitest.Claims{"format": "email", "email": "b@x"}}}), "invalid_request", &no},
		"tenant only":                        {sub(httpapitest.Claims{"format": "complex", "tenant": opaque("t")}), "invalid_request", &no},
		"nested for ever":                    {sub(httpapitest.Claims{"format": "complex", "user": httpapitest.Claims{"format": "complex", "user": httpapitest.Claims{"format": "complex", "user": httpapitest.Claims{"format": "complex", "user": issSub(httpapitest.IssuerA, "bob")}}}}), "invalid_request", &no},
		"empty sub":                          {sub(issSub(httpapitest.IssuerA, "")), "invalid_request", &no},
		"NUL in sub":                         {sub(issSub(httpapitest.IssuerA, "a\x00")), "invalid_request", &no},
		"subject a string":                   {sub("bob"), "invalid_request", &no},
		"no subject":                         {sub(nil), "invalid_request", &no},
		"only one of two has a subject":      {join(sub(nil), httpapitest.Claims{"events": httpapitest.Claims{sharedsignals.CAEP + "session-revoked": httpapitest.Claims{"subject": issSub(httpapitest.IssuerA, "bob")}, sharedsignals.RISC + "account-disabled": httpapitest.Claims{}}}), "invalid_request", &no},
		"no jti":                             {httpapitest.Claims{"jti": nil}, "invalid_request", &no},
		"no events":                          {httpapitest.Claims{"events": httpapitest.Claims{}}, "invalid_request", &no},
		"event not an object":                {httpapitest.Claims{"events": httpapitest.Claims{sharedsignals.CAEP + "session-revoked": "x"}}, "invalid_request", &no},
		"audience":                           {httpapitest.Claims{"aud": "api"}, "invalid_audience", &no},
		"issuer":                             {httpapitest.Claims{"iss": "https://c.example"}, "invalid_issuer", &no},
		"neither iat nor exp":                {httpapitest.Claims{"iat": nil}, "invalid_request", &no},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := httpapitest.NewReceivers(t, nil)
			token := d.A.Mint(httpapitest.Claims{"sub": "bob", "sid": "s-1", "jti": "j-1", "client_id": "shop", "iat": httpapitest.Ago(time.Minute)})
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
		"iat": nil, "exp": time.Now().Add(time.Minute).Unix(), "events": httpapitest.Claims{sharedsignals.CAEP + "token-claims-change": httpapitest.Claims{}},
	}))
	assert.Equal(t, 400, w.Code, w.Body.String())
	assert.Contains(t, w.Body.String(), "invalid_request")
	assert.Empty(t, d.Ledger.All())
}

// What an identifier names may be in a claim, by which tokens can be revoked.
func TestSubjectsByClaim(t *testing.T) {
	t.Parallel()
	claims := map[string]string{
		"email": "email", "account": "email", "phone_number": "phone", "did": "sub", "iss_sub": "uid", "device": "uid", "tenant": "tenant",
	}
	simple := func(format, member, value string) httpapitest.Claims {
		return httpapitest.Claims{"format": format, member: value}
	}
	complexOf := func(members httpapitest.Claims) httpapitest.Claims {
		members["format"] = "complex"
		return members
	}
	opaque := simple("opaque", "id", "x-1")
	issSub := httpapitest.Claims{"format": "iss_sub", "iss": httpapitest.IssuerA, "sub": "x-1"}
	for name, c := range map[string]struct {
		id     any
		claims httpapitest.Claims // of the token
		ends   bool
	}{
		"email":                       {simple("email", "email", "bob@example.com"), httpapitest.Claims{"email": "bob@example.com"}, true},
		"email in capitals":           {simple("email", "email", "Bob@Example.com"), httpapitest.Claims{"email": "bob@example.com"}, true},
		"email as given":              {simple("email", "email", "Bob@Example.com"), httpapitest.Claims{"email": "Bob@Example.com"}, true},
		"another email":               {simple("email", "email", "eve@example.com"), httpapitest.Claims{"email": "bob@example.com"}, false},
		"account":                     {simple("account", "uri", "acct:bob@example.com"), httpapitest.Claims{"email": "bob@example.com"}, true},
		"phone number":                {simple("phone_number", "phone_number", "+1 206 555-0123"), httpapitest.Claims{"phone": "+12065550123"}, true},
		"DID in sub":                  {simple("did", "url", "did:example:123"), httpapitest.Claims{"sub": "did:example:123"}, true},
		"iss_sub in uid":              {issSub, httpapitest.Claims{"uid": "x-1"}, true},
		"iss_sub in sub":              {issSub, httpapitest.Claims{"sub": "x-1", "uid": "x-2"}, true},
		"device":                      {complexOf(httpapitest.Claims{"device": opaque}), httpapitest.Claims{"uid": "x-1"}, true},
		"another device":              {complexOf(httpapitest.Claims{"device": opaque}), httpapitest.Claims{"uid": "x-2"}, false},
		"device, not its tenant":      {complexOf(httpapitest.Claims{"device": opaque, "tenant": simple("opaque", "id", "t-1")}), httpapitest.Claims{"uid": "x-2", "tenant": "t-1"}, false},
		"unmappable user of a device": {complexOf(httpapitest.Claims{"user": simple("uri", "uri", "urn:bob"), "device": opaque}), httpapitest.Claims{"uid": "x-1"}, true},
		"tenant":                      {complexOf(httpapitest.Claims{"tenant": opaque}), httpapitest.Claims{"tenant": "x-1"}, true},
		"user by email":               {complexOf(httpapitest.Claims{"user": simple("email", "email", "bob@example.com")}), httpapitest.Claims{"email": "bob@example.com"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := httpapitest.NewReceivers(t, func(s *httpapitest.Setup) {
				s.Config.Events.SubjectClaims = claims
			})
			c.claims["iat"] = httpapitest.Ago(time.Minute)
			token := d.A.Mint(c.claims)
			w := d.Post("/ssf/events", httpapitest.EventType, d.EventToken(httpapitest.Claims{
				"sub_id": c.id, "events": httpapitest.Claims{sharedsignals.RISC + "identifier-changed": httpapitest.Claims{}},
			}))
			require.Equal(t, 202, w.Code, w.Body)
			assert.Equal(t, c.ends, d.Revokes(token))
		})
	}
	for id, says := range map[string]string{"tenant": "", "group": "names a token by its group, which identifies no token here: api.events.subject_claims names no claim for it"} {
		d := httpapitest.NewReceivers(t, func(s *httpapitest.Setup) {
			s.Config.Events.SubjectClaims = claims
		})
		w := d.Post("/ssf/events", httpapitest.EventType, d.EventToken(httpapitest.Claims{"sub_id": complexOf(httpapitest.Claims{id: opaque})}))
		if says == "" {
			assert.Equal(t, 202, w.Code, w.Body)
		} else {
			assert.Equal(t, 400, w.Code)
			assert.Contains(t, w.Body.String(), says)
		}
	}
}

func TestPolicy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		policy  sharedsignals.Policy
		event   string
		payload httpapitest.Claims
		ends    bool
	}{
		"any change of assurance": {sharedsignals.Policy{AssuranceLevel: "change"}, "assurance-level-change", httpapitest.Claims{"change_direction": "increase"}, true},
		"no change of assurance":  {sharedsignals.Policy{AssuranceLevel: "never"}, "assurance-level-change", httpapitest.Claims{"change_direction": "decrease"}, false},
		"compliance":              {sharedsignals.Policy{DeviceCompliance: "never"}, "device-compliance-change", httpapitest.Claims{"current_status": "not-compliant"}, false},
		"medium risk":             {sharedsignals.Policy{RiskLevel: "medium"}, "risk-level-change", httpapitest.Claims{"current_level": "MEDIUM"}, true},
		"low risk":                {sharedsignals.Policy{RiskLevel: "medium"}, "risk-level-change", httpapitest.Claims{"current_level": "LOW"}, false},
		"no risk":                 {sharedsignals.Policy{RiskLevel: "never"}, "risk-level-change", httpapitest.Claims{"current_level": "HIGH"}, false},
		"others as before":        {sharedsignals.Policy{AssuranceLevel: "never", DeviceCompliance: "never", RiskLevel: "never"}, "session-revoked", httpapitest.Claims{}, true},
	} {
		d := httpapitest.NewReceivers(t, func(s *httpapitest.Setup) { s.Config.Events.RevokeOn = c.policy })
		token := d.A.Mint(httpapitest.Claims{"sub": "bob", "iat": httpapitest.Ago(time.Minute)})
		require.Equal(t, 202, d.Post("/ssf/events", httpapitest.EventType, d.EventToken(events(sharedsignals.CAEP+c.event, c.payload))).Code, name)
		assert.Equal(t, c.ends, d.Revokes(token), name)
	}
}

// A session's tokens may carry no sid.
func TestSessionAndUser(t *testing.T) {
	t.Parallel()
	for _, also := range []bool{false, true} {
		d := httpapitest.NewReceivers(t, func(s *httpapitest.Setup) { s.Config.Events.AlsoSubject = also })
		token := d.A.Mint(httpapitest.Claims{"sub": "bob", "iat": httpapitest.Ago(time.Minute)})
		require.Equal(t, 202, d.Post("/ssf/events", httpapitest.EventType, d.EventToken(httpapitest.Claims{"sub_id": httpapitest.Claims{
			"format": "complex", "session": httpapitest.Claims{"format": "opaque", "id": "s-1"}, "user": httpapitest.Claims{"format": "iss_sub", "iss": httpapitest.IssuerA, "sub": "bob"},
		}})).Code)
		assert.Equal(t, also, d.Revokes(token))
	}
}

func TestInvalidConfig(t *testing.T) {
	t.Parallel()
	c := sharedsignals.Config{
		Audiences: []string{""}, SubjectClaims: map[string]string{"ip-addresses": "ip", "email": "mail"},
		RevokeOn: sharedsignals.Policy{AssuranceLevel: "increase", DeviceCompliance: "always", RiskLevel: "low"},
	}
	var paths []string
	report := func(path, _ string, _ ...any) { paths = append(paths, path) }
	c.Validate(report)
	assert.Equal(t, []string{"audiences[0]", "subject_claims", "revoke_on.assurance_level", "revoke_on.device_compliance", "revoke_on.risk_level"}, paths)
	paths = nil
	c.ValidateIssuers(authz.Issuers{Claims: []string{"email"}}, report)
	assert.Equal(t, []string{"subject_claims", "subject_claims"}, paths, "neither mail nor ip revokes tokens")
}

// Events about a stream reach whoever manages it, and are acknowledged.
func TestStreamEvents(t *testing.T) {
	t.Parallel()
	d := httpapitest.NewReceivers(t, nil)
	var told []string
	r, err := sharedsignals.New(sharedsignals.Options{
		Config: d.Setup.Config.Events, Verifier: d.Verifier, Revoker: d.API.Writer(), Registry: prometheus.NewRegistry(), Logger: d.Setup.Logger, Clock: d.Setup.Clock,
		Verified: func(transmitter, stream, state string) { told = append(told, transmitter+" "+stream+" "+state) },
		Updated:  func(transmitter, stream, status string) { told = append(told, transmitter+" "+stream+" "+status) },
	})
	require.NoError(t, err)
	stream := httpapitest.Claims{"format": "opaque", "id": "stream-1"}
	for name, payload := range map[string]httpapitest.Claims{"verification": {"state": "abc"}, "stream-updated": {"status": "paused"}} {
		change := events(sharedsignals.SSF+name, payload)
		change["sub_id"] = stream
		assert.Equal(t, sharedsignals.Result{Outcome: sharedsignals.Ignored}, r.Receive(t.Context(), d.EventToken(change)))
	}
	slices.Sort(told)
	assert.Equal(t, []string{"https://a.example stream-1 abc", "https://a.example stream-1 paused"}, told)

	// Without a request, the audit log has no address, and the rest.
	assert.Equal(t, sharedsignals.Enforced, r.Receive(t.Context(), d.EventToken(nil)).Outcome)
	assert.Contains(t, d.LogText(), `"log":"audit","source":"security_events","actor":"ssf:https://a.example","remote":"","outcome":"stored"`)
	d.Ledger.SetFail(authz.ErrUnavailable)
	postponed := r.Receive(t.Context(), d.EventToken(nil))
	assert.Equal(t, sharedsignals.Postponed, postponed.Outcome)
	assert.ErrorIs(t, postponed.Err, authz.ErrUnavailable)
	assert.False(t, postponed.Outcome.Acknowledged(), "it is lost otherwise")
	assert.False(t, sharedsignals.Result{}.Outcome.Acknowledged(), "the zero Result is no answer")
}
