# `make` alone says what there is. ARGS="..." is handed to the program that demo, test, test-brokers, test-cluster, bench and fuzz run.

export PATH := $(HOME)/.cargo/bin:$(PATH)
target := $(or $(CARGO_TARGET_DIR),target)
# What tests, lint and the chaos run are built with, so that all share one build. A build for use has no traces unless it asks.
features := --features otel
profile := release

.PHONY: help
help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: ## the whole trip on this machine, from a job to a mail that logs in
	@scripts/need
	cargo build --locked
	scripts/broker run "$(target)/debug/resetd" demo $(ARGS)

.PHONY: test
test: test-unit ## all tests, against a RabbitMQ of their own
	scripts/broker install --private
	scripts/browser
	scripts/samples install
	scripts/tools nextest
	cargo nextest run --locked --workspace $(features) -E 'kind(test)' $(ARGS)

.PHONY: test-unit
test-unit: ## what needs no broker and no browser, in seconds: for the inner loop
	@scripts/need
	cargo test --quiet --locked --workspace $(features) --lib --test docs --test layers

.PHONY: build-tests
build-tests: ## compile the tests and run none
	@scripts/need
	cargo test --locked --workspace $(features) --no-run

.PHONY: test-repeat
test-repeat: ## `make test` 20 times (N=20), every second time with a core loaded; goes on where it was interrupted
	@scripts/need
	scripts/repeat $(or $(N),20)

.PHONY: test-brokers
test-brokers: ## the integration and cluster tests on RabbitMQ 3.10, 4.0 and 4.3, each in a Debian of its own (needs root)
	@scripts/need
	scripts/brokers test $(ARGS)

.PHONY: test-cluster
test-cluster: ## three nodes on hosts of their own: they die, and their networks part (needs root on Linux, else it says SKIPPED)
	@scripts/need
	scripts/cluster install || [ $$? = 77 ]
	cargo test --locked --workspace $(features) --test cluster -- --test-threads 1 --nocapture $(ARGS)

.PHONY: test-upgrade
test-upgrade: ## this tree beside the release before it: what that left, a rolling upgrade, and back
	@scripts/need
	scripts/broker install --private
	scripts/upgrade

.PHONY: chaos
chaos: ## 2,000 jobs while everything breaks; CHAOS_SEED, CHAOS_JOBS, CHAOS_SECONDS, CHAOS_WORKERS; CHAOS_NODES=3: a cluster
	@scripts/need
	scripts/broker install --private
	cargo test --locked --workspace $(features) --test $(if $(filter 3,$(CHAOS_NODES)),cluster,it) \
		chaos:: -- --ignored --nocapture --test-threads 1

.PHONY: lint
lint: ## formatting, clippy, documentation, the alerts, and what the dependencies may be (ADVISORY_DB: a copy of RustSec's)
	@scripts/need
	cargo fmt --all --check
	cargo clippy --locked --workspace $(features) --all-targets -- -D warnings
	cargo clippy --locked --lib --bins -- -D warnings # what is built for use: without the features that tests turn on
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace $(features) --no-deps --document-private-items
	scripts/promtool check rules deploy/prometheus/alerts.yml
	scripts/deny

# Named together, so that nothing is built twice with other features.
measured := --package resetd --package bench
.PHONY: bench
bench: ## the figures: throughput beside the least loop, the quota, the start, sealing, mails
	@scripts/need
	scripts/broker install --private
	cargo build --locked --profile $(profile) $(measured) --bin resetd --test bench
	cargo test --locked --profile $(profile) $(measured) --test bench -- --ignored --nocapture --test-threads 1 $(ARGS)

# Linking for use takes minutes, and what both are built without tells as much of the ratio.
.PHONY: bench-floor
bench-floor: ## fails where the worker is slower than it was, beside the least loop: docs/performance.md
	@$(MAKE) --no-print-directory bench profile=bench-floor ARGS="--exact floor"

.PHONY: screenshot
screenshot: ## the README's picture of the page, docs/page.png, and all its states in target/page
	@scripts/need
	scripts/broker install --private
	scripts/browser
	cargo test --locked --workspace $(features) --test it pictures_of_the_page -- --ignored

.PHONY: fuzz
fuzz: ## the fuzz targets, 10,000,000 inputs each: some hours
	@scripts/need
	scripts/fuzz $(ARGS)

.PHONY: soak
soak: ## half an hour of jobs while the broker is restarted, then an hour without: memory, threads, tasks, channels, the takeover
	@scripts/need
	scripts/broker install --private
	cargo test --locked --workspace $(features) --release --test it soak -- --ignored --nocapture
	SOAK_RESTART=0 SOAK_MINUTES=60 cargo test --locked --workspace $(features) --release --test it soak -- --ignored --nocapture

.PHONY: release
release: ## what is released: the binary, its bill of materials, the digests of the base images, in target/dist
	@scripts/need
	scripts/release

.PHONY: clean
clean: ## remove what was built
	cargo clean
