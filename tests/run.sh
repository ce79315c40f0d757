#!/usr/bin/env bash
# Every check of the project, cheap ones first; ends at the first failure:
#
#     ./tests/run.sh
#
# Installs what is missing: Debian packages as root or by a sudo without a password; Envoy, kubectl, Python's redis
# client, two verifiers of tokens, schemathesis, openapi-spec-validator, an OpenID provider, clients with bound tokens,
# a library for status lists, playwright and cargo-deny into .tools/; rustfmt and clippy through rustup. Running it
# again installs nothing. The tests start their own Redis, PostgreSQL, nginx and Envoy, on separate ports.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

current=start
began=$SECONDS

section() {
  current=$1
  printf '\n=== %s (%ss)\n' "$current" "$((SECONDS - began))"
}

say_where() {
  if [ "$1" != 0 ]; then printf '\nFAILED in: %s\n' "$current" >&2; fi
}

fail() {
  echo "error: $*" >&2
  exit 1
}

trap 'say_where $?' EXIT

section "tools"

command -v cargo >/dev/null || fail "cargo is missing: install Rust 1.90 or newer (rustup does)"

packages=()
command -v cc >/dev/null || packages+=(gcc libc6-dev)
command -v curl >/dev/null || packages+=(curl)
command -v python3 >/dev/null || packages+=(python3)
python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
# Debian's packages may start servers of their own; the tests neither use nor touch them.
command -v redis-server >/dev/null || packages+=(redis-server)
# Steps the wall clocks of instances.
compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || packages+=(faketime)
# For separate machines: network namespaces.
command -v ip >/dev/null || [ -x /usr/sbin/ip ] || packages+=(iproute2)
command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || packages+=(nginx-light)
# For k8s/: the image is built and run, the alerts are fired, an API server stores.
command -v buildah >/dev/null || packages+=(buildah)
command -v runc >/dev/null || [ -x /usr/sbin/runc ] || packages+=(runc)
command -v busybox >/dev/null || packages+=(busybox-static)
command -v promtool >/dev/null || packages+=(prometheus)
command -v etcd >/dev/null || packages+=(etcd-server)
# For examples/four-services: the server's programs; its tests create their own clusters.
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || packages+=(postgresql)
if [ "${#packages[@]}" -gt 0 ]; then ./tests/apt-install.sh "${packages[@]}"; fi
# For the page of examples/four-services; without a browser its test is skipped with a message.
command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null ||
  ./tests/apt-install.sh chromium-headless-shell ||
  echo "skipped: the test of the page, for want of a Chromium"

cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt ||
  fail "rustfmt is missing and rustup cannot add it"
cargo clippy --version >/dev/null 2>&1 || rustup component add clippy ||
  fail "clippy is missing and rustup cannot add it"

# The newest Envoy, for the whole suite, and the oldest that the examples promise to run on.
ENVOY=$(./envoy/get-envoy.sh 1.40.0)
ENVOY_OLDEST=$(./envoy/get-envoy.sh 1.36.4)
# The oldest that the module is for.
ENVOY_MODULE_OLDEST=$(./envoy/get-envoy.sh 1.38.3)
export ENVOY ENVOY_OLDEST ENVOY_MODULE_OLDEST

# Another service's client, for the test of the data contract, and another verifier of tokens.
if ! .tools/python/bin/python -c 'import joserfc, redis' 2>/dev/null; then
  python3 -m venv .tools/python
  .tools/python/bin/python -m pip install --quiet --disable-pip-version-check joserfc==1.8.0 redis==8.1.0 ||
    echo "skipped: the tests with Python's redis client and joserfc, which could not be fetched"
fi

# A third verifier of tokens; without it (no npm, or no registry) the comparison is skipped with a
# message.
jose=$PWD/.tools/jose
[ -d "$jose/node_modules/jose" ] || { command -v npm >/dev/null &&
  npm install --prefix "$jose" --no-audit --no-fund --silent jose@6.2.17; } ||
  echo "skipped: the comparison with jose, which could not be fetched"

# The tool that drives the HTTP API from its own description.
if [ ! -x .tools/schemathesis/bin/st ]; then
  python3 -m venv .tools/schemathesis
  .tools/schemathesis/bin/pip install --quiet --disable-pip-version-check schemathesis==4.32.5 ||
    echo "skipped: schemathesis could not be fetched"
fi

# Node's redis client, for the test of clients/node.
[ -d .tools/node-redis/node_modules/redis ] || { command -v npm >/dev/null &&
  npm install --prefix .tools/node-redis --no-audit --no-fund --silent redis@5.12.1; } ||
  echo "skipped: the test with Node's redis client, which could not be fetched"

