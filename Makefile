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
VM_PACKAGES   := qemu-system-x86 kmod
CLUSTER_PACKAGES := gcc iproute2 libc6-dev libseccomp-dev nftables pkg-config

# With VM=1 the lab is inside a virtual machine, whose kernel has IPIP.
VM_DIR    := /run/godwit-vm
VM_KERNEL := $(CURDIR)/.cache/vm
VM_RUN    := $(BIN)/vm --dir $(VM_DIR)

# The lab's options by the names that a person gives them; what is not given is
# the lab program's to choose.
LAB         := $(BIN)/lab
LAB_BIN     := --bin $(BIN) --kube-bin $(TOOLS)
LAB_OPTIONS := $(if $(ENCAP),--encap $(ENCAP)) $(if $(FAMILY),--family $(patsubst v%,ipv%,$(FAMILY))) \
	$(if $(SUBNETS),--subnets $(SUBNETS)) $(if $(TOPOLOGY),--topology $(TOPOLOGY)) $(if $(SESSIONS),--sessions $(SESSIONS))

# The image is for these; its name, in the manifests too, is godwit-net/godwit:dev.
PLATFORMS := linux/amd64 linux/arm64

PROGRAMS    := godwit-agent godwit-controller godwit-cni godwitctl
CONTROL     := k8s.io/kubernetes/cmd/kube-apiserver go.etcd.io/etcd/server/v3 k8s.io/kubernetes/cmd/kubectl
CNI_PLUGINS := $(addprefix github.com/containernetworking/plugins/plugins/,meta/portmap meta/bandwidth meta/tuning main/ptp ipam/host-local)

# The real cluster's programs, besides the above, and its options.
CLUSTER_KUBE    := $(addprefix k8s.io/kubernetes/cmd/,kube-controller-manager kube-proxy kube-scheduler kubelet)
CLUSTER_RUNTIME := $(addprefix github.com/containerd/containerd/v2/cmd/,containerd containerd-shim-runc-v2 ctr)
CLUSTER         := $(BIN)/cluster --bin $(TOOLS)
CLUSTER_TEST    := gwcl

.PHONY: help
help: ## Show what can be made
	@echo "Godwit: BGP routing for Kubernetes pods. Targets:"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## The lab

.PHONY: lab lab-down lab-shell lab-status
ifneq ($(VM),1)

lab: root kube programs lab-program ## Bring up a cluster to play with: ENCAP=none|ipip|vxlan|… FAMILY=v4|v6|dual SUBNETS=1|2 TOPOLOGY=mesh|none SESSIONS=v4|v6|both VM=1
	@scripts/install-packages $(LAB_PACKAGES)
	@$(LAB) up $(LAB_BIN) $(LAB_OPTIONS)

lab-down: lab-program vm-program ## Take the lab down, in the virtual machine or not, and leave nothing behind
	@[ ! -e $(VM_DIR) ] || $(VM_RUN) down
	@$(LAB) down

lab-shell: lab-program ## Open a shell in a node of the lab (NODE=n1)
	@$(LAB) shell $(LAB_BIN) $(or $(NODE),n1)

lab-status: lab-program ## Show the lab's state again
	@$(LAB) status $(LAB_BIN)

else # the same, in the virtual machine

lab: root kube programs lab-program vm
	@scripts/install-packages $(LAB_PACKAGES)
	@$(VM_RUN) up --kernel $(VM_KERNEL) -- $(LAB) up $(LAB_BIN) $(LAB_OPTIONS)

lab-down: vm-program
	@$(VM_RUN) down

lab-shell: vm-program
	@$(VM_RUN) shell -- $(LAB) shell $(LAB_BIN) $(or $(NODE),n1)

lab-status: vm-program
	@$(VM_RUN) exec -- $(LAB) status $(LAB_BIN)

endif

## A real cluster

.PHONY: cluster cluster-down cluster-parts
cluster: root cluster-parts ## Bring up a real Kubernetes cluster with Godwit: 3 kubelets, containerd, kube-proxy (15 minutes the first time)
	@$(CLUSTER) up --image "$$(VERSION='$(VERSION)' scripts/cluster-images dist/cluster)"

cluster-down: ## Take the real cluster down, and leave nothing behind
	@[ ! -e $(BIN)/cluster ] || $(CLUSTER) down

cluster-parts: kube $(TOOLS)/.cluster
	@mkdir -p $(BIN)
	@cd e2e && CGO_ENABLED=0 go build -trimpath -o $(BIN)/ ./cmd/cluster ./cmd/podtest

