# The Rust target triple of this machine, and AddressSanitizer for the code and for the doc tests.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
ASAN = -Zsanitizer=address
# The files' own tests, with few cases of each property: miri is slow. Proptest asks for the current
# folder, and some properties compare what two computations of one number come to.
MIRI = MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-deterministic-floats" PROPTEST_CASES=2 \
	cargo +nightly miri test -p grpc_lb_core --locked --lib --target-dir target/miri
# What an example in Elixir builds the library's crates into: the folder that this project has.
SHARED = CARGO_TARGET_DIR=$(CURDIR)/_build/grpc_lb_native
# An example in Rust, with a workspace of its own.
SIMULATE = examples/simulate/Cargo.toml

.DEFAULT_GOAL := help
.PHONY: help setup demo test exunit attack loom asan miri lint instructions bench peers figures matrix integration package \
	clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what building and testing need and this machine lacks
	@scripts/setup

demo: setup ## Show the library over real sockets, while servers die, join and leave
	cd examples/demo && $(SHARED) mix demo

test: setup ## Run every test: Rust, loom models, ExUnit
	cargo test --workspace --locked
	cargo test --locked --manifest-path $(SIMULATE)
	$(MAKE) loom
	$(MAKE) exunit

exunit: ## Run the ExUnit suite, then its concurrency tests again on eight schedulers
	mix test --warnings-as-errors
	ERL_FLAGS="+S 8:8" mix test --only concurrency

attack: ## Attack everything for SECONDS (60) with random calls, from SEED (a random one)
	SECONDS=$(SECONDS) SEED=$(SEED) MIX_ENV=test mix run attack/run.exs

loom: ## Run the loom models of the core's lock-free parts
	RUSTFLAGS="--cfg loom --cfg crossbeam_loom" cargo test -p grpc_lb_core --release --locked --lib --target-dir target/loom

asan: ## Run the core's tests under AddressSanitizer (nightly Rust)
	@cargo +nightly --version >/dev/null 2>&1 || { \
		echo "make asan needs nightly Rust, please run: rustup toolchain install nightly" >&2; exit 1; }
	RUSTFLAGS="$(ASAN)" RUSTDOCFLAGS="$(ASAN)" \
		cargo +nightly test -p grpc_lb_core --locked --target $(HOST) --target-dir target/asan

miri: ## Run the pure parts of the core under miri, if nightly Rust has it
	@if cargo +nightly miri --version >/dev/null 2>&1; then $(MIRI); else echo "make miri: NOT RUN:" \
		"miri was not found, please run: rustup component add --toolchain nightly miri rust-src"; fi

lint: ## Check formatting, clippy, compiler warnings and dialyzer
	@scripts/setup lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo fmt --manifest-path $(SIMULATE) --check
	cargo clippy --manifest-path $(SIMULATE) --all-targets --locked -- -D warnings
	mix format --check-formatted
	mix compile --force --warnings-as-errors
	MIX_ENV=test mix compile --force --warnings-as-errors
	cd examples/demo && $(SHARED) mix do format --check-formatted + compile --force --warnings-as-errors
	scripts/dialyzer

instructions: ## Count the instructions of a pick, and compare them with those recorded
	@scripts/setup instructions
	scripts/instructions

bench: ## Run the benchmarks; CHECK=1 fails where a budget is missed
	@scripts/setup bench
	ELIXIR_ERL_OPTIONS="+stbt db" MIX_ENV=prod mix run bench/run.exs

peers: ## Measure the core beside other balancers in Rust; CHECK=1 fails where its budget is missed
	@scripts/setup peers
	mkdir -p bench/results
	cargo run --release --locked --manifest-path bench/peers/Cargo.toml --features picks --bin picks bench/results/peers.json

figures: ## Write what README and the guides show of the latest run
	MIX_ENV=prod mix run bench/figures.exs

matrix: ## Run the ExUnit suite on Debian 13, or on sid with MATRIX=sid
	@scripts/setup matrix
	scripts/matrix

integration: setup ## Run the suites that need packages, from Hex or INTEGRATION_DEPS=folder
	scripts/integration

package: setup ## Build the library and pack it for those who have no Rust
	scripts/package

clean: ## Remove what the other targets built
	rm -rf _build target package checksum-Elixir.GrpcLb.Native.exs bench/peers/target examples/*/_build examples/*/target
	rm -rf integration/*/_build integration/*/deps
