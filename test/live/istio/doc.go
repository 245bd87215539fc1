// Package istio runs istiod with a Kubernetes API server and gives it the manifests
// of k8s/overlays/istio and docs/istio.md. Real Envoys take their configuration from
// it.
package istio
