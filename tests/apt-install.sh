#!/usr/bin/env bash
# Installs Debian packages, as root or with a sudo without a password:
#
#     tests/apt-install.sh PACKAGE...
#
# On other systems the script lists the missing packages and fails. The script writes to standard error only.
set -euo pipefail
exec >&2

if ! command -v apt-get >/dev/null; then
  echo "error: this system has no apt-get; please install what Debian calls: $*"
  exit 1
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
    echo "error: installing needs root; please run: sudo apt-get install $*"
    exit 1
  fi
  as_root=(sudo -n)
fi

echo "installing with apt-get: $*"
"${as_root[@]}" apt-get -qq update </dev/null ||
  echo "warning: apt-get update failed; going on with the package lists that are here"
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get -qq install --yes --no-install-recommends "$@" </dev/null
