#!/usr/bin/env bash
# The module's own tests under two sanitizers; not a part of tests/run.sh, for the time that they take:
#
#     tests/module/sanitize.sh
#
#   Miri               the boundary to Envoy, with a host that overwrites and frees what it lent at each setter
#   AddressSanitizer   all of the module: decisions, requests that wait, streams that end, in the same host
#
# Needs rustup's nightly with `miri` and `rust-src`. Takes some 15 minutes on two cores, and 6 GB in target/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cargo +nightly miri --version >/dev/null 2>&1 || {
  echo "error: Miri is missing: rustup toolchain install nightly --component miri --component rust-src" >&2
  exit 1
}
# aws-lc-sys is C, which Miri does not run: only tests that ask for no cryptography.
MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test --target-dir target/miri -p doorward-envoy --lib -- \
  abi:: plan:: request::

RUSTFLAGS=-Zsanitizer=address cargo +nightly test --target-dir target/asan --target "$(rustc -vV | sed -n 's/^host: //p')" \
  -p doorward-envoy --lib
