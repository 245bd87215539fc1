// Package live holds what the tests of real control planes share: a network
// namespace of their own, a Kubernetes API server, the blocks of the guides, and the
// requests with which each of them ends. `make test-live` builds the control planes
// of tools and runs the tests; each platform has a package below this one.
//
// It is a module of its own, because it takes minutes and no other test needs it.
package live
