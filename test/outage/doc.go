// Package outage takes away, one at a time and together, what the product
// depends on, and holds it to its invariants meanwhile:
//
//   - a forged token is answered 401, but 503 while its key is looked for at an issuer that answered last time;
//   - a revoked token is never allowed beyond the guarantee's bound;
//   - a revocation that was acknowledged is durable;
//   - a check is never answered by an RPC error;
//   - /livez stays OK, and no process ends;
//   - after healing, good tokens pass within five seconds, without a restart.
package outage
