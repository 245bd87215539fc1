// Package k8s holds the manifests that deploy jwt-bouncer. Its tests validate
// them offline, with the real types and CRD schemas, the restricted Pod Security
// Standard, Envoy, and the product's configuration loader. It is a module of its
// own to keep Kubernetes' types out of the product's dependencies.
package k8s
