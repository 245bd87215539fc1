// Package outage makes the product's dependencies fail, one at a time and
// together, and checks the product's invariants meanwhile:
//
//   - a forged token is denied with 401, or with 503 while the issuer is asked for its key;
//   - a revoked token is never allowed later than max_staleness after the receipt;
//   - an acknowledged revocation is durable;
//   - no check is answered with an RPC error;
//   - /livez stays OK, and the sidecar keeps running;
//   - within five seconds of healing, valid tokens are allowed, without a restart.
package outage
