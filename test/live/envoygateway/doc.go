// Package envoygateway runs Envoy Gateway without Kubernetes and gives it the
// manifests of k8s/overlays/envoy-gateway and docs/envoy-gateway.md.
package envoygateway
