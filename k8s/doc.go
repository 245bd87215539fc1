// Package k8s holds the manifests that deploy jwt-bouncer; its tests validate
// them offline: by the real types and CRD schemas, the restricted Pod Security
// Standard, Envoy itself, and the product's own loader. It is a module of its
// own so that Kubernetes' types stay out of the product's dependencies.
package k8s
