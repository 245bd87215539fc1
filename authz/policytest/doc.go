// Package policytest runs example requests against a policy through the real
// Authorizer: the unit tests of a policy, which need no network and no keys. It
// never serves a request.
package policytest
