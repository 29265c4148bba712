# `make check` runs as any user. The other tests install packages, mount file systems and start NFS servers (in namespaces
# of their own): as root. Needed beforehand: make, Python >= 3.11, rustup, and Go >= 1.25 for `tools`, `sanity` and `test`.
PYTHON  := .venv/bin/python
SUITE   := $(PYTHON) -m tests.support.suite
RUST_SOURCES := Cargo.toml Cargo.lock rust-toolchain.toml $(shell find efc proto -type f -not -path '*/target/*')
SOURCES := $(RUST_SOURCES) pyproject.toml setup.py requirements/run.txt requirements/build.txt \
           $(shell find csi -type f -not -name '*.pyc')
CARGO_DENY_VERSION := 0.20.2
CSI_SANITY_VERSION := v5.6.0
HELM_VERSION := v3.21.4
# Of the tests in tests/faults: makes a daemon's saved state know a million files.
FILL_STATE := target/release/examples/fill_state
# The pinned Rust, where it cannot be downloaded but is there under another name.
TOOLCHAIN := $(shell tests/support/toolchain)
ifneq ($(TOOLCHAIN),)
export RUSTUP_TOOLCHAIN ?= $(TOOLCHAIN)
endif

.PHONY: help setup quickstart check test bench lock advisories proto clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z -]*\):.*## /\1: /p' $(MAKEFILE_LIST)

setup: .venv/installed ## installs EFC into .venv (.venv/bin/efc); as root also system packages that are missing
.venv/installed: .venv/packages .venv/programs
	@touch $@
# Python runs csi/ as it lies here: a change in it needs nothing.
.venv/packages: pyproject.toml setup.py Cargo.toml requirements/dev.txt tests/support/setup
	@tests/support/setup packages
	@touch $@
.venv/programs: $(RUST_SOURCES) tests/support/setup | .venv/packages
	@tests/support/setup programs
	@touch $@

quickstart: setup ## the whole story in one command; SOURCE=nfs://HOST/DIR uses a NAS of yours
	@tests/support/sandbox $(PYTHON) -m examples.quickstart

check: setup .tools/bin/cargo-deny ## after every change: lint, unit and Rust tests that need no root
	@$(SUITE) lint unit rust
test: setup .tools/bin/cargo-deny .tools/bin/csi-sanity .tools/bin/pjdfstest .tools/bin/fsx .tools/bin/helm .tools/bin/promtool $(FILL_STATE) ## check, and all below but bench; sanity, faults and the cluster in their short forms
	@$(SUITE) lint unit rust rust-root tools errors csi + cluster-short posix faults + sanity consistency integrity

# The parts of `make test`, each with its own line of figures and results/NAME.json.
unit rust rust-root csi errors consistency integrity: setup ## parts of test
	@$(SUITE) $@
lint: setup .tools/bin/cargo-deny ## ruff, mypy, import-linter, rustfmt, clippy; licences and origins of the crates
	@$(SUITE) $@
tools: setup .tools/bin/helm .tools/bin/promtool ## the suite itself, and the chart
	@$(SUITE) $@
sanity: setup .tools/bin/csi-sanity ## CSI conformance, 20 seeds, nothing left out by a skip list
	@SANITY_SEEDS=20 $(SUITE) $@
posix: setup .tools/bin/pjdfstest .tools/bin/fsx ## pjdfstest and fsx on a real mount
	@$(SUITE) $@
faults: setup $(FILL_STATE) ## everything is killed again and again under verified work: daemons 500 times, the rest 100; an hour and more
	@FAULTS_KILLS=$(or $(KILLS),100) $(SUITE) $@
.PHONY: lint unit rust rust-root tools csi errors integrity sanity posix consistency faults

# --- longer, or seldom -----------------------------------------------------------------------------------------------
model: setup ## random stories of the file system between a kernel and a NAS that are played; RUNS=1000 of each kind; a short form is in check
	EFC_MODEL_RUNS=$(or $(RUNS),1000) cargo test --locked --package efcd --bin efcd -- model_of --nocapture
