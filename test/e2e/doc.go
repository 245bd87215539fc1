// Package e2e tests the product from outside: the real binary behind a real
// Envoy, with real Redis and PostgreSQL.
package e2e
