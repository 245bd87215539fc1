// Package idp tests the product with real identity providers: Keycloak, panva's
// oidc-provider, and an OpenID Provider that is built with Zitadel's library. Each
// test goes from the documented configuration, through keys that the provider
// rotates, to a logout that a real Envoy enforces.
//
// It is a module of its own, because the product does not depend on a provider.
// `make test-live-idp` fetches what it needs: Java and Node.js must be installed.
package idp
