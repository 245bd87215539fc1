// Package cache holds what lets a sidecar answer without asking anybody: the
// verified-token cache, the replica of the live revocations with the follower
// that keeps it fresh, and the Redis tier between sidecars and the authority.
//
// Nothing in it is an authority. What it cannot prove it reports as Unknown,
// and it never forgets a live revocation to save memory.
package cache
