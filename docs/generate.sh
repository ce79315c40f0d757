#!/usr/bin/env bash
# Writes what is made from the code: doorward.schema.json, docs/configuration.md and the schema of the Helm chart's
# values from the settings, docs/openapi.json from the HTTP API. Run it after a change of either:
#
#     docs/generate.sh [BINARY]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ $# = 0 ]; then cargo build --locked --quiet; fi
binary=$(realpath "${1:-${CARGO_TARGET_DIR:-target}/debug/doorward}")
dir=$(mktemp -d "${TMPDIR:-/tmp}/doorward-docs.XXXXXX")
server=
clean_up() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
  rm -rf "$dir"
}
trap clean_up EXIT

"$binary" validate --schema >"$dir/schema.json"
cp "$dir/schema.json" doorward.schema.json
python=.tools/kubernetes/python/bin/python       # tests/kubernetes/tools.sh makes it
[ -x "$python" ] || python=python3
"$python" tests/kubernetes/chart.py --write
python3 docs/configuration.py --write

cat >"$dir/doorward.yaml" <<'YAML'
listen: {check: "127.0.0.1:0", http: "127.0.0.1:0"}
issuers: [{name: main, issuer: https://auth.example.com, audiences: [shop], keys: {jwks: {keys: []}}}]
revocation: {store: embedded}
YAML
"$binary" serve --config "$dir/doorward.yaml" 2>"$dir/log" &
server=$!
address() { sed -n 's/.*"listening".*"http":"\([^"]*\)".*/\1/p' "$dir/log"; }
until [ -n "$(address)" ]; do
  kill -0 "$server" || { cat "$dir/log" >&2; exit 1; }
  sleep 0.1
done
curl --fail --silent --show-error "http://$(address)/openapi.json" |
  python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin), indent=1, ensure_ascii=False))' >"$dir/openapi.json"
cp "$dir/openapi.json" docs/openapi.json
