package receiver

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"jwtbouncer/authz"
	"jwtbouncer/authz/httpapi"
	"jwtbouncer/authz/sharedsignals"
)

// Verifier verifies tokens, and messages about tokens.
type Verifier interface {
	// Verify is that of authz.Verifier.
	Verify(ctx context.Context, raw string) (*authz.Token, error)
	sharedsignals.Verifier
}

// receiver has the handlers. An endpoint without configuration does not exist.
type receiver struct {
	api      *httpapi.API
	issuers  authz.Issuers
	verifier Verifier
	log      *slog.Logger
	clock    authz.Clock

	clients     []oauthClient
	maxTokenTTL time.Duration
	unverified  *quota
	logout      httpapi.LogoutConfig
	logouts     *sharedsignals.Seen
	signals     *sharedsignals.Receiver // nil: no events are received
	keycloak    httpapi.KeycloakConfig
	global      httpapi.GlobalConfig
	globals     *sharedsignals.Seen
	claims      map[string]string                          // of sharedsignals.Config
	speaks      func(speaker string) sharedsignals.Subject // whose tokens an issuer may end
}

// Register adds the endpoints that the configuration of api asks for. signals
// receives the pushed security events.
func Register(api *httpapi.API, v Verifier, signals *sharedsignals.Receiver) error {
	o := api.Options()
	c := &receiver{
		api: api, issuers: o.Issuers, verifier: v, log: o.Logger, clock: o.Clock,
		maxTokenTTL: o.MaxTokenTTL, unverified: newQuota(o.Config.UnverifiedPerMinute, o.Clock),
		logout: o.Config.Logout, logouts: sharedsignals.NewSeen(2 * o.Config.Logout.MaxAge),
		signals: signals, keycloak: o.Config.Keycloak,
		global: o.Config.Global, globals: sharedsignals.NewSeen(2 * maxRequestLife), claims: o.Config.Events.SubjectClaims, speaks: o.Config.Events.Subject,
	}
	for i, client := range o.Config.Clients {
		secrets, err := httpapi.OpenSecretFile(client.SecretFile)
		if err != nil {
			return fmt.Errorf("api.clients[%d].secret_file: %w", i, err)
		}
		c.clients = append(c.clients, oauthClient{client.ID, secrets})
	}
	if err := o.Registry.Register(c.unverified.outcomes); err != nil {
		return err
	}
	api.Handle(httpapi.Endpoint{Method: "POST", Path: "/oauth2/revoke", Source: httpapi.SourceOAuth, Access: httpapi.AccessCaller, Serve: c.revokeToken})
	api.Handle(httpapi.Endpoint{Method: "POST", Path: "/oauth2/global-token-revocation", Source: httpapi.SourceGlobal, Access: httpapi.AccessCaller, Serve: c.revokeGlobally})
	if len(c.logout.Audiences) > 0 {
		api.Handle(httpapi.Endpoint{Method: "POST", Path: "/oidc/backchannel-logout", Source: httpapi.SourceLogout, Access: httpapi.AccessOpen, Serve: c.backchannelLogout})
	}
	if len(o.Config.Events.Audiences) > 0 {
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
	if f := authz.AsFailure(err); f != nil {
		return f.Reason
	}
	return authz.ReasonInternal
}

// verify returns the verified message, or else the problem for its sender and
// the reason. name says in text what the message is.
func (c *receiver) verify(r *http.Request, raw, name string, rules authz.SecurityEventRules) (*authz.Token, *httpapi.Problem, authz.Reason) {
	t, err := c.verifier.VerifySecurityEvent(r.Context(), raw, rules)
	if err == nil {
		return t, nil, authz.ReasonUnset
	}
	c.log.InfoContext(r.Context(), "message refused", "message", name, "error", err)
	if sharedsignals.Retryable(authz.AsFailure(err), raw, c.clock.Now()) {
		return nil, httpapi.Unavailable("the " + name + " cannot be verified at the moment"), reasonOf(err)
	}
	return nil, httpapi.Fail(http.StatusBadRequest, "the "+name+" is not valid: "+reasonOf(err).String()), reasonOf(err)
}