# Another judge of that description.
if [ ! -x .tools/openapi/bin/openapi-spec-validator ]; then
  python3 -m venv .tools/openapi
  .tools/openapi/bin/pip install --quiet --disable-pip-version-check openapi-spec-validator==0.9.0 ||
    echo "skipped: openapi-spec-validator could not be fetched"
fi

# A real OpenID provider; without it (no npm, or no registry) its tests are skipped with a message.
provider=$PWD/.tools/oidc-provider
if [ -d "$provider/node_modules/oidc-provider" ] || { command -v npm >/dev/null &&
  npm install --prefix "$provider" --no-audit --no-fund --silent oidc-provider@9.13.3; }; then
  export OIDC_PROVIDER=$provider
fi

# The official MCP client and server, for examples/mcp.
if [ -x .tools/mcp/bin/python ] || { python3 -m venv .tools/mcp &&
  .tools/mcp/bin/pip install --quiet --disable-pip-version-check mcp==2.3.0; }; then
  export MCP_PYTHON=$PWD/.tools/mcp/bin/python
else
  echo "skipped: the example with MCP's own client, which could not be fetched"
fi

# Clients that use bound tokens, written by others; without them their test is skipped with a
# message.
[ -d .tools/dpop/node_modules/oauth4webapi ] || { command -v npm >/dev/null &&
  npm install --prefix .tools/dpop --no-audit --no-fund --silent dpop@2.1.2 oauth4webapi@3.8.8; } ||
  echo "skipped: the test with npm's dpop and oauth4webapi, which could not be fetched"

# The makers and judges of status lists, written by others; without them their tests are skipped with a message.
[ -d .tools/status-list/node_modules/@sd-jwt/jwt-status-list ] || { command -v npm >/dev/null &&
  npm install --prefix .tools/status-list --no-audit --no-fund --silent @sd-jwt/jwt-status-list@0.19.0; } ||
  echo "skipped: the tests with npm's @sd-jwt/jwt-status-list, which could not be fetched"

# The driver of that Chromium.
playwright=$PWD/.tools/playwright
if [ -d "$playwright/node_modules/playwright-core" ] || { command -v npm >/dev/null &&
  npm install --prefix "$playwright" --no-audit --no-fund --silent playwright-core@1.65.1; }; then
  export PLAYWRIGHT=$playwright
fi

# kubectl, and the schemas that manifests are checked against.
KUBECTL=$(./tests/kubernetes/tools.sh)
export KUBECTL

rustc --version
redis-server --version
"$ENVOY" --version
"$ENVOY_OLDEST" --version

section "formatting"
cargo fmt --all --check

section "clippy"
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo clippy -p doorward -p four-services -p doorward-envoy --no-default-features --locked -- -D warnings

section "documentation of the code"
# Private items are documented as well, so links to them resolve; help texts of commands have plain addresses.
RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links -A rustdoc::bare_urls" \
  cargo doc --no-deps --locked --document-private-items -p doorward -p doorward-authz -p doorward-envoy

section "tests"
cargo build --locked -p four-services
# Most tests wait for other programs most of the time.
RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))} cargo test --locked -p doorward -p doorward-authz -p doorward-envoy -p doorward-model
cargo test --locked -p four-services

section "Kubernetes"
./tests/kubernetes.sh

section "package"
./tests/deb.sh

section "HTTP API, driven from its own description"
# The unit tests judge it by the schema of OpenAPI; this one resolves references and counts names as well.
if [ -x .tools/openapi/bin/openapi-spec-validator ]; then
  .tools/openapi/bin/openapi-spec-validator docs/openapi.json
fi
./tests/schemathesis.sh

section "workflows"
actionlint=.tools/actionlint
if [ ! -x "$actionlint" ] && command -v go >/dev/null; then
  GOBIN=$PWD/.tools go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.7 || true
fi
if [ -x "$actionlint" ]; then
  "$actionlint"
else
  echo "skipped: the workflows are not checked; actionlint needs Go and its module proxy"
fi

section "dependencies"
deny=.tools/cargo-deny/bin/cargo-deny
if [ ! -x "$deny" ]; then
  echo "building cargo-deny into .tools/ (once, some minutes)"
  cargo install cargo-deny --locked --quiet --root .tools/cargo-deny
fi
"$deny" --locked --workspace check --hide-inclusion-graph bans licenses sources
if timeout 120 "$deny" --locked fetch db >.tools/advisories.log 2>&1; then
  "$deny" --locked --workspace --offline check --hide-inclusion-graph advisories
else
  echo "skipped: known vulnerabilities; the advisory database could not be fetched:"
  tail -n 3 .tools/advisories.log
fi

current=end
printf '\nall checks passed in %s s\n' "$((SECONDS - began))"
