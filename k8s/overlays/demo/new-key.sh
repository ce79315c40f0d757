#!/usr/bin/env bash
# Prints a Secret with a new key by which Accounts revokes, and its digest for Doorward:
#
#     k8s/overlays/demo/new-key.sh | kubectl -n doorward-demo create -f -
set -euo pipefail

key=$(head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n')
cat <<YAML
apiVersion: v1
kind: Secret
metadata:
  name: accounts
stringData:
  key: "$key"
  sha256: "$(printf %s "$key" | sha256sum | cut -d ' ' -f 1)"
YAML
