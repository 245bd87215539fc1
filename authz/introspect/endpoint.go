package introspect

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"jwtbouncer/authz/fetch"
	"jwtbouncer/authz/jose"
	"jwtbouncer/authz/secretfile"
)

// post sends an introspection request (RFC 7662, section 2.1). It returns the
// members of the response and its length in bytes. Errors never contain the
// token.
func (n *introspection) post(ctx context.Context, raw string) (_ map[string]any, text int, _ error) {
	secret, err := secretfile.Read(n.cfg.ClientSecretFile)
	if err != nil {
		return nil, 0, fmt.Errorf("client_secret_file: %w", err)
	}
	form := url.Values{"token": {raw}, "token_type_hint": {"access_token"}}
	if n.cfg.ClientAuth == "post" {
		form.Set("client_id", n.cfg.ClientID)
		form.Set("client_secret", secret)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.cfg.Endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, 0, err
	}
	switch n.cfg.ClientAuth {
	case "basic": // RFC 6749, section 2.3.1: form-encoded first
		req.SetBasicAuth(url.QueryEscape(n.cfg.ClientID), url.QueryEscape(secret))
	case "bearer":
		req.Header.Set("Authorization", "Bearer "+secret)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	document, err := fetch.Do(n.client, req, "application/json", maxResponse)
	if status := fetch.StatusError(0); errors.As(err, &status) && refusesToken(int(status)) {
		return nil, 0, fmt.Errorf("%w with %w", errTokenRefused, err)
	}
	if err != nil {
		return nil, 0, err
	}
	claims, err := jose.ParseDocument(document.Body)
	if err != nil {
		return nil, 0, fmt.Errorf("%s where an introspection response is needed: %w", document, err)
	}
	if _, ok := claims["active"].(bool); !ok {
		return nil, 0, fmt.Errorf("%s where an introspection response is needed: it has no active", document)
	}
	return claims, len(document.Body), nil
}

// errTokenRefused is an error response that concerns the token of the request,
// not the client or the endpoint.
var errTokenRefused = errors.New("the endpoint refused the token")

func refusesToken(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity, http.StatusRequestHeaderFieldsTooLarge:
		return true
	}
	return false
}

// probe introspects a token that no issuer has issued. A working endpoint
// responds that it is inactive, or refuses it.
func (n *introspection) probe(ctx context.Context) error {
	_, _, err := n.post(ctx, "jwt-bouncer-probe")
	if errors.Is(err, errTokenRefused) {
		return nil
	}
	return err
}

// maxResponse bounds a response, in bytes.
const maxResponse = 64 << 10
