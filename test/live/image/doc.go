// Package image builds the image without a container engine, and runs it: the
// commands of the Dockerfile's first stage in a copy of the build context, the last
// stage as an OCI layout, and the file system of that in a chroot, read-only and as
// the image's user, with a real Envoy that asks it.
//
// It is a module of its own because of its dependencies. It needs root.
package image
