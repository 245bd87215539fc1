// Package statuslist is a revocation tier over the lists that issuers publish
// about their tokens (draft-ietf-oauth-status-list). It fetches lists in the
// background and never allows a token whose list it could not read.
package statuslist
