// Package authz decides whether a request may pass. It finds the bearer
// credential, has the token verified, applies the route's rules and asks a
// chain of tiers whether the token has been revoked.
//
// It is the vocabulary and the decision, and nothing else: it imports no other
// package of this module, opens no connection, and knows no YAML, CEL or HTTP.
// Every zero value in it denies.
//
// Start reading at [Authorizer.Authorize], the read path, and [Revoker.Revoke],
// the write path. The packages below it do the work:
//
//   - jose: compact tokens, JSON, keys, signatures
//   - issuer: issuers' keys, verification, claims, security event tokens
//   - introspect: tokens that only their issuer can judge (RFC 7662)
//   - statuslist: the status that issuers publish of their tokens
//   - policy: routes and what they require
//   - policytest, explain: a policy's unit tests, a decision's steps
//   - fetch, breaker: bounded HTTP requests, bounded calls to a dependency
//   - secretfile: files that hold secrets
//   - sharedsignals: security events and what they end
//   - config, httpapi: configuration files, the HTTP endpoints
//   - authztest: test issuer, fixtures and contract suites
//
// # Glossary
//
//   - token: a verified bearer credential ([Token])
//   - issuer: the authorization server that signed a token ("iss")
//   - route: the requests a rule set is for ([Route]); policy: all routes ([Policy])
//   - decision: allow or deny, with one [Reason] ([Decision])
//   - failure: the reason and detail of a denial ([Failure])
//   - revocation: a stored fact that invalidates tokens ([Revocation])
//   - revocation request: what a caller asks to revoke ([RevocationRequest])
//   - revocation key: the hash under which a revocation is looked up ([Key])
//   - ledger: the authority that stores revocations ([Ledger])
//   - receipt: the answer to a revocation request ([Receipt])
//   - verdict: revoked, not revoked, or unknown ([Verdict])
//   - tier: a place that may know a verdict ([Tier]); chain: tiers in order ([Chain])
//   - feed: the ledger's stream of changes ([Feed]); follower: its reader
//   - replica: all live revocations in memory, filled by the follower
//   - epoch: one life of the ledger; a change makes followers reload
//   - generation: one state of an issuer's keys
//   - max_staleness: the bound on how old the replica's knowledge may be
//   - revocation unknown: no tier could prove a verdict (reply 503)
//   - sender constraint: a token bound to a key or certificate (RFC 8705, 9449)
//   - security event token: a signed message about tokens or sessions (RFC 8417)
package authz
