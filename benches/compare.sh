#!/usr/bin/env bash
# Measures the CPU time of a decision per request, beside servers that do less or other things:
#
#     ./benches/compare.sh [--quick] [--json]
#         [--only direct|envoy|module|rate|users|peers|settings|profile|start]
#
# Builds Doorward and the servers of benches/compare/ with the release profile, starts them one
# after the other and loads them with h2load: straight, over Unix sockets, with a CheckRequest
# captured from Envoy; and through Envoy, against its own jwt_authn. Each figure is the median of
# interleaved rounds; compare ratios of one run, not figures of two. Installs h2load and
# redis-server, for `--only profile` perf, if they are missing (Debian); `--only peers` builds a
# Spring Cloud Gateway if Maven is there. Prints a table and writes
# benches/compare.svg; with --json also target/compare.json. About 25 minutes with the build, 8
# with --quick. Nothing else should run meanwhile.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=()
command -v h2load >/dev/null || packages+=(nghttp2-client)
command -v redis-server >/dev/null || packages+=(redis-server)
command -v python3 >/dev/null || packages+=(python3)
[[ " $* " != *" profile "* ]] || command -v perf >/dev/null || packages+=(linux-perf)
if [ "${#packages[@]}" -gt 0 ]; then ./tests/apt-install.sh "${packages[@]}"; fi

ENVOY=${ENVOY:-$(./envoy/get-envoy.sh 1.40.0)}
export ENVOY
cargo build --release --locked --bin doorward --example compare-noop --example compare-h2 --example compare-tools
exec python3 benches/compare/compare.py "$@"
