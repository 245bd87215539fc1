// Package doctor examines an installation: the files, issuers, store, Redis and
// clocks of a sidecar, and the configuration of the Envoy that asks it. It reads
// only, within limits of time and size, and its results contain no secret.
//
// It says nothing about requests. An Envoy whose configuration it does not know in
// full is reported as not examined, and never as sound.
package doctor
