// Package cache keeps in memory what a sidecar needs to answer without a network
// round trip: verified tokens, and a replica of all live revocations with the
// follower that keeps it fresh. Package rediscache is the cache that sidecars
// share.
//
// The store alone is the authority. What this package cannot prove it reports as
// authz.Unknown, and it never forgets a live revocation to save memory.
package cache
