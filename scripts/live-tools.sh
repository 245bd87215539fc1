#!/usr/bin/env bash
# Builds the control planes that `make test-live` runs into .tools/live/bin: etcd, kube-apiserver,
# kube-controller-manager, kubectl, envoy-gateway, istiod and helm; and the custom resource
# definitions of the Prometheus Operator into .tools/live/crds. Each directory of test/live/tools
# is a Go module that pins one of them, by version and by checksum. A program is built again only
# when its module's go.mod or go.sum, or the Go version changes.
set -euo pipefail
cd "$(dirname "$0")/.."

export GOTOOLCHAIN=local CGO_ENABLED=0
bin=$PWD/.tools/live/bin
mkdir -p "$bin"

# pinned MODULE PATH prints the version of the Go module PATH in test/live/tools/MODULE/go.mod.
pinned() { (cd "test/live/tools/$1" && go list -m -f '{{.Version}}' "$2"); }

# build MODULE BINARY PACKAGE [LDFLAGS] builds one program, unless its stamp says that it is there.
build() {
	local module=$1 binary=$2 package=$3 ldflags="-s -w ${4:-}"
	local dir=test/live/tools/$module stamp want
	stamp=$bin/.$binary
	want=$({ cat "$dir/go.mod" "$dir/go.sum"; go env GOVERSION GOARCH; echo "$package $ldflags"; } | sha256sum | cut -d' ' -f1)
	if [ -x "$bin/$binary" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
		return
	fi
	echo "building $binary (minutes, once)"
	(cd "$dir" && go build -p 2 -trimpath -ldflags "$ldflags" -o "$bin/$binary.new" "$package")
	mv "$bin/$binary.new" "$bin/$binary"
	printf '%s' "$want" >"$stamp"
}

# kubectl and Helm ask the API server for its version, which only the linker sets.
kubernetes=$(pinned kubernetes k8s.io/kubernetes)
minor=${kubernetes#v1.}
v=k8s.io/component-base/version
kubernetes_version="-X $v.gitVersion=$kubernetes -X $v.gitMajor=1 -X $v.gitMinor=${minor%%.*}"

build etcd etcd go.etcd.io/etcd/server/v3
build kubernetes kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver "$kubernetes_version"
build kubernetes kube-controller-manager k8s.io/kubernetes/cmd/kube-controller-manager "$kubernetes_version"
build kubernetes kubectl k8s.io/kubernetes/cmd/kubectl "$kubernetes_version"
build envoy-gateway envoy-gateway github.com/envoyproxy/gateway/cmd/envoy-gateway
build istio istiod istio.io/istio/pilot/cmd/pilot-discovery
build helm helm helm.sh/helm/v4/cmd/helm

# The operator's own module is not to be had everywhere. Its CRDs are generated from its types, with
# the generator that it uses itself.
build prometheus-operator controller-gen sigs.k8s.io/controller-tools/cmd/controller-gen
if [ ! -e .tools/live/crds ] || [ "$bin/.controller-gen" -nt .tools/live/crds ]; then
	rm -rf .tools/live/crds
	(cd test/live/tools/prometheus-operator && "$bin/controller-gen" crd output:crd:dir="$bin/../crds" \
		paths=github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1)
fi
chmod -R go+rX .tools/live
