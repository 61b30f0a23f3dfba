# The entry point. A fresh machine needs Rust (https://rustup.rs; rust-toolchain.toml picks the version) and a C
# compiler (Debian, Ubuntu: build-essential). Nothing else has to be set up by hand.

CARGO ?= cargo
# Extra flags for every cargo command that builds; CI passes --locked.
CARGOFLAGS ?=

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-dashboard test-clients screenshots lint bench parity-wgpu cross cross-smoke packages sbom containers boot-test power-cut-test test-packages

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## The whole loop in one process: broker, plant, three agents, hub; drift, retraining, a better model back
	$(CARGO) run $(CARGOFLAGS) --release -p demo

# Process tests start the built binaries, so those are built first.
test: ## Every test: unit, property, end to end with real brokers, disks and connections
	$(CARGO) build $(CARGOFLAGS) --workspace --bins
	$(CARGO) test $(CARGOFLAGS) --workspace --no-fail-fast

test-dashboard: ## The dashboard at a fleet of 50 boxes in a real browser; takes Node.js 20 and Chromium
	cd cloud-hub/dashboard && npm ci && npm run check && npm run build
	@git diff --exit-code --stat -- cloud-hub/dashboard/dist || \
		{ echo "cloud-hub/dashboard/dist is not what its sources make: commit what was just built"; exit 1; }
	$(CARGO) build $(CARGOFLAGS) --workspace --bins
	cd tests/browser && npm ci && export TARGET="$$($(CARGO) metadata --format-version 1 --no-deps | \
		node -p 'JSON.parse(fs.readFileSync(0)).target_directory')" && \
		DEMO="$$TARGET/debug/demo" LARGE_FLEET="$$TARGET/debug/large_fleet" npm test

test-clients: ## Programs of others at a running hub; takes Python 3 with venv, and what tests/clients/requirements.txt names
	$(CARGO) build $(CARGOFLAGS) --workspace --bins
	cd tests/clients && python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt && \
		DEMO="$$($(CARGO) metadata --format-version 1 --no-deps | \
		python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/debug/demo" \
		.venv/bin/python -m unittest -v test_clients test_sparkplug

test-home-assistant: ## What boxes say of themselves, before Home Assistant's own schemas; takes Python 3.12
	cd tests/clients && python3.12 -m venv .home-assistant && .home-assistant/bin/pip install -q --no-deps -r home-assistant.txt && \
		.home-assistant/bin/python -W ignore home_assistant.py

screenshots: ## Pictures of every page, light and dark, into target/screenshots; takes what test-dashboard takes
	$(CARGO) build $(CARGOFLAGS) --workspace --bins
	cd tests/browser && npm ci && export TARGET="$$($(CARGO) metadata --format-version 1 --no-deps | \
		node -p 'JSON.parse(fs.readFileSync(0)).target_directory')" && DEMO="$$TARGET/debug/demo" npm run screenshots "$$TARGET/screenshots"

lint: ## Formatting, clippy with warnings as errors, and licences and advisories if cargo-deny is installed
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(CARGOFLAGS) --workspace --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny check; \
	else \
		echo "skipped deny.toml: cargo-deny is not installed (cargo install --locked cargo-deny)"; \
	fi

bench: ## Throughput, latency, memory, writes; beside Python and Node-RED (takes mosquitto, python3, node; 20 min)
	$(CARGO) run $(CARGOFLAGS) --release -p tests --bin bench

parity-wgpu: ## The same answers on the GPU device; needs Vulkan (without a GPU: mesa-vulkan-drivers), builds 20 min
	$(CARGO) build $(CARGOFLAGS) --workspace --bins --features demo/wgpu
	@log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	XDG_RUNTIME_DIR=$${XDG_RUNTIME_DIR:-/tmp} \
		$(CARGO) test $(CARGOFLAGS) --workspace --features demo/wgpu parity 2>&1 | tee "$$log"; \
	grep -Eq '^test .*parity.* \.\.\. ok$$' "$$log" || { echo "no parity test ran"; exit 1; }

# Static programs for any Linux; TARGETS says fewer, or those for a GPU (x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu).
STATIC_TARGETS := x86_64-unknown-linux-musl aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf
GPU_TARGETS := x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu
TARGETS ?= $(STATIC_TARGETS) $(GPU_TARGETS)
SMOKE_TARGETS ?= aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf

cross: ## The agent for ARM and x86, static, and with GPU support: into target/cross; takes Python 3, and an hour or two
	@for target in $(TARGETS); do cross/build.sh $$target edge-agent; done

cross-smoke: ## The agents for ARM under qemu, with a real broker and hub: enrolled, answering, with a new model
	@for target in $(SMOKE_TARGETS); do cross/smoke.sh $$target; done

packages: ## .deb and .rpm of what cross/build.sh built: into target/packages
	@for target in $(TARGETS); do deploy/packages/build.sh $$target; done

sbom: ## What the programs are made of, as CycloneDX: into target/sbom
	@cross/sbom.sh $(TARGETS)

containers: ## Container images of the static programs, without a container engine: into target/containers
	@for target in $(or $(IMAGE_TARGETS),$(STATIC_TARGETS)); do deploy/containers/build.sh $$target; done

image: ## A whole system for boxes that do nothing else, read-only, with two slots: ARCH=arm64 or amd64; takes packages, and root
	@deploy/images/appliance.sh $(or $(ARCH),arm64) target/images/tideline-$(or $(ARCH),arm64).img

image-test: ## That system under qemu: asks, is let in, delivers, takes its next root file system, goes back from a broken one
	@for arch in $(or $(ARCHS),arm64 amd64); do deploy/images/appliance-test.sh $$arch; done

boot-test: ## Machines under qemu boot prepared images, install, enrol and answer; takes qemu-system, and packages for ARCHS
	@for arch in $(or $(ARCHS),arm64 amd64); do deploy/images/boot-test.sh $$arch; done

power-cut-test: ## A machine loses its power 50 times while it takes in readings and models; takes what boot-test takes
	@deploy/images/power-cut-test.sh $(or $(ARCHS),arm64) $(or $(CUTS),50)

test-packages: ## Packages in a clean Debian: installed, upgraded, removed, purged; takes root and mmdebstrap
	@for target in $(or $(PACKAGE_TARGETS),x86_64-unknown-linux-musl); do deploy/packages/test.sh $$target; done
