#!/usr/bin/env bash
# Builds k8s/Dockerfile's last stage from a binary that is here and runs the image as Kubernetes would:
# not as root, on a read-only root, without capabilities. The stage `build` needs a registry and is
# replaced by a folder; a binary that is not static brings its libraries along. Likewise the stage `module`, which runs
# as an init container, from the library beside the binary.
#
#     tests/kubernetes/image.sh [BINARY]     (target/debug/doorward)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

binary=${1:-target/debug/doorward}
dir=$(mktemp -d "${TMPDIR:-/tmp}/doorward-image.XXXXXX")
name=$(basename "$dir")
buildah=(buildah --storage-driver vfs --root "$dir/storage" --runroot "$dir/run")
runc=(runc --root "$dir/runc")

clean_up() {
  local status=$?
  trap - EXIT
  if [ "$status" != 0 ]; then cat "$dir/log" 2>/dev/null >&2 || true; fi
  "${runc[@]}" delete --force "$name" 2>/dev/null || true
  "${buildah[@]}" unmount --all >/dev/null 2>&1 || true
  rm -rf "$dir"
  exit "$status"
}
trap clean_up EXIT

fail() {
  echo "error: $*" >&2
  exit 1
}

# --- the image ------------------------------------------------------------------------

# The stage `build` copies everything that cargo requires, including the members of the workspace.
mkdir "$dir/source"
sed -n 's/^COPY \([^-].*\) [^ ]*$/\1/p' k8s/Dockerfile |
  xargs cp --recursive --parents --target-directory "$dir/source"
(cd "$dir/source" && cargo tree --locked --offline) >"$dir/log" 2>&1 || fail "k8s/Dockerfile copies too little"

mkdir -p "$dir/build/image/etc/ssl/certs"
strip -o "$dir/build/image/doorward" "$binary"
cp /etc/ssl/certs/ca-certificates.crt "$dir/build/image/etc/ssl/certs/"
for library in $(ldd "$binary" 2>/dev/null | grep -o '/[^ ]*' || true); do
  mkdir -p "$dir/build/image$(dirname "$library")"
  cp --dereference "$library" "$dir/build/image$library"
done
"${buildah[@]}" bud --isolation chroot --quiet --build-context build="$dir/build" \
  --file k8s/Dockerfile --tag doorward "$dir/build" >"$dir/log" 2>&1
size=$("${buildah[@]}" images --format '{{.Size}}' doorward)
container=$("${buildah[@]}" from --pull-never doorward)
root=$("${buildah[@]}" mount "$container")
[ "$(cd "$root" && find . -maxdepth 1 -type f)" = ./doorward ] || fail "more than doorward in the image: $(ls "$root")"

# --- a container, as the manifests describe it ----------------------------------------

