// Package monitoring runs what is delivered for monitoring with the programs that it
// is for: the alert rules in a real Prometheus that scrapes real sidecars through an
// outage, the dashboard's queries on what Prometheus has recorded meanwhile, and the
// traces in an OpenTelemetry Collector that also receives Envoy's.
//
// It is a module of its own, so that a run of all tests does not include it.
// `make test-live-monitoring` fetches Prometheus and builds the collector.
package monitoring
