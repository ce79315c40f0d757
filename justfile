# Commands in common use; `just` lists them.

default:
    @just --list

# Every check of the project
check-all:
    ./tests/run.sh

# Compile everything
check:
    cargo check --workspace --all-targets --locked

# Formatting and lints
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    cargo clippy -p doorward -p four-services -p doorward-envoy --no-default-features --locked -- -D warnings

# Unit tests, or those whose name has FILTER in it
unit filter="":
    cargo test --locked --lib -- {{filter}}

# Integration tests of one module
test module:
    cargo test --locked --test main -- {{module}}::

# The demo, behind one gateway
demo *args:
    ./envoy/demo.sh {{args}}

# Measure a decision
bench:
    cargo bench --bench decision

# The image
image tag="doorward:dev":
    docker build -f k8s/Dockerfile -t {{tag}} .

# The JSON Schema of the configuration
schema:
    cargo run --locked --quiet -- validate --schema
