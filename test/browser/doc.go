// Package browser tests the operator's page in a real Chromium against the
// real binary behind a real Envoy, and takes the pictures for docs/images. It
// is a module of its own so that the browser's protocol stays out of the
// product's dependencies.
package browser
