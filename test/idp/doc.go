// Package idp tests the product with real identity providers, from the
// configuration that init writes to a logout: panva's oidc-provider, a certified
// OpenID Provider, and Keycloak.
// `make test-idp` fetches the former and runs its test, which needs Node.js, and
// `make test-keycloak` the latter, which needs Java and Maven. So neither is part of
// `make test`.
package idp
