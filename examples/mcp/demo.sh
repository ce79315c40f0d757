#!/usr/bin/env bash
# Shows an agent in front of an MCP server: it discovers the issuer, is authorized, lists tools, steps up for a transfer,
# and is stopped in the middle of a stream.
#
#     examples/mcp/demo.sh
#
# It fetches what it needs (Envoy, PyPI's mcp, npm's oidc-provider) into .tools, builds Doorward, and uses free ports.
# DOORWARD, ENVOY, OIDC_PROVIDER and MCP_PYTHON name what is there already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

for tool in python3 node npm; do
  command -v "$tool" >/dev/null || { echo "error: $tool is missing" >&2; exit 1; }
done
if [ -z "${DOORWARD:-}" ]; then
  cargo build --locked --quiet
  DOORWARD=${CARGO_TARGET_DIR:-target}/debug/doorward
fi
ENVOY=${ENVOY:-$(envoy/get-envoy.sh 1.40.0)}
OIDC_PROVIDER=${OIDC_PROVIDER:-.tools/oidc-provider}
if [ ! -d "$OIDC_PROVIDER/node_modules/oidc-provider" ]; then
  mkdir -p "$OIDC_PROVIDER"
  npm install --silent --prefix "$OIDC_PROVIDER" oidc-provider@9.13.3
fi
OIDC_PROVIDER=$(realpath "$OIDC_PROVIDER")
if [ -z "${MCP_PYTHON:-}" ]; then
  MCP_PYTHON=.tools/mcp/bin/python
  if ! "$MCP_PYTHON" -c 'import mcp' 2>/dev/null; then
    python3 -m venv .tools/mcp
    .tools/mcp/bin/pip install --quiet --disable-pip-version-check mcp==2.3.0
  fi
fi
export DOORWARD ENVOY OIDC_PROVIDER
exec "$MCP_PYTHON" examples/mcp/demo.py
