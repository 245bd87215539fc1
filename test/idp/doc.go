// Package idp tests the logout endpoints with messages of real identity
// providers: panva's oidc-provider, a certified OpenID Provider, and Keycloak.
// `make test-idp` fetches the former and runs its test. It needs Node.js and is
// therefore not part of `make test`.
package idp
