# The commands of this repository. Build output goes to one directory outside the clone, which all clones share. The
# Python package for tests and the reports of tests go to `target` in the clone.

CENOTE_CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/cenote
export CENOTE_CACHE
export CARGO_TARGET_DIR ?= $(CENOTE_CACHE)/target
# Everything uses `dev`. `make bench-image PROFILE=release` measures what is distributed, after a much longer build.
export PROFILE ?= dev

.DEFAULT_GOAL := help
.PHONY: help setup build demo test test-python test-python-full fmt clean

help:            ## Show this list
	@sed -n 's/^\([a-z%-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | awk -F '|' '{ printf "%-22s %s\n", $$1, $$2 }'

setup:           ## Install the system packages and tools that are missing
	@scripts/setup

# The examples enable the same features of the dependencies as the tests do. Without them the tests would compile part of
# the dependencies a second time.
build: setup     ## Build the binary and the examples
	cargo build --locked --workspace --bins --examples

demo: build      ## Run the main job on real photographs, documents and a video, and show the answers
	"$(CARGO_TARGET_DIR)/debug/cenote" demo

test:            ## Check format, line widths and lints, run every test and the tours of README.md and docs
	@scripts/setup tests
	@scripts/test

test-python:     ## Test the Python package alone: documentation, types, tests
	@scripts/setup tests
	@scripts/test-python

test-python-full: ## Test it with real PyTorch too, in an environment of its own (8 GB the first time)
	@scripts/setup tests
	@scripts/test-python full

bench-%: setup   ## Compare with peers: benches/NAME/run.py $(ARGS), results in bench-results/NAME.json
	@test -f benches/$*/run.py || { echo "no benchmark is called $*; there are:" benches/*/ >&2; exit 2; }
	@python3 benches/$*/run.py $(ARGS)

fmt:             ## Format the Rust code
	cargo fmt --all

clean:           ## Remove the build output and benchmark results, but not downloads
	cargo clean
	rm -rf target bench-results
