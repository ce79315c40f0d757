#!/usr/bin/env bash
# The .deb: built by cargo-deb from a binary that is here, its unit checked by systemd, installed on a copy of this
# machine that is thrown away, started as its unit starts it, signed out by, and removed:
#
#     tests/deb.sh [BINARY]     (target/debug/doorward)
#
# Without root, overlay mounts or cargo-deb it lists the skipped parts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

binary=$(realpath "${1:-${CARGO_TARGET_DIR:-target}/debug/doorward}")
dir=$(mktemp -d "${TMPDIR:-/tmp}/doorward-deb.XXXXXX")
trap 'rm -rf "$dir"' EXIT

fail() {
  echo "error: $*" >&2
  exit 1
}

deb=.tools/cargo-deb/bin/cargo-deb
if [ ! -x "$deb" ]; then
  echo "building cargo-deb into .tools/ (once, some minutes)"
  cargo install cargo-deb --locked --quiet --root .tools/cargo-deb || {
    echo "skipped: the package; cargo-deb could not be built"
    exit 0
  }
fi

# cargo-deb takes the binary from the folder of the release build: a folder of ours, with this binary in it.
mkdir -p "$dir/target/release"
strip -o "$dir/target/release/doorward" "$binary"
packaging/generate.sh "$dir/target/release"
CARGO_TARGET_DIR=$dir/target "$deb" --no-build --no-strip --fast --quiet --output "$dir/doorward.deb" >/dev/null

# --- what is in it --------------------------------------------------------------------

dpkg-deb --contents "$dir/doorward.deb" | awk '{print $1, $2, $6}' >"$dir/contents"
for entry in "-rwxr-xr-x 0/0 ./usr/bin/doorward" "-rw-r----- 0/0 ./etc/doorward/doorward.yaml" \
  "-rw-r--r-- 0/0 ./usr/share/doorward/doorward.schema.json" "-rw-r--r-- 0/0 ./usr/lib/systemd/system/doorward.service" \
  "-rw-r--r-- 0/0 ./usr/share/man/man1/doorward.1" "-rw-r--r-- 0/0 ./usr/share/man/man1/doorward-list.1" \
  "-rw-r--r-- 0/0 ./usr/share/bash-completion/completions/doorward" \
  "-rw-r--r-- 0/0 ./usr/share/zsh/vendor-completions/_doorward"; do
  grep -qF -- "$entry" "$dir/contents" || fail "the package lacks $entry: $(cat "$dir/contents")"
done
dpkg-deb --info "$dir/doorward.deb" conffiles | grep -qx /etc/doorward/doorward.yaml || fail "doorward.yaml is no conffile"

if command -v systemd-analyze >/dev/null; then
  mkdir "$dir/tree"
  dpkg-deb --extract "$dir/doorward.deb" "$dir/tree"
  install -D -m 755 /bin/true "$dir/tree/bin/kill"       # The unit's ExecReload uses the system's.
  unit=$(cd "$dir/tree" && find . -name doorward.service)
  # System units that this tree lacks are not checked.
  systemd-analyze verify --man=no --recursive-errors=no --root="$dir/tree" "${unit#.}" 2>"$dir/verify" ||
    fail "systemd: $(cat "$dir/verify")"
  ! grep -i "unknown\|doorward.service:[0-9]" "$dir/verify" || fail "systemd does not understand a line of the unit"
  sed 's/^NoNewPrivileges=yes/NoNewPriviliges=yes/' -i "$dir/tree/$unit"
  systemd-analyze verify --man=no --recursive-errors=no --root="$dir/tree" "${unit#.}" 2>"$dir/verify" || true
  grep -qi "unknown" "$dir/verify" || fail "a slip in the unit is not seen: $(cat "$dir/verify")"
else
  echo "skipped: the unit; systemd-analyze is not here"
fi

# --- installed, started, removed ------------------------------------------------------