# Compiled with the flags of .kube, with which they have most packages in common.
$(TOOLS)/.cluster: e2e/kube/cluster/go.mod e2e/kube/cluster/go.sum e2e/kube/runtime/go.mod e2e/kube/runtime/go.sum scripts/build
	@scripts/install-packages $(CLUSTER_PACKAGES)
	@echo "==> building kubelet, containerd and what belongs to them from their modules"
	@GO_BUILD_FLAGS=-ldflags=-s scripts/build e2e/kube/cluster $(TOOLS) $(CLUSTER_KUBE)
	@GO_BUILD_FLAGS=-ldflags=-s scripts/build e2e/kube/runtime $(TOOLS) $(CLUSTER_RUNTIME)
	@CGO_ENABLED=1 GO_BUILD_FLAGS=-tags=seccomp scripts/build e2e/kube/runtime $(TOOLS) github.com/opencontainers/runc
	@touch $@

## The programs

.PHONY: programs lab-program vm-program vm
programs: ## Build Godwit's four programs into bin/
	@echo "==> building Godwit's programs into bin/"
	@mkdir -p $(BIN)
	@go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ $(addprefix ./cmd/,$(PROGRAMS))

.PHONY: image
image: ## Build the container image into dist/, without a container engine: PLATFORMS=… VERSION=… IMAGE=name:tag
	@VERSION='$(VERSION)' $(if $(IMAGE),IMAGE='$(IMAGE)') scripts/image dist $(PLATFORMS)

lab-program:
	@mkdir -p $(BIN)
	@cd e2e && go build -trimpath -o $(BIN)/lab ./cmd/lab

# Linked statically, for it is the machine's first process, too.
vm-program:
	@mkdir -p $(BIN)
	@cd e2e && CGO_ENABLED=0 go build -trimpath -o $(BIN)/vm ./cmd/vm

vm: vm-program
	@scripts/install-packages $(VM_PACKAGES)
	@scripts/vm-kernel $(VM_KERNEL)

# What stands for a cluster: a real API server and etcd, and the reference CNI plugins.
.PHONY: kube
kube: $(TOOLS)/.kube
$(TOOLS)/.kube: e2e/kube/go.mod e2e/kube/go.sum scripts/build
	@echo "==> building the control plane and CNI plugins from their modules (about 6 minutes the first time)"
	@scripts/build e2e/kube $(TOOLS) $(CONTROL) $(CNI_PLUGINS)
	@touch $@

# For the chart's tests; none of the lab's parts.
.PHONY: helm
helm: $(TOOLS)/.helm
$(TOOLS)/.helm: tools/helm/go.mod tools/helm/go.sum scripts/build
	@scripts/build tools/helm $(TOOLS) helm.sh/helm/v4/cmd/helm
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

.PHONY: test test-unit test-race test-image test-e2e test-vm test-cluster
test: root verify lint test-race test-image test-e2e test-vm test-cluster ## Run everything that CI runs

# Most of what package tests do is wait for timers of BGP, so more than one a core run at once; with the race detector,
# which makes the rest slow, fewer.
test-unit: kube helm ## The inner loop: package tests, on the real kernel and API server
	@scripts/install-packages $(LAB_PACKAGES)
	@echo "==> package tests"
	@go test -p 6 -shuffle=on -parallel 6 ./...

test-race: kube helm
	@scripts/install-packages $(TEST_PACKAGES)
	@echo "==> package tests with the race detector"
	@GORACE=suppressions=$(CURDIR)/scripts/race-suppressions CGO_ENABLED=1 go test -race -shuffle=on -parallel 4 -timeout 20m ./...

test-image: ## The image's tests: two builds are the same, and hold what they should
	@echo "==> the image's tests"
	@cd tools/image && go test -count=1 ./...

test-e2e: root kube programs lab-program ## The end-to-end tests, on a lab of their own
	@scripts/install-packages $(LAB_PACKAGES)
	@echo "==> end-to-end tests"
	@cd e2e && GODWIT_BIN=$(BIN) GODWIT_KUBE_BIN=$(TOOLS) go test -p 1 -count=1 -timeout 30m -skip '$(VM_TESTS)|$(CLUSTER_TESTS)' ./...

# Tests of these names are for the virtual machine: they boot it, or need its kernel.
VM_TESTS := ^Test(VM|IPIP)
# Those of these names are for the real cluster.
CLUSTER_TESTS := ^TestCluster$$

