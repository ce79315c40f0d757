#!/usr/bin/env bash
# Doorward behind a real Envoy, in one command. See --help.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: envoy/demo.sh [--once]

Builds Doorward, fetches Envoy, starts both in front of a small upstream, and shows
with real requests how a token works until its user signs out. It then stays up for
your own requests until Ctrl-C; with --once it ends, with status 0 if every answer was
the expected one.

Needs Rust (cargo), a C compiler, Python 3 and curl. It listens on 127.0.0.1 only, keeps
its keys and tokens in a temporary folder, and stops everything it started.

  DOORWARD=FILE   uses this doorward binary and builds none
  ENVOY=FILE      uses this envoy binary and fetches none
TEXT
}

once=
case "${1:-}" in
  "") ;;
  --once) once=yes ;;
  -h | --help) usage && exit ;;
  *) usage >&2 && exit 2 ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export no_proxy="127.0.0.1${no_proxy:+,$no_proxy}"

fail() {
  echo "error: $*" >&2
  exit 1
}

need() {
  command -v "$1" >/dev/null || fail "$1 is missing: $2"
}

# --- the two binaries -----------------------------------------------------------------

need curl "it sends the demo's requests (Debian: apt-get install curl)"
need python3 "it runs the demo's upstream and fetches Envoy (Debian: apt-get install python3 python3-venv)"

if [ -n "${DOORWARD:-}" ]; then
  doorward=$(command -v "$DOORWARD") || fail "DOORWARD names no executable: $DOORWARD"
else
  need cargo "Doorward is built with Rust 1.90 or newer (rustup installs it)"
  need cc "Rust links with a C compiler, and the cryptography library needs one (Debian: apt-get install gcc libc6-dev)"
  echo "building doorward (some minutes the first time)"
  (cd "$root" && cargo build --profile demo --locked)
  doorward=${CARGO_TARGET_DIR:-$root/target}/demo/doorward
fi

if [ -n "${ENVOY:-}" ]; then
  envoy=$(command -v "$ENVOY") || fail "ENVOY names no executable: $ENVOY"
else
  envoy=$("$root/envoy/get-envoy.sh" 1.40.0)
fi

# --- starting and stopping ------------------------------------------------------------

umask 077
dir=$(mktemp -d "${TMPDIR:-/tmp}/doorward-demo.XXXXXX")
names=() # what was started, in this order,
pids=()  # and as which process

