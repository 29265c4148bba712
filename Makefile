# All targets run as root: they install packages, mount file systems and start NFS servers (in namespaces of their own).
# Needed beforehand: make, Python >= 3.11, Rust >= 1.88 (rustup), and Go >= 1.25 for `sanity` and `test`.
PYTHON  := .venv/bin/python
SUITE   := $(PYTHON) -m tests.support.suite
SOURCES := Cargo.toml Cargo.lock pyproject.toml setup.py \
           $(shell find csi efc proto -type f -not -name '*.pyc' -not -path '*/target/*')
CSI_SANITY_VERSION := v5.6.0
HELM_VERSION := v3.21.4
# Of the tests in tests/faults: makes a daemon's saved state know a million files.
FILL_STATE := target/release/examples/fill_state

.PHONY: help setup quickstart test bench proto clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z -]*\):.*## /\1: /p' $(MAKEFILE_LIST)

setup: .venv/installed ## installs system packages, and EFC into .venv (.venv/bin/efc)
.venv/installed: $(SOURCES) tests/support/setup
	@tests/support/setup
	@touch $@

quickstart: setup ## the whole story in one command; SOURCE=nfs://HOST/DIR uses a NAS of yours
	@tests/support/sandbox $(PYTHON) -m examples.quickstart

test: setup .tools/bin/csi-sanity .tools/bin/pjdfstest .tools/bin/fsx .tools/bin/helm $(FILL_STATE) ## everything below but bench; sanity, faults and the cluster in their short forms
	@$(SUITE) lint unit rust csi errors sanity posix integrity faults cluster-short

# The parts of `make test`, each with its own line of figures and results/NAME.json.
lint unit rust csi errors integrity: setup ## parts of test
	@$(SUITE) $@
sanity: setup .tools/bin/csi-sanity ## CSI conformance, 20 seeds, nothing left out by a skip list
	@SANITY_SEEDS=20 $(SUITE) $@
posix: setup .tools/bin/pjdfstest .tools/bin/fsx ## pjdfstest and fsx on a real mount
	@$(SUITE) $@
faults: setup $(FILL_STATE) ## everything is killed again and again under verified work: daemons 500 times, the rest 100; an hour and more
	@FAULTS_KILLS=$(or $(KILLS),100) $(SUITE) $@
.PHONY: lint unit rust csi errors integrity sanity posix faults

bench: setup ## side by side: ext4, the bare NFS client, the mount; report under results/
	@tests/support/sandbox $(PYTHON) -m bench

# --- a real Kubernetes cluster in namespaces of this machine --------------------------------------------------------
CLUSTER := .tools/cluster

cluster: setup $(CLUSTER)/ready .tools/bin/helm ## installs the driver on a real cluster of two nodes and tests it there (the first time takes 10 minutes)
	@$(SUITE) cluster
cluster-short: setup ## the same in four minutes, if Kubernetes can be built in ten; otherwise SKIPPED
	@$(SUITE) $@
cluster-up: setup $(CLUSTER)/ready ## boots such a cluster and leaves it running: tests/cluster/kubectl, tests/cluster/on-node; NODES=1 to 9
	@PYTHON=$(PYTHON) tests/cluster/up $(or $(NODES),2)
cluster-down: ## ends it
	@tests/cluster/down
.PHONY: cluster cluster-short cluster-up cluster-down

$(CLUSTER)/ready: $(CLUSTER)/bin/kubelet $(CLUSTER)/images/busybox.tar $(CLUSTER)/images/efc-csi.tar
	@touch $@
$(CLUSTER)/packages: tests/cluster/packages
	@mkdir -p $(CLUSTER)
	@tests/cluster/packages
	@touch $@
$(CLUSTER)/bin/kubelet: $(wildcard tests/cluster/programs/* tests/cluster/programs/kubebin/*)
	@command -v go >/dev/null || { echo "the cluster needs Go 1.25 or newer: https://go.dev/dl" >&2; exit 1; }
	tests/cluster/programs/build $(CLUSTER)/bin
$(CLUSTER)/images/busybox.tar: tests/cluster/images.py $(CLUSTER)/packages $(CLUSTER)/bin/kubelet .venv/installed
	@$(PYTHON) -m tests.cluster.images $(CLUSTER)/bin $(@D)
$(CLUSTER)/images/efc-csi.tar: $(SOURCES) Dockerfile deploy/image $(CLUSTER)/packages
	@mkdir -p $(@D)
	deploy/image $(CURDIR)/$@

proto: setup ## generates csi/_proto from proto/
	@$(PYTHON) csi/_proto/generate.py

manifests: .tools/bin/helm ## makes deploy/efc-csi.yaml from deploy/chart
	@deploy/render > deploy/.efc-csi.yaml && mv deploy/.efc-csi.yaml deploy/efc-csi.yaml
.PHONY: manifests

$(FILL_STATE): $(SOURCES)
	cargo build --quiet --release --locked --package efc-fuse --example fill_state

.tools/bin/helm:
	GOBIN=$(CURDIR)/.tools/bin go install helm.sh/helm/v3/cmd/helm@$(HELM_VERSION)
.tools/bin/csi-sanity:
	@command -v go >/dev/null || { echo "csi-sanity needs Go 1.25 or newer: https://go.dev/dl" >&2; exit 1; }
	GOBIN=$(CURDIR)/.tools/bin go install github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@$(CSI_SANITY_VERSION)
.tools/bin/pjdfstest:
	cargo install --quiet --locked --root .tools --target-dir target/tools pjdfstest@0.2.0
.tools/bin/fsx:
	cargo install --quiet --locked --root .tools --target-dir target/tools fsx@0.3.0

clean: ## removes what was built, results included
	rm -rf .venv .tools target build results *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