cat >"$dir/inside.sh" <<'INSIDE'
set -euo pipefail
cd "$1"
mount -t tmpfs tmpfs overlay
mkdir overlay/up overlay/work overlay/merged
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/overlay/up,workdir=$1/overlay/work" overlay/merged
mount --rbind /proc overlay/merged/proc
mount --rbind /dev overlay/merged/dev
mount -t tmpfs tmpfs overlay/merged/run
mkdir -p overlay/merged/test
cp doorward.deb overlay/merged/test/
cp overlay.sh overlay/merged/test/
chroot overlay/merged /bin/bash /test/overlay.sh
INSIDE
cat >"$dir/overlay.sh" <<'OVERLAY'
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
cd /test
if dpkg -s doorward >/dev/null 2>&1; then dpkg --purge doorward >/dev/null; fi
dpkg --install doorward.deb >log 2>&1 || { cat log >&2; exit 1; }
[ "$(stat -c '%U:%G %a' /etc/doorward/doorward.yaml)" = "root:doorward 640" ]
[ "$(stat -c '%U:%G %a' /etc/doorward)" = "root:doorward 750" ]
doorward --version

# The first step of the configuration file.
check=$(sed -n 's/^#     \(doorward validate .*\) && systemctl .*/\1/p' /etc/doorward/doorward.yaml)
[ -n "$check" ]
$check

# The directories that systemd creates before it starts the service.
install -d -o doorward -g doorward -m 0750 /run/doorward
as_doorward=(setpriv --reuid doorward --regid doorward --init-groups)

# A token of the development issuer; the issuer's keys replace those of the sample.
doorward dev-token --user alice --dir keys >token
install -o root -g doorward -m 0640 keys/dev.jwks.json /etc/doorward/dev.jwks.json
sed -i 's|issuer: https://auth.example.com|issuer: https://dev.doorward.test|; s|audiences: \[shop\]|audiences: [demo]|
  s|{jwks_url: .*}|{jwks_file: dev.jwks.json}|; s|http: 127.0.0.1:9192|http: 127.0.0.1:'"$PORT"'|' /etc/doorward/doorward.yaml
start=$(sed -n 's/^ExecStart=//p' /usr/lib/systemd/system/doorward.service)
"${as_doorward[@]}" $start 2>log &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
for _ in $(seq 300); do
  curl --fail --silent --output /dev/null "http://127.0.0.1:$PORT/readyz" && break
  kill -0 $server || { cat log >&2; exit 1; }
  sleep 0.1
done
status() { curl --silent --output /dev/null --write-out '%{http_code}' -H "authorization: Bearer $(cat token)" "$@"; }
[ "$(stat -c '%U:%G %a' /run/doorward/check.sock)" = "doorward:doorward 660" ]
[ "$(status "http://127.0.0.1:$PORT/auth/orders")" = 200 ]
[ "$(status --request POST "http://127.0.0.1:$PORT/logout")" = 204 ]
[ "$(status "http://127.0.0.1:$PORT/auth/orders")" = 401 ]
kill $server
wait $server || { echo "error: exit code $?: $(cat log)" >&2; exit 1; }
[ -s /var/lib/doorward/revocations.redb ]

dpkg --remove doorward >log 2>&1
[ -e /etc/doorward/doorward.yaml ] && [ -e /var/lib/doorward ]
dpkg --purge doorward >log 2>&1
[ ! -e /etc/doorward/doorward.yaml ] && [ ! -e /var/lib/doorward ]
echo "the package: installed, started, signed out by, removed"
OVERLAY

mkdir "$dir/overlay"
PORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PORT
if [ "$(id -u)" != 0 ]; then
  echo "skipped: installing the package; it needs root"
elif ! unshare --mount --propagation private sh -c "mount -t tmpfs tmpfs '$dir/overlay' && mkdir '$dir/overlay/a' '$dir/overlay/b' '$dir/overlay/c' &&
    mount -t overlay overlay -o 'lowerdir=/,upperdir=$dir/overlay/a,workdir=$dir/overlay/b' '$dir/overlay/c'" 2>/dev/null; then
  echo "skipped: installing the package; this machine mounts no overlay"
else
  unshare --mount --propagation private bash "$dir/inside.sh" "$dir"
fi
