// Package receiver serves the endpoints that take tokens and messages about
// them: OAuth 2.0 Token Revocation (RFC 7009), Global Token Revocation, OpenID Connect Back-Channel
// Logout 1.0, pushed security events (RFC 8935), and Keycloak's admin actions.
//
// It verifies each message, derives revocation requests from its claims, and
// never acknowledges a message before the ledger has committed them.
package receiver
