# `make` alone says what there is. ARGS="..." is handed to the program that demo, test and test-brokers run.

export PATH := $(HOME)/.cargo/bin:$(PATH)
target := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help
help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: ## the whole trip on this machine, from a job to a mail that logs in
	@scripts/need
	cargo build --locked
	scripts/broker run "$(target)/debug/resetd" demo $(ARGS)

.PHONY: test
test: ## all tests, against a RabbitMQ of their own
	@scripts/need
	scripts/broker install --private
	scripts/browser
	scripts/samples install
	cargo test --locked $(ARGS)

.PHONY: test-brokers
test-brokers: ## the integration tests on RabbitMQ 3.10, 4.0 and 4.3, each in a Debian of its own (needs root)
	@scripts/need
	scripts/brokers test $(ARGS)

.PHONY: chaos
chaos: ## 2,000 jobs while everything breaks; CHAOS_SEED, CHAOS_JOBS, CHAOS_SECONDS and CHAOS_WORKERS say how
	@scripts/need
	scripts/broker install --private
	cargo test --locked --test it chaos:: -- --ignored --nocapture

.PHONY: lint
lint: ## formatting, clippy, documentation, the alerts, and the dependencies where cargo-deny is installed
	@scripts/need
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked -- -D warnings # what is built for use: without the features that tests turn on
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	scripts/promtool check rules deploy/prometheus/alerts.yml
	@if command -v cargo-deny >/dev/null; then cargo deny --locked check; \
	else echo "dependencies not checked: cargo-deny is not installed (cargo install --locked cargo-deny)"; fi

.PHONY: measure
measure: ## the figures: throughput beside the least loop, the quota, the start, sealing
	@scripts/need
	scripts/broker install --private
	cargo build --locked --release --examples
	cargo test --locked --release --test measure -- --ignored --nocapture

.PHONY: screenshot
screenshot: ## the README's picture of the page, docs/page.png, and all its states in target/page
	@scripts/need
	scripts/broker install --private
	scripts/browser
	cargo test --locked --test it pictures_of_the_page -- --ignored

.PHONY: soak
soak: ## half an hour of jobs while the broker is restarted, then an hour without: memory, threads, tasks, channels, the takeover
	@scripts/need
	scripts/broker install --private
	cargo test --locked --release --test it soak -- --ignored --nocapture
	SOAK_RESTART=0 SOAK_MINUTES=60 cargo test --locked --release --test it soak -- --ignored --nocapture

.PHONY: clean
clean: ## remove what was built
	cargo clean
