#!/usr/bin/env bash
# The manifests of k8s/: each overlay built by kubectl, checked against the schemas of Kubernetes
# 1.33 to 1.37 and of other projects; the Helm chart compared with the overlays; all of them
# applied to a real API server and deleted; the alerts fired by promtool; the image built and run.
# tests/kubernetes.rs runs the configurations in the manifests.
#
#     tests/kubernetes.sh [BINARY]     (for the image; target/debug/doorward)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

kubectl=$(tests/kubernetes/tools.sh)
tools=.tools/kubernetes
python=$tools/python/bin/python
out=$(mktemp -d "${TMPDIR:-/tmp}/doorward-k8s.XXXXXX")
trap 'rm -rf "$out"' EXIT
cat "$tools/skipped.txt"

fail() {
  echo "error: $*" >&2
  exit 1
}

# --- schemas --------------------------------------------------------------------------

helm=$tools/helm-4.3.1
"$python" tests/kubernetes/chart.py "$helm" "$kubectl" "${1:-${CARGO_TARGET_DIR:-target}/debug/doorward}" "$out"
for folder in overlays/{shop,gateway,gateway-module,node,injected,redis,demo} injection monitoring{,/dashboard}; do
  "$kubectl" kustomize "k8s/$folder" >"$out/$(basename "$folder").yaml"
done
# Resources that several overlays use are not deleted with any of them.
for overlay in shop gateway gateway-module node injected; do
  ! grep -q "kind: StatefulSet" "$out/$overlay.yaml" || fail "deleting overlays/$overlay would take the shared Redis"
done
k8s/redis/new-secret.sh >"$out/secret.yaml"
"$python" tests/kubernetes/schemas.py "$tools/crds" "$out"/*.yaml k8s/meshes/*.yaml

# The faults that they must find: a misspelled field, a pod that may be root, Doorward in the wrong
# place.
slip() {
  sed "$1" "$out/$2.yaml" >"$out/slip"
  ! cmp --quiet "$out/slip" "$out/$2.yaml" || fail "the slip $1 changes nothing"
  ! "$python" tests/kubernetes/schemas.py "$tools/crds" "$out/slip" >/dev/null 2>"$out/said" || fail "accepted: $1"
  grep -q "$3" "$out/said" || fail "$1 is refused for another reason: $(cat "$out/said")"
}
slip 's/readinessProbe:/readynessProbe:/' gateway "Kubernetes 1.33.0: .*readynessProbe"
slip 's/runAsNonRoot: true/runAsNonRoot: false/' shop "runAsNonRoot is False"
slip 's/restartPolicy: Always/restartPolicy: Never/' shop "no native sidecar"
if [ -d "$tools/crds" ]; then slip 's/podMetricsEndpoints:/podMetricEndpoints:/' monitoring podMetricEndpoints; fi

# --- an API server --------------------------------------------------------------------

if apiserver=$(compgen -G "$tools/kube-apiserver-*"); then
  if command -v etcd >/dev/null; then
    "$python" tests/kubernetes/cluster.py "$PWD/$apiserver" "$kubectl" "$PWD/$helm" "$tools/crds"
  else
    echo "skipped: the manifests on an API server: etcd is missing (Debian: etcd-server)"
  fi
fi

# --- alerts ---------------------------------------------------------------------------

"$python" -c '
import json, sys, yaml
print(json.dumps(yaml.safe_load(open("k8s/monitoring/rules.yaml"))["spec"]))' >"$out/rules.yaml"
cp tests/kubernetes/rules_test.yaml "$out/rules_test.yaml"
promtool check rules --lint-fatal "$out/rules.yaml" | tail -n +2
promtool test rules "$out/rules_test.yaml"

# --- the image ------------------------------------------------------------------------

if [ "$(id -u)" = 0 ]; then
  tests/kubernetes/image.sh "${1:-${CARGO_TARGET_DIR:-target}/debug/doorward}"
else
  echo "skipped: the image: building and running it needs root"
fi
