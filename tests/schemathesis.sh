#!/usr/bin/env bash
# Drives the HTTP API from its own OpenAPI document, bounded (a minute or two):
#
#     ./tests/schemathesis.sh
#
# Needs `st` of the Python package schemathesis, from $SCHEMATHESIS, .tools/ or the path; without
# it, it prints a message and succeeds. ./tests/run.sh installs it into .tools/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

st=${SCHEMATHESIS:-.tools/schemathesis/bin/st}
[ -x "$st" ] || st=$(command -v st) || {
  echo "SKIPPED: schemathesis is not installed"
  exit 0
}

cargo build --locked --quiet
doorward=target/debug/doorward
dir=$(mktemp -d)
pid=
cleanup() {
  if [ -n "$pid" ]; then kill "$pid" 2>/dev/null || true; fi
  rm -rf "$dir"
}
trap cleanup EXIT

key=schemathesis-key-0123456789
digest=$(printf %s "$key" | "$doorward" hash-key | cut -d' ' -f2)
"$doorward" dev-token --dir "$dir/keys" --user alice >/dev/null
cat >"$dir/doorward.yaml" <<YAML
listen: {check: "127.0.0.1:0", http: "127.0.0.1:0"}
issuers:
  - {name: dev, issuer: "https://dev.doorward.test", audiences: [demo], keys: {jwks_file: keys/dev.jwks.json}}
revocation: {store: embedded}
admin: {keys: [{name: schemathesis, sha256: $digest, may: [revoke, register, read]}]}
YAML
"$doorward" serve --config "$dir/doorward.yaml" 2>"$dir/log" &
pid=$!
address=
for _ in $(seq 100); do
  address=$(sed -n 's/.*"http":"\([0-9.:]*\)".*/\1/p' "$dir/log" | head -1)
  [ -z "$address" ] || break
  sleep 0.1
done

st=$(realpath "$st")
PYTHONPATH=$PWD/tests SCHEMATHESIS_HOOKS=schemathesis_hooks
export PYTHONPATH SCHEMATHESIS_HOOKS PYTHONDONTWRITEBYTECODE=1
cd "$dir" # schemathesis leaves files in its working directory.
# A request that is valid by the document may still be refused: fields depend on each other. The stream of events does
# not end.
"$st" run "http://$address/openapi.json" --header "Authorization: Bearer $key" \
  --exclude-path /v1/events --exclude-checks positive_data_acceptance --max-examples 50 --seed 7 --no-color
kill -0 "$pid" # The server is alive.
