package authz

import "strings"

// Credential is a token as presented, and where it was found.
type Credential struct {
	Raw    string // the token text; a secret
	Scheme string // "bearer" or "dpop"; empty when there is none
	Source string // "authorization", "cookie:NAME" or "query:NAME"
}

// bearerFromHeader reads "Authorization: Bearer …" (RFC 6750, section 2.1).
// Two credentials, or one that HTTP cannot have meant, are a malformed
// request: which of them a server behind would use cannot be known.
func bearerFromHeader(req *Request) (Credential, *Failure) {
	v, n := req.Header("authorization")
	if n == 0 {
		return Credential{}, &Failure{Reason: ReasonNoCredential, Detail: "no Authorization header"}
	}
	if n > 1 {
		return Credential{}, &Failure{Reason: ReasonMalformedRequest, Detail: "more than one Authorization header"}
	}
	scheme, raw, ok := strings.Cut(v, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		if strings.Contains(v, ",") {
			return Credential{}, &Failure{Reason: ReasonMalformedRequest, Detail: "Authorization holds a list"}
		}
		return Credential{}, &Failure{Reason: ReasonNoCredential, Detail: "Authorization scheme is not Bearer"}
	}
	raw = strings.Trim(raw, " ")
	if !ok || raw == "" {
		return Credential{}, &Failure{Reason: ReasonMalformedRequest, Detail: "Bearer without a token"}
	}
	if strings.ContainsAny(raw, ", \t") {
		return Credential{}, &Failure{Reason: ReasonMalformedRequest, Detail: "Authorization holds more than one token"}
	}
	return Credential{Raw: raw, Scheme: "bearer", Source: "authorization"}, nil
}
