// Package idp tests the product with real identity providers, from the
// configuration that init writes to a logout: panva's oidc-provider, a certified
// OpenID Provider, and Keycloak.
// `make test-idp` fetches the former and runs its test. It needs Node.js and is
// therefore not part of `make test`.
package idp
