// Package harness runs the product and the real servers around it (Envoy,
// Redis or Valkey, PostgreSQL) as child processes on free loopback ports, for
// tests. It needs neither Docker nor root; as root, the children run as nobody.
//
// A server that is not installed fails the test with a hint. Only -short skips:
// it skips every test that asks for a process. Nothing started here outlives
// the test process: children are stopped by their id when the test ends, and by
// the kernel if the test process dies.
package harness