stop_all() {
  local status=$? i pid deadline
  trap - EXIT
  trap '' INT TERM
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    pid=${pids[i]}
    kill "$pid" 2>/dev/null || continue
    deadline=$((SECONDS + 5))
    while kill -0 "$pid" 2>/dev/null; do
      if [ "$SECONDS" -ge "$deadline" ]; then kill -KILL "$pid" 2>/dev/null || true; fi
      sleep 0.05
    done
  done
  rm -rf "$dir"
  exit "$status"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start NAME COMMAND...: in the background; what it says goes to NAME.log.
start() {
  local name=$1
  shift
  "$@" >"$dir/$name.log" 2>&1 </dev/null &
  names+=("$name")
  pids+=($!)
}

# started COMMAND...: waits until COMMAND succeeds, which shows that the last one started is up.
started() {
  local name=${names[-1]} pid=${pids[-1]} deadline=$((SECONDS + 20))
  until "$@" >/dev/null 2>&1; do
    if ! kill -0 "$pid" 2>/dev/null; then
      tail -n 20 "$dir/$name.log" >&2
      fail "$name ended at its start; its last lines are above"
    fi
    if [ "$SECONDS" -ge "$deadline" ]; then
      tail -n 20 "$dir/$name.log" >&2
      fail "$name was not up after 20 s; its last lines are above"
    fi
    sleep 0.05
  done
}

# free_port [WISH]: WISH if it is free, else a port of the system's choice.
free_port() {
  python3 - "${1:-0}" <<'PYTHON'
import socket, sys
for port in (int(sys.argv[1]), 0):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            continue
        print(s.getsockname()[1])
        break
PYTHON
}

start upstream python3 "$root/envoy/upstream.py" 0
started test -s "$dir/upstream.log"
upstream_port=$(head -n 1 "$dir/upstream.log")

for user in alice bob; do
  "$doorward" dev-token --dir "$dir" --user "$user" --email "$user@example.com" >"$dir/$user.jwt"
done

http_port=$(free_port)
start doorward env \
  DOORWARD__LISTEN__CHECK="unix:$dir/check.sock" \
  DOORWARD__LISTEN__HTTP="127.0.0.1:$http_port" \
  DOORWARD__ISSUERS__0__KEYS__JWKS_FILE="$dir/dev.jwks.json" \
  "$doorward" serve --config "$root/envoy/doorward.yaml"
started curl -fs "http://127.0.0.1:$http_port/readyz"

port=$(free_port 10000)
sed -e "s/port_value: 10000\$/port_value: $port/" \
  -e "s/port_value: 9901\$/port_value: 0/" \
  -e "s/port_value: 8080\$/port_value: $upstream_port/" \
  -e "s|/run/doorward/check.sock|$dir/check.sock|" \
  "$root/envoy/edge-uds.yaml" >"$dir/envoy.yaml"
start envoy "$envoy" -c "$dir/envoy.yaml" --use-dynamic-base-id --concurrency 1 \
  --log-level warn --file-flush-interval-msec 100 --admin-address-path "$dir/admin"
started sh -c "curl -fs http://\$(cat '$dir/admin')/ready"

cat <<TEXT

  curl ──▶ Envoy 127.0.0.1:$port ──▶ upstream 127.0.0.1:$upstream_port
               │ may it?
               ▼
           Doorward $dir/check.sock
                    http://127.0.0.1:$http_port (/readyz, /metrics)
           Envoy's admin page: http://$(cat "$dir/admin")

TEXT

# --- the story ------------------------------------------------------------------------

edge=http://127.0.0.1:$port
steps=0
wrong=0

# One line of an answer: what the upstream saw, identity headers and their look-alikes
# included, or why it was refused.
read -r -d '' summary <<'PYTHON' || true
import json, re, sys
try:
    answer = json.load(sys.stdin)
except ValueError:
    sys.exit("an answer that is not JSON")
if "headers" in answer:
    seen = [f"{name}: {value}" for name, value in sorted(answer["headers"].items())
            if re.match("x[-_.](user|identity|doorward)", name)]
    print(f"the upstream saw {answer['method']} {answer['path']}", *seen, sep=", ")
else:
    print("refused as", answer.get("reason"))
PYTHON

bearer() {
  # shellcheck disable=SC2016  # to be expanded by the shell that runs the printed line
  printf -- '-H "authorization: Bearer $(cat %q)"' "$dir/$1.jwt"
}

# ask WHAT EXPECTED CURL-ARGUMENTS: sends the request exactly as it prints it.
ask() {
  local command="curl -s $3" got
  steps=$((steps + 1))
  echo "$steps. $1"
  echo "   $command"
  got=$(bash -c "$command -w '%{http_code}' -o $(printf %q "$dir/body")" || true)
  got+=", $(python3 -c "$summary" <"$dir/body" 2>&1 || true)"
  rm -f "$dir/body"
  echo "   expected  $2"
  if [ "$got" = "$2" ]; then
    echo "   got       $got ✓"
  else
    echo "   got       $got ✗"
    wrong=$((wrong + 1))
  fi
  echo
}

alice="x-user-email: alice@example.com, x-user-id: alice"

ask "Without a token, nobody comes in." \
  "401, refused as missing_token" \
  "$edge/orders"
ask "Alice's token lets her in, and the upstream learns who is calling." \
  "200, the upstream saw GET /orders, $alice" \
  "$(bearer alice) $edge/orders"
ask "Alice says she is the administrator: what she claims never arrives." \
  "200, the upstream saw GET /orders, $alice" \
  "$(bearer alice) -H 'x-user-id: admin' -H 'x_user_id: admin' $edge/orders"
ask "Alice signs out; the auth service behind Envoy hears of it as ever." \
  "200, the upstream saw POST /auth/logout, $alice" \
  "$(bearer alice) -X POST $edge/auth/logout"
ask "The same token, still unexpired and well signed, is dead." \
  "401, refused as signed_out" \
  "$(bearer alice) $edge/orders"
ask "Bob never noticed." \
  "200, the upstream saw GET /orders, x-user-email: bob@example.com, x-user-id: bob" \
  "$(bearer bob) $edge/orders"

if [ "$wrong" = 0 ]; then
  echo "all $steps answers were the expected ones"
else
  echo "$wrong of $steps answers were not the expected ones"
fi
if [ -n "$once" ]; then exit "$((wrong > 0))"; fi

cat <<TEXT

It stays up until Ctrl-C. In another terminal:

   curl -i $(bearer bob) $edge/orders  # as Bob
   curl -i $edge/public  # open to everyone
   curl -i -X POST $(bearer bob) $edge/auth/logout  # Bob signs out
   $(printf %q "$doorward") dev-token --dir $(printf %q "$dir") --user carol  # a new user's token
   curl -s http://127.0.0.1:$http_port/metrics | grep doorward_
   tail -f $(printf %q "$dir/envoy.log")  # Envoy's access log: the reason of each refusal

TEXT

trap 'echo; exit "$((wrong > 0))"' INT TERM
wait -n "${pids[@]}" || true
for i in "${!pids[@]}"; do
  kill -0 "${pids[i]}" 2>/dev/null && continue
  tail -n 20 "$dir/${names[i]}.log" >&2
  fail "${names[i]} ended by itself; its last lines are above"
done