test-vm: root kube programs vm ## The tests of the virtual machine, and in it those that need IPIP
	@scripts/install-packages $(LAB_PACKAGES)
	@echo "==> the virtual machine's tests"
	@cd e2e && GODWIT_VM_KERNEL=$(VM_KERNEL) CGO_ENABLED=0 go test -count=1 -timeout 10m -run '$(VM_TESTS)' ./vm
	@echo "==> tests in the virtual machine: the tunnels, and the lab with IPIP"
	@mkdir -p $(BIN)/test
	@CGO_ENABLED=0 go test -c -o $(BIN)/test/ ./tunnel
	@cd e2e && CGO_ENABLED=0 go test -c -o $(BIN)/test/ .
	@$(BIN)/vm --dir $(VM_DIR)-test run --kernel $(VM_KERNEL) -- scripts/vm-test $(BIN)/test $(BIN) $(TOOLS)

.PHONY: soak
soak: root kube programs lab-program ## Add and delete many pods in a lab while agents are killed: PODS=10000
	@scripts/install-packages $(LAB_PACKAGES)
	@cd e2e && GODWIT_SOAK_PODS=$(or $(PODS),10000) GODWIT_BIN=$(BIN) GODWIT_KUBE_BIN=$(TOOLS) go test -count=1 -v -timeout 60m -run '^TestSoak$$' .

# The cluster goes also when the test is interrupted.
test-cluster: root cluster-parts helm ## The tests on the real cluster: install, upgrade under traffic, reboot, uninstall, Helm: PREVIOUS=commit to upgrade from
	@images=$$(VERSION='$(VERSION)' PREVIOUS='$(PREVIOUS)' scripts/cluster-images dist/cluster | tr , :); \
	trap '$(CLUSTER) --prefix $(CLUSTER_TEST)- --dir /var/tmp/$(CLUSTER_TEST)-cluster down' EXIT; \
	cd e2e; GODWIT_CLUSTER_IMAGES="$$images" GODWIT_E2E_NAME=$(CLUSTER_TEST) GODWIT_BIN=$(BIN) GODWIT_KUBE_BIN=$(TOOLS) \
		go test -count=1 -timeout 20m -v -run '$(CLUSTER_TESTS)' ./cluster

.PHONY: bench
bench: root kube programs ## Measure against reference plugins, BIRD and FRR, in the same run
	@scripts/install-packages $(LAB_PACKAGES)
	@cd e2e && GODWIT_BIN=$(BIN) GODWIT_KUBE_BIN=$(TOOLS) go run ./cmd/bench

# What of it is not given is the program's to choose: see bin/scale --help.
.PHONY: scale
scale: root kube programs ## Measure the control plane with simulated nodes: NODES=1000 AGENTS=… POOLS=2 OVER=60s REST=2m JOINS=5 FLAGS=…
	@scripts/install-packages iproute2
	@cd e2e && go build -trimpath -o $(BIN)/scale ./cmd/scale
	@$(BIN)/scale --bin $(BIN) --kube-bin $(TOOLS) --config config --nodes $(or $(NODES),100) \
		$(if $(AGENTS),--agents $(AGENTS)) $(if $(POOLS),--pools $(POOLS)) $(if $(OVER),--over $(OVER)) \
		$(if $(REST),--rest $(REST)) $(if $(JOINS),--joins $(JOINS)) $(FLAGS) --json .cache/scale-$(or $(NODES),100).json

## The house

.PHONY: generate verify lint fmt
generate: tools kube ## Generate CRDs, install.yaml, the chart's copies, deep copies and the CNI service's code
	@scripts/install-packages protobuf-compiler
	@controller-gen object:headerFile=/dev/null paths=./api/v1alpha1/...
	@controller-gen crd paths=./api/v1alpha1/... output:crd:dir=config/crd
	@GODWIT_UPDATE_GOLDENS=1 go test -count=1 -run '^Test(InstallFile|Generated)$$' ./config ./charts >/dev/null
	@protoc --go_out=. --go_opt=module=github.com/godwit-net/godwit \
		--go-ttrpc_out=. --go-ttrpc_opt=module=github.com/godwit-net/godwit api/cni/cni.proto

verify: generate ## Check that generated files and modules are as committed
	@echo "==> checking generated files and modules"
	@go mod tidy -diff
	@cd e2e && go mod tidy -diff
	@cd tools/image && go mod tidy -diff
	@cd tools/helm && go mod tidy -diff
	@git diff --exit-code -- api config charts go.mod go.sum || { echo "error: generated files differ: run 'make generate' and commit" >&2; exit 1; }

lint: $(TOOLS)/.golangci-lint ## Run go vet and golangci-lint over the modules
	@echo "==> linting"
	@go vet ./... && golangci-lint run ./...
	@cd e2e && go vet ./... && golangci-lint run --config ../.golangci.yml ./...
	@cd tools/image && go vet ./... && golangci-lint run --config ../../.golangci.yml ./...

fmt: tools ## Format the code
	@gofumpt -w $$(git ls-files '*.go' | grep -vE 'zz_generated|\.pb\.go')
