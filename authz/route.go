package authz

import (
	"context"
	"time"
)

// Route says which requests it is for and what they need.
type Route struct {
	Name            string
	Public          bool     // no credential needed; identity headers are removed all the same
	Audiences       []string // one of them must be in "aud"; empty: the issuer's audiences
	Scopes          []string // all of them are needed; empty: none
	AllowUnprovable bool     // on_unprovable: allow. False (deny) is the default
}

func (r *Route) matches(*Request) bool { return true }

// Find takes the credential out of the request (RFC 6750, section 2).
func (r *Route) Find(req *Request) (Credential, *Failure) { return bearerFromHeader(req) }

// Admit applies the route's rules to a verified token. nil: admitted.
func (r *Route) Admit(_ context.Context, _ *Request, _ Credential, t *Token, _ time.Time) *Failure {
	if !t.Accepted {
		return &Failure{Reason: ReasonWrongAudience, Detail: "aud names none of the issuer's audiences"}
	}
	return nil
}
