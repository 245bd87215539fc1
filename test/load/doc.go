// Package load drives ext_authz servers with realistic checks, and measures
// what they cost: checks per second, latency, processor time as the kernel
// accounts it to the server's process, peak memory.
//
// Numbers of different runs say little about each other. What counts are the
// ratios between servers that ran side by side, in turns, on one machine.
package load
