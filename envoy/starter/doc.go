// Package starter makes the files with which a new user begins: a configuration
// for the identity provider that discovery describes, and the proxy's part or the
// manifests beside it. It asks nobody and writes nothing; the command init does.
package starter
