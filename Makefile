# Everything that `make lab` and `make test` need they install or build
# themselves: Debian packages by apt-get, programs from their Go modules.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

TOOLS   := $(CURDIR)/.cache/bin
BIN     := $(CURDIR)/bin
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/godwit-net/godwit/internal/version.Version=$(VERSION)

export PATH := $(TOOLS):$(PATH)
export KUBEBUILDER_ASSETS := $(TOOLS)
export CGO_ENABLED ?= 0

LAB_PACKAGES  := bird2 frr iproute2 iputils-ping nftables procps
TEST_PACKAGES := $(LAB_PACKAGES) gcc libc6-dev protobuf-compiler tcpdump

PROGRAMS    := godwit-agent godwit-controller godwit-cni godwitctl
CONTROL     := k8s.io/kubernetes/cmd/kube-apiserver go.etcd.io/etcd/server/v3 k8s.io/kubernetes/cmd/kubectl
CNI_PLUGINS := $(addprefix github.com/containernetworking/plugins/plugins/,meta/portmap meta/bandwidth meta/tuning main/ptp ipam/host-local)

.PHONY: help
help: ## Show what can be made
	@echo "Godwit: BGP routing for Kubernetes pods. Targets:"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## The lab

.PHONY: lab lab-down lab-shell lab-status
lab: root kube programs lab-program ## Bring up three nodes, two top-of-rack routers and a control plane, with pods that talk
	@scripts/install-packages $(LAB_PACKAGES)
	@$(BIN)/lab up --bin $(BIN) --kube-bin $(TOOLS)

lab-down: lab-program ## Take the lab down and leave nothing behind
	@$(BIN)/lab down

lab-shell: lab-program ## Open a shell in a node of the lab (NODE=n1)
	@$(BIN)/lab shell --bin $(BIN) --kube-bin $(TOOLS) $(or $(NODE),n1)

lab-status: lab-program ## Show the lab's state again
	@$(BIN)/lab status --bin $(BIN) --kube-bin $(TOOLS)

## The programs

.PHONY: programs lab-program
programs: ## Build Godwit's four programs into bin/
	@echo "==> building Godwit's programs into bin/"
	@mkdir -p $(BIN)
	@go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ $(addprefix ./cmd/,$(PROGRAMS))

lab-program:
	@mkdir -p $(BIN)
	@cd e2e && go build -trimpath -o $(BIN)/lab ./cmd/lab

# What stands for a cluster: a real API server and etcd, and the reference CNI plugins.
.PHONY: kube
kube: $(TOOLS)/.kube
$(TOOLS)/.kube: e2e/kube/go.mod e2e/kube/go.sum scripts/build
	@echo "==> building the control plane and CNI plugins from their modules (about 6 minutes the first time)"
	@scripts/build e2e/kube $(TOOLS) $(CONTROL) $(CNI_PLUGINS)
	@touch $@

.PHONY: tools
tools: $(TOOLS)/.tools
$(TOOLS)/.tools: tools/go.mod tools/go.sum scripts/build
	@scripts/build tools $(TOOLS) sigs.k8s.io/controller-tools/cmd/controller-gen \
		google.golang.org/protobuf/cmd/protoc-gen-go github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc mvdan.cc/gofumpt
	@touch $@

$(TOOLS)/.golangci-lint: tools/go.mod tools/go.sum scripts/build
	@scripts/build tools $(TOOLS) github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

## The tests

.PHONY: root
root:
	@[ "$$(id -u)" = 0 ] || { echo "error: this needs root (it makes network namespaces): run it as root" >&2; exit 1; }

.PHONY: test test-unit test-race test-e2e
test: root verify lint test-race test-e2e ## Run everything that CI runs

test-unit: kube ## The inner loop: package tests, on the real kernel and API server
	@scripts/install-packages $(LAB_PACKAGES)
	@echo "==> package tests"
	@go test -shuffle=on ./...

test-race: kube
	@scripts/install-packages $(TEST_PACKAGES)
	@echo "==> package tests with the race detector"
	@GORACE=suppressions=$(CURDIR)/scripts/race-suppressions CGO_ENABLED=1 go test -race -shuffle=on -timeout 20m ./...

test-e2e: root kube programs lab-program ## The end-to-end tests, on a lab of their own
	@scripts/install-packages $(LAB_PACKAGES)
	@echo "==> end-to-end tests"
	@cd e2e && GODWIT_BIN=$(BIN) GODWIT_KUBE_BIN=$(TOOLS) go test -count=1 -timeout 30m ./...

.PHONY: bench
bench: root kube programs ## Measure against reference plugins, BIRD and FRR, in the same run
	@scripts/install-packages $(LAB_PACKAGES)
	@cd e2e && GODWIT_BIN=$(BIN) GODWIT_KUBE_BIN=$(TOOLS) go run ./cmd/bench

## The house

.PHONY: generate verify lint fmt
generate: tools ## Generate CRDs, deep copies and the CNI service's code
	@scripts/install-packages protobuf-compiler
	@controller-gen object:headerFile=/dev/null paths=./api/v1alpha1/...
	@controller-gen crd paths=./api/v1alpha1/... output:crd:dir=config/crd
	@protoc --go_out=. --go_opt=module=github.com/godwit-net/godwit \
		--go-ttrpc_out=. --go-ttrpc_opt=module=github.com/godwit-net/godwit api/cni/cni.proto

verify: generate ## Check that generated files and modules are as committed
	@echo "==> checking generated files and modules"
	@go mod tidy -diff
	@cd e2e && go mod tidy -diff
	@git diff --exit-code -- api config go.mod go.sum || { echo "error: generated files differ: run 'make generate' and commit" >&2; exit 1; }

lint: $(TOOLS)/.golangci-lint ## Run go vet and golangci-lint over both modules
	@echo "==> linting"
	@go vet ./... && golangci-lint run ./...
	@cd e2e && go vet ./... && golangci-lint run --config ../.golangci.yml ./...

fmt: tools ## Format the code
	@gofumpt -w $$(git ls-files '*.go' | grep -vE 'zz_generated|\.pb\.go')
