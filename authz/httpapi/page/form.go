package page

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"jwtbouncer/authz"
)

// form is what an operator typed to revoke. An error gives it back, except for
// tokens: the page repeats none.
type form struct {
	Kind, Issuer, Value, NotBefore, Reason string

	Field string // that the error is about: the name of an input; "": the whole form
	Error string
}

func readForm(values url.Values) form {
	text := func(name string) string { return strings.TrimSpace(values.Get(name)) }
	return form{Kind: text("kind"), Issuer: text("iss"), Value: text("value"), NotBefore: text("not_before"), Reason: text("reason")}
}

// fail returns the form with the error, in the words of the form.
func (f form) fail(err error) form {
	var invalid *authz.InvalidError
	if !errors.As(err, &invalid) {
		invalid = &authz.InvalidError{Detail: err.Error()}
	}
	f.Field, f.Error = inputOf(invalid.Field), invalid.Detail
	switch {
	case f.Kind == "" || invalid.Field == "":
		f.Field, f.Error = "kind", "choose what to revoke"
	case f.Field == "iss" && f.Issuer == "" && f.Kind == "iss":
		f.Error = "is needed: name the issuer whose tokens are revoked"
	case f.Field == "iss" && strings.Contains(f.Issuer, authz.TenantPlaceholder):
		f.Error = "has no tenant: put the tenant's id in the place of " + authz.TenantPlaceholder
	case authz.HoldsToken(f.Value) && f.Field == "value" && f.Kind != "token":
		f.Kind, f.Error = "token", "looked like a whole token and was removed: paste it again, now that “one token, by its text” is chosen"
	case authz.HoldsToken(f.Value) && f.Field != "value":
		f.Error += " (the token was removed from the form: paste it again)"
	}
	f.Error = labels[f.Field] + " " + f.Error + "."
	if authz.HoldsToken(f.Value) {
		f.Value = ""
	}
	if authz.HoldsToken(f.Reason) {
		f.Reason = ""
	}
	return f
}

// labels are the inputs' labels.
var labels = map[string]string{"kind": "What to revoke:", "iss": "Issuer", "value": "Value", "not_before": "Issued before", "reason": "Reason"}

// inputOf returns the input for a member of the API's requests.
func inputOf(member string) string {
	switch member {
	case "jti", "sub", "sid", "kid", "client", "actor", "claim", "token", "value":
		return "value"
	case "iss", "not_before", "reason":
		return member
	}
	return "kind"
}

// revocations reads the form under the rules of the API. A confirmed form names every
// issuer of which a token is revoked.
func (f form) revocations(actor string, values url.Values, issuers authz.Issuers, now time.Time) ([]authz.Revocation, error) {
	request := authz.RevocationRequest{RevokedBy: actor, Reason: f.Reason}
	kind, _ := authz.ParseKind(f.Kind)
	request.Select(kind, f.Value)
	for name, into := range map[string]*time.Time{"not_before": &request.NotBefore, "expires_at": &request.ExpiresAt} {
		t, err := parseTime(values.Get(name))
		if err != nil {
			return nil, &authz.InvalidError{Field: name, Detail: err.Error()}
		}
		*into = t
	}
	var all []authz.Revocation
	for iss, i := f.Issuer, 0; i == 0 || iss != ""; {
		if iss != "" {
			request.Issuer = &iss
		}
		revocations, err := request.Normalize(issuers, now)
		if err != nil {
			return nil, err
		}
		all = append(all, revocations...)
		i++
		iss = values.Get("iss" + strconv.Itoa(i))
	}
	return all, nil
}

// parseTime reads a datetime field or RFC 3339 text, both in UTC unless the
// text has a zone. Empty text is the zero time.
func parseTime(text string) (time.Time, error) {
	if text = strings.TrimSpace(text); text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.Parse(layout, text); err == nil && t.Unix() > 0 && t.Unix() <= authz.LastSecond {
			return t, nil
		}
	}
	return time.Time{}, errors.New("must be a time such as 2030-01-31T12:00")
}

// sentence says in full what would be revoked. The revocations differ in their issuer
// only.
func sentence(all []authz.Revocation) string {
	r := all[0]
	tokens := map[authz.Kind]string{
		authz.KindJTI: "The token with the jti %q", authz.KindSub: "Every token of the subject %q", authz.KindSID: "Every token of the session %q",
		authz.KindKID: "Every token signed with the key %q", authz.KindToken: "The token with the hash %q", authz.KindIss: "Every token%.0s",
		authz.KindClient: "Every token issued to the client %q", authz.KindActor: "Every token with which %q acts for another", authz.KindClaim: "Every token with the claim %q",
	}[r.Kind]
	var issuers []string
	for _, r := range all {
		issuers = append(issuers, r.Issuer)
	}
	text := fmt.Sprintf(tokens, r.Value) + " from " + strings.Join(issuers, " or ")
	if r.NotBefore.IsZero() {
		return text + " will stop working."
	}
	return text + " issued before " + r.NotBefore.UTC().Format("2006-01-02 15:04:05") + " UTC will stop working. Tokens issued later are not affected."
}

// who is who requested a revocation, and through what.
type who struct{ Name, Through string }

// whoOf reads the actor that a way to revoke has written.
func whoOf(actor string) who {
	name, through := authz.Requester(actor)
	return who{name, through}
}
