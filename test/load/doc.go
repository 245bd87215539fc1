// Package load sends realistic checks to ext_authz servers and measures checks
// per second, latency, CPU time of the server's process, and peak memory.
//
// Numbers of different runs are not comparable. The ratios between servers that
// ran on one machine, in turns, are.
package load
