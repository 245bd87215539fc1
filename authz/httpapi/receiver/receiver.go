package receiver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
)

// Verifier checks tokens, and messages about tokens.
type Verifier interface {
	// Verify checks a token as authz.Verifier does.
	Verify(ctx context.Context, raw string) (*authz.Token, error)
	// VerifySecurityEvent checks a message: form, signature by a configured issuer,
	// typ, audience and times.
	VerifySecurityEvent(ctx context.Context, raw string, rules authz.SecurityEventRules) (*authz.Token, error)
}

// receiver has the handlers. An endpoint without configuration does not exist.
type receiver struct {
	api      *httpapi.API
	issuers  authz.Issuers
	verifier Verifier
	log      *slog.Logger
	clock    authz.Clock

	clients      []oauthClient
	logout       httpapi.LogoutConfig
	logouts      *seen
	events       httpapi.EventsConfig
	pushed       *seen
	eventCounter *prometheus.CounterVec
	keycloak     httpapi.KeycloakConfig
}

// Register adds the endpoints that the configuration of api asks for.
func Register(api *httpapi.API, v Verifier) error {
	o := api.Options()
	c := &receiver{
		api: api, issuers: o.Issuers, verifier: v, log: o.Logger, clock: o.Clock,
		logout: o.Config.Logout, logouts: newSeen(2 * o.Config.Logout.MaxAge),
		events: o.Config.Events, pushed: newSeen(time.Hour), eventCounter: newEventCounter(),
		keycloak: o.Config.Keycloak,
	}
	var err error
	if c.clients, err = openClients(o.Config.Clients); err != nil {
		return err
	}
	if err := o.Registry.Register(c.eventCounter); err != nil {
		return err
	}
	api.Handle(httpapi.Endpoint{Method: "POST", Path: "/oauth2/revoke", Source: httpapi.SourceOAuth, Access: httpapi.AccessCaller, Serve: c.revokeToken})
	if len(c.logout.Audiences) > 0 {
		api.Handle(httpapi.Endpoint{Method: "POST", Path: "/oidc/backchannel-logout", Source: httpapi.SourceLogout, Access: httpapi.AccessOpen, Serve: c.backchannelLogout})
	}
	if len(c.events.Audiences) > 0 {
		api.Handle(httpapi.Endpoint{Method: "POST", Path: "/ssf/events", Source: httpapi.SourceEvents, Access: httpapi.AccessOpen, Serve: c.receiveEvent})
	}
	if len(c.keycloak.Clients) > 0 {
		if c.keycloak.Issuer == "" {
			c.keycloak.Issuer = o.Issuers.Verified[0] // the only one: Config.ValidateIssuers
		}
		for name, action := range map[string]string{"k_push_not_before": actionNotBefore, "k_logout": actionLogout, "k_test_available": actionTest} {
			api.Handle(httpapi.Endpoint{Method: "POST", Path: "/keycloak/" + name, Source: httpapi.SourceKeycloak, Access: httpapi.AccessOpen, Serve: c.adminAction(action)})
		}
	}
	return nil
}

// reasonOf classifies an error of the Verifier.
func reasonOf(err error) authz.Reason {
	var f *authz.Failure
	if errors.As(err, &f) {
		return f.Reason
	}
	return authz.ReasonInternal
}

// retryable reports whether err, from verifying raw, says nothing about the
// message itself, so that its sender should retry. A message under an unknown
// key is retryable unless the issuer's keys were fetched moments ago: the key
// may be the issuer's next one, which other sidecars may know already. So is a
// bad signature, because a message without kid may be signed with such a key.
// An expired message is never retryable.
func (c *receiver) retryable(err error, raw string) bool {
	switch reasonOf(err) {
	case authz.ReasonKeysUnavailable, authz.ReasonRevocationUnknown, authz.ReasonOverloaded, authz.ReasonInternal, authz.ReasonUnset:
		return true
	case authz.ReasonUnknownKey, authz.ReasonBadSignature:
		var f *authz.Failure
		claims, ok := authz.ReadUnverifiedClaims(raw)
		return errors.As(err, &f) && !f.Settled && ok && !claims.Expired(c.clock.Now())
	}
	return false
}

func openClients(configured []httpapi.ClientConfig) ([]oauthClient, error) {
	var clients []oauthClient
	for i, c := range configured {
		secrets, err := httpapi.OpenTokenFile(c.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("api.clients[%d].secret_file: %w", i, err)
		}
		clients = append(clients, oauthClient{c.ID, secrets})
	}
	return clients, nil
}
