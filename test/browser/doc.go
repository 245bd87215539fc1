// Package browser tests the operator's page in a real Chromium, against the real
// binary behind a real Envoy, and takes the screenshots in docs/images. It is a
// module of its own to keep the browser's protocol out of the product's
// dependencies.
package browser
