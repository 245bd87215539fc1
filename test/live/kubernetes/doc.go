// Package kubernetes applies the manifests to a Kubernetes API server and its
// controllers, installs the chart with Helm, and runs docs/kubernetes.md.
package kubernetes