mkdir -p "$dir/conf" "$dir/bundle"
chmod 755 "$dir"
"$binary" dev-token --user alice --dir "$dir/keys" >"$dir/token"
cp "$dir/keys/dev.jwks.json" "$dir/conf/jwks.json"
cat >"$dir/conf/doorward.yaml" <<'YAML'
listen: {check: "unix:/run/doorward/check.sock", http: "127.0.0.1:0"}
issuers:
  - {name: dev, issuer: https://dev.doorward.test, audiences: [demo], keys: {jwks_file: jwks.json}}
revocation: {store: embedded}
YAML
# `healthcheck` asks the port that the file names, so the file must name one: a port that was free just now.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
sed -i "s/127.0.0.1:0/127.0.0.1:$port/" "$dir/conf/doorward.yaml"

"${buildah[@]}" inspect --type image doorward >"$dir/image.json"
(cd "$dir/bundle" && runc spec)
python3 - "$dir" "$root" <<'PYTHON'
import json, sys

home, root = sys.argv[1:]
image = json.load(open(f"{home}/image.json"))["OCIv1"]["config"]
user, group = map(int, image["User"].split(":"))
assert user != 0 and group != 0, image["User"]
spec = json.load(open(f"{home}/bundle/config.json"))
spec["root"] = {"path": root, "readonly": True}
spec["process"].update({
    "terminal": False, "user": {"uid": user, "gid": group}, "noNewPrivileges": True, "capabilities": {},
    "args": image["Entrypoint"] + image["Cmd"], "env": image["Env"], "cwd": "/"})
spec["mounts"] += [
    {"destination": "/etc/doorward", "type": "bind", "source": f"{home}/conf", "options": ["bind", "ro"]},
    {"destination": "/run/doorward", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777", "size=1m"]}]
# The host's network, so that the test can ask it; and no cgroup, which not every machine lets us make.
spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] not in ("network", "cgroup")]
spec["mounts"] = [m for m in spec["mounts"] if m["type"] != "cgroup"]
json.dump(spec, open(f"{home}/bundle/config.json", "w"))
PYTHON
"${runc[@]}" run --detach --bundle "$dir/bundle" "$name" >"$dir/log" 2>&1 </dev/null

deadline=$((SECONDS + 30))
until "${runc[@]}" exec "$name" /doorward healthcheck >"$dir/health" 2>&1; do
  [ "$SECONDS" -lt "$deadline" ] || fail "not healthy: $(cat "$dir/health")"
  sleep 0.1
done

# --- what it may, and what it answers -------------------------------------------------

pid=$("${runc[@]}" state "$name" | python3 -c 'import json, sys; print(json.load(sys.stdin)["pid"])')
grep -qP '^Uid:\t65532\t65532\t65532\t65532$' "/proc/$pid/status" || fail "runs as $(grep Uid: "/proc/$pid/status")"
grep -q '^CapEff:.0*$' "/proc/$pid/status" || fail "has $(grep CapEff "/proc/$pid/status")"
grep -q '^NoNewPrivs:.1$' "/proc/$pid/status" || fail "may gain privileges"
if written=$("${runc[@]}" exec "$name" /doorward dev-token --user mallory --dir /keys 2>&1); then
  fail "its root can be written to"
fi
[[ $written == *"Read-only file system"* ]] || fail "writing failed for another reason: $written"

ask() { curl --silent --noproxy '*' --output /dev/null --write-out '%{http_code}' "$@" "http://127.0.0.1:$port/auth/orders"; }
[ "$(ask)" = 401 ] || fail "without a token: $(ask)"
[ "$(ask -H "authorization: Bearer $(cat "$dir/token")")" = 200 ] || fail "with a token: $(ask -H "authorization: Bearer $(cat "$dir/token")")"

"${runc[@]}" kill "$name" TERM
deadline=$((SECONDS + 30))
until [ "$("${runc[@]}" state "$name" | python3 -c 'import json, sys; print(json.load(sys.stdin)["status"])')" = stopped ]; do
  [ "$SECONDS" -lt "$deadline" ] || fail "does not stop when told to"
  sleep 0.1
done
grep -q '"message":"stopped"' "$dir/log" || fail "did not drain"
echo "image: $size from $(basename "$(dirname "$binary")")/$(basename "$binary"); starts, serves and stops as user 65532 on a read-only root"

# --- the image of the module, as an init container ------------------------------------

library=$(dirname "$binary")/deps/libdoorward_envoy.so
mkdir -p "$dir/build-module/module" "$dir/modules" "$dir/init"
cp "$library" "$dir/build-module/module/"
cp "$(command -v busybox)" "$dir/build-module/module/cp"
"${buildah[@]}" bud --isolation chroot --quiet --build-context build-module="$dir/build-module" --target module \
  --file k8s/Dockerfile --tag doorward-module "$dir/build-module" >"$dir/log" 2>&1
container=$("${buildah[@]}" from --pull-never doorward-module)
root=$("${buildah[@]}" mount "$container")
[ "$(cd "$root" && find . -maxdepth 1 -type f | sort | tr '\n' ' ')" = "./cp ./libdoorward_envoy.so " ] ||
  fail "more than the library and its cp in the image: $(ls "$root")"
chown 65532:65532 "$dir/modules"
python3 - "$dir" "$root" <<'PYTHON'
import json, sys

home, root = sys.argv[1:]
spec = json.load(open(f"{home}/bundle/config.json"))
spec["root"]["path"] = root
spec["process"]["args"] = ["/cp", "/libdoorward_envoy.so", "/modules/"]
spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] not in ("/etc/doorward", "/run/doorward")]
spec["mounts"].append({"destination": "/modules", "type": "bind", "source": f"{home}/modules", "options": ["bind", "rw"]})
json.dump(spec, open(f"{home}/init/config.json", "w"))
PYTHON
"${runc[@]}" run --bundle "$dir/init" "$name-init" >"$dir/log" 2>&1 </dev/null || fail "the init container failed"
cmp --quiet "$library" "$dir/modules/libdoorward_envoy.so" || fail "the init container does not copy the library"
echo "image of the module: its init container copies the library as user 65532 on a read-only root"
