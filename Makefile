# The commands of this project; `make help` lists them. Each installs what it needs (tools/setup) and does no work twice.
CACHE := $(or $(QUERN_CACHE),$(HOME)/.cache/quern)
# A compiler of LibTorch's headers takes about 1 GB, so memory may allow fewer of them than there are cores.
JOBS ?= $(shell awk -v n=$$(nproc) '/MemAvailable/ { j = int($$2 / 1.2e6); print j < 1 ? 1 : j < n ? j : n }' /proc/meminfo)

# Objects are cached outside the tree, under names that do not depend on the path of the tree.
export CCACHE_DIR ?= $(CACHE)/ccache
export CCACHE_BASEDIR ?= $(CURDIR)
export CCACHE_NOHASHDIR ?= true

# Code that reads untrusted bytes or does arithmetic on raw pointers is also tested under
# AddressSanitizer and UndefinedBehaviorSanitizer.
SANITIZED := base checkpoint prompt data http quant kernels engine runner serve
# What several threads share is tested under ThreadSanitizer too.
RACED := base http engine serve
# Seconds for each fuzz target: short for a person, long in continuous integration, where CI=true.
export FUZZ_SECONDS ?= $(if $(filter true,$(CI))$(filter fuzz,$(MAKECMDGOALS)),30,3)

.PHONY: help setup build demo test bench format tidy fuzz clean
help:
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup:            ## install what a build needs: Debian packages, LibTorch, a Rust toolchain, crates
	@tools/setup

build: setup build/build.ninja  ## build/quern
	cmake --build build -j $(JOBS) --target quern

demo: build       ## compress and verify the tiny Qwen3.6 checkpoint in tests/data, and ask it a question
	@tools/demo build/quern build/demo

test: setup build/build.ninja build-dev/build.ninja build-tsan/build.ninja  ## build all, run all tests, some also under sanitizers; fuzz
	cmake --build build -j $(JOBS)
	cmake --build build-dev -j $(JOBS) --target $(SANITIZED:%=%_tests) fuzz_targets
	cmake --build build-tsan -j $(JOBS) --target $(RACED:%=%_tests)
	@tools/setup_clients
	@tools/setup_readers
	@tools/setup clang-format-19 || true  # without it the test `format` is skipped
	@python3 tools/run_tests.py build build-dev='$(SANITIZED) fuzz' build-tsan='$(RACED)'

bench: setup build/build.ninja  ## build and run the benchmarks; each prints one JSON line per figure
	cmake --build build -j $(JOBS) --target benchmarks make_synthetic
	@bench/run build

format:           ## format all C++ and Rust sources
	@tools/setup clang-format-19
	git ls-files -z '*.h' '*.cc' | xargs -0 clang-format-19 -i
	cargo fmt --manifest-path rust/Cargo.toml

tidy:             ## run clang-tidy over src/
	@tools/setup clang-tidy-19
	cmake --preset tidy >/dev/null
	run-clang-tidy-19 -quiet -j $(JOBS) -p build-tidy '$(CURDIR)/src/.*'

fuzz: setup build-dev/build.ninja  ## fuzz every parser for FUZZ_SECONDS (30), from another random seed every time
	cmake --build build-dev -j $(JOBS) --target fuzz_targets
	@FUZZ_SEED=0 python3 tools/run_tests.py build-dev=fuzz

clean:            ## remove the build folders; keeps the cache outside the tree
	rm -rf build build-dev build-tsan build-tidy

build/build.ninja: CMakePresets.json | setup
	cmake --preset release >/dev/null && touch $@
build-dev/build.ninja: CMakePresets.json | setup
	cmake --preset dev >/dev/null && touch $@
build-tsan/build.ninja: CMakePresets.json | setup
	cmake --preset tsan >/dev/null && touch $@
