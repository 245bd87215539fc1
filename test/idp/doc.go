// Package idp tests the doors with the messages of a real identity provider:
// panva's oidc-provider, a certified OpenID Provider. `make test-idp` fetches
// it and runs the test; Node.js is needed for that, which is why it is not
// part of `make test`.
package idp
