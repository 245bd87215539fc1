// Package sharedsignals receives security event tokens (RFC 8417) of the OpenID
// Shared Signals Framework 1.0, its profiles CAEP 1.0 and RISC 1.0, and OAuth.
//
// It verifies each token, derives revocation requests from its events and
// subjects, and has them committed. A caller acknowledges a token only as its
// [Result] says: never before the commit, and never if an event that ends
// something here could not be carried out.
//
// How tokens come in is not its subject here: package receiver takes pushed ones
// (RFC 8935), and both ways call [Receiver.Receive].
package sharedsignals