schedules: setup ## the same on one file, in a schedule explorer; SCHEDULES=5000 of each kind; a short form is in check
	EFC_SCHEDULES=$(or $(SCHEDULES),5000) cargo test --locked --package efcd --features shuttle --bin efcd -- schedules_of
coverage: setup ## lines of the daemon's file system that tests without root run; needs rustup's component llvm-tools
	@tests/support/coverage
.PHONY: model schedules coverage

# --- what is no part of `make test` ----------------------------------------------------------------------------------
# A folder of a release's or another checkout's programs in AGAINST takes part in each row: that build is compared with this one.
BENCH = tests/support/sandbox $(PYTHON) -m bench $(if $(ROUNDS),--rounds $(ROUNDS)) --only '$(ONLY)' \
        $(addprefix --variant=,$(VARIANTS)) $(if $(NEAR),--near) \
        $(if $(DATA_MIB),--data-mib $(DATA_MIB)) $(if $(SMALL_FILES),--small-files $(SMALL_FILES))
BENCH_ROWS := reads writes names programs reopening memory
bench: setup ## side by side: ext4, the kernel's and the bare NFS client, the mount; PARTS="writes names" ONLY=append ROUNDS=5 AGAINST=bin-dir; report under results/
	@$(if $(filter training,$(or $(PARTS),$(if $(ONLY),,training))),bench/training/setup $(if $(DLIO),dlio))
	@$(BENCH) $(if $(AGAINST),--against '$(AGAINST)') $(or $(PARTS),$(if $(ONLY),$(BENCH_ROWS)))
bench-baseline: ROUNDS ?= 7
bench-baseline: setup ## on a quiet machine: writes what make bench compares its rows with, bench/baseline.json; PARTS ONLY ROUNDS as there
	@$(BENCH) --write-baseline $(or $(PARTS),$(BENCH_ROWS))
bench-picture: setup ## docs/benchmarks.svg, of what the last make bench has measured
	@$(PYTHON) -m bench.picture rate docs/benchmarks.svg
training-picture: setup ## docs/training.svg, likewise
	@$(PYTHON) -m bench.picture training docs/training.svg
.PHONY: bench-baseline bench-picture training-picture

kernels: setup ## on Linux 6.1 and 6.12 in an emulated machine: calls beside the kernel's own NFS client, kills, mappings, efc doctor; ONLY=calls
	@PYTEST_ADDOPTS='$(if $(ONLY),-k "$(ONLY)")' $(SUITE) $@
kernels-short: setup ## a part of it, on 6.1 alone, in minutes
	@$(SUITE) $@
.PHONY: kernels kernels-short

foreign: setup ## programs of others on ext4, on the mount, and while its daemon is killed each second; ONLY=sqlite (fio, git, ...)
	@tests/foreign/setup
	@PYTEST_ADDOPTS='$(if $(ONLY),-k "$(ONLY)")' $(SUITE) $@
.PHONY: foreign

# What 0.1.0 was made of.
FORMER := 0.1.0 0a15fd1857d1e25f390c5deaff5fb8e88a26c58b
releases: setup ## the former release, built from the git history, and this one take sessions over from each other, under verified work; no part of test
	@$(if $(EFC_FORMER_BIN_DIR),,tests/releases/build $(FORMER))
	@$(SUITE) $@
.PHONY: releases

# --- a real Kubernetes cluster in namespaces of this machine --------------------------------------------------------
CLUSTER := .tools/cluster

cluster: setup $(CLUSTER)/ready .tools/bin/helm ## installs the driver on a real cluster of three nodes and tests it there (the first time takes 10 minutes)
	@! git cat-file -e '$(word 2,$(FORMER))^{commit}' 2>/dev/null || tests/releases/image $(FORMER)
	@$(SUITE) cluster
cluster-short: setup ## the same in four minutes, if Kubernetes can be built in ten; otherwise SKIPPED
	@$(SUITE) $@
operator: setup $(CLUSTER)/ready ## the operator as a process against a real API server, with one node
	@$(SUITE) $@
scale: setup $(CLUSTER)/ready ## 1,000 Datasets on a real API server, nodes and pods are played; DATASETS=1000 PER_SECOND=20; no part of test
	@SCALE_DATASETS=$(DATASETS) SCALE_PER_SECOND=$(PER_SECOND) $(SUITE) $@
cluster-up: setup $(CLUSTER)/ready ## boots such a cluster and leaves it running: tests/cluster/kubectl, tests/cluster/on-node; NODES=0 to 9
	@PYTHON=$(PYTHON) tests/cluster/up $(or $(NODES),2)
cluster-down: ## ends it
	@tests/cluster/down
.PHONY: cluster cluster-short operator scale cluster-up cluster-down

$(CLUSTER)/ready: $(CLUSTER)/bin/kubelet $(CLUSTER)/images/busybox.tar $(CLUSTER)/images/efc-csi.tar $(CLUSTER)/images/nginx.tar
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
# The root directory is the one that the driver's image is built on.
$(CLUSTER)/images/nginx.tar: tests/cluster/images.py | $(CLUSTER)/images/efc-csi.tar
	@$(PYTHON) -m tests.cluster.images .tools/image/bookworm-memcached.tar $(@D)

lock: ## makes requirements/*.txt from pyproject.toml; ARGS=--upgrade takes newer releases
	@requirements/renew $(ARGS)
advisories: setup .tools/bin/cargo-deny ## asks which crates and Python packages have known vulnerabilities; needs the internet
	@$(PYTHON) -m tests.support.advisories
proto: setup ## generates csi/_proto from proto/
	@$(PYTHON) csi/_proto/generate.py

manifests: setup .tools/bin/helm ## makes deploy/crds.yaml from the models in csi/api, and deploy/efc-csi.yaml from deploy/chart
	@$(PYTHON) -m csi.api.crds > deploy/.crds.yaml && mv deploy/.crds.yaml deploy/crds.yaml && cp deploy/crds.yaml deploy/chart
	@deploy/render > deploy/.efc-csi.yaml && mv deploy/.efc-csi.yaml deploy/efc-csi.yaml
.PHONY: manifests

$(FILL_STATE): $(RUST_SOURCES)
	cargo build --quiet --release --locked --package efc-state --example fill_state

.tools/bin/helm:
	GOBIN=$(CURDIR)/.tools/bin go install helm.sh/helm/v3/cmd/helm@$(HELM_VERSION)
# Of Debian's package alone, which would start a server if it was installed.
DOWNLOAD := apt-get download -qq -o APT::Sandbox::User=root prometheus
.tools/bin/promtool:
	@command -v apt-get >/dev/null || { echo "promtool of Prometheus 2.42 or newer is needed: put it into .tools/bin" >&2; exit 1; }
	@mkdir -p .tools/bin && folder=$$(mktemp -d) && trap 'rm -r "$$folder"' EXIT && cd "$$folder" && \
	{ $(DOWNLOAD) 2>/dev/null || { apt-get update -qq && $(DOWNLOAD); }; } && \
	dpkg-deb --fsys-tarfile prometheus_*.deb | tar --extract --to-stdout ./usr/bin/promtool > promtool && \
	install promtool $(CURDIR)/.tools/bin/promtool
.tools/bin/csi-sanity:
	@command -v go >/dev/null || { echo "csi-sanity needs Go 1.25 or newer: https://go.dev/dl" >&2; exit 1; }
	GOBIN=$(CURDIR)/.tools/bin go install github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity@$(CSI_SANITY_VERSION)
.tools/bin/cargo-deny:
	@echo "== building cargo-deny (once; it takes minutes)"
	@CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --root .tools --target-dir target/tools cargo-deny@$(CARGO_DENY_VERSION)
.tools/bin/pjdfstest:
	@echo "== building pjdfstest (once; it takes minutes)"
	@cargo install --quiet --locked --root .tools --target-dir target/tools pjdfstest@0.2.0
.tools/bin/fsx:
	@echo "== building fsx (once; it takes minutes)"
	@cargo install --quiet --locked --root .tools --target-dir target/tools fsx@0.3.0

clean: ## removes what was built, results included
	rm -rf .venv .tools target build results *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
