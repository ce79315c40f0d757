"""Starts the servers of compare.sh, loads them, and compares their CPU time per request."""

import argparse
import datetime
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path

import gateways
import profiling
import starting
from filters import NOTHING, changed, ext_authz, jwt_authn
from servers import Server, connects, free_port, h2load, is_ready, wait_for

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARIES = {
    "doorward": Path(os.environ.get("DOORWARD_BINARY", TARGET / "release/doorward")),
    "noop": TARGET / "release/examples/compare-noop",
    "h2": TARGET / "release/examples/compare-h2",
    "tools": TARGET / "release/examples/compare-tools",
}
MODULES = Path(os.environ.get("DOORWARD_MODULE", TARGET / "release/deps"))
KEY = ROOT / "src/config/testdata/sign-rsa2048.pem"
ENVOY = os.environ.get("ENVOY", "envoy")
CHECK = "http://localhost/envoy.service.auth.v3.Authorization/Check"
REVOCATIONS = 1_000_000
PARTS = ["direct", "envoy", "module", "rate", "users", "peers", "settings", "profile", "start"]
HELP = "module: the same decision inside Envoy; rate: at 500 requests a second; users: with many users' tokens; peers: whole gateways; settings: what each in envoy/edge-uds.yaml costs; profile: where Doorward's time goes; start: time until ready, and memory"
BREAKERS = r" {6}circuit_breakers:\n(?: {8}.*\n)+"

# The headers of a browser beside the token; with it and Envoy's own, 22 fields.
BROWSER = {
    "accept": "application/json, text/plain, */*",
    "accept-encoding": "gzip, deflate, br, zstd",
    "accept-language": "en-GB,en;q=0.9,de;q=0.8",
    "cache-control": "no-cache",
    "cookie": "consent=yes; theme=dark; _ga=GA1.1.1234567890.1700000000",
    "origin": "https://shop.example.com",
    "priority": "u=1, i",
    "referer": "https://shop.example.com/orders?page=2",
    "sec-ch-ua": '"Chromium";v="140", "Not=A?Brand";v="24"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"Linux"',
    "sec-fetch-dest": "empty",
    "sec-fetch-mode": "cors",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36",
}


class Bench:
    def __init__(self, directory, rounds, scale):
        self.directory = Path(directory)
        self.rounds, self.scale = rounds, scale
        self.key = KEY
        self.token = self.tool("token", KEY)
        self.jwks = self.tool("jwks", KEY)
        self.store = self.directory / "revocations.redb"
        self.message = self.directory / "check-request.bin"
        self.servers = []

    @staticmethod
    def tool(*args):
        return subprocess.run([BINARIES["tools"], *map(str, args)], check=True, capture_output=True, text=True).stdout.strip()

    def start(self, *args, **kwargs):
        server = Server(*args, **kwargs)
        self.servers.append(server)
        return server

    def end(self):
        while self.servers:
            self.servers.pop().end()

    # Doorward

    def config(self, name, revocation, issuer_more="", check=None):
        http = free_port()
        check = check or f"unix:{self.directory}/{name}.sock"
        file = self.directory / f"{name}.yaml"
        file.write_text(
            f"listen: {{check: \"{check}\", http: \"127.0.0.1:{http}\"}}\n"
            f"issuers: [{{name: main, issuer: \"https://auth.example.com\", audiences: [shop], keys: {{jwks: {self.jwks}}}{issuer_more}}}]\n"
            f"revocation: {revocation}\n"
        )
        return file, check, http

    def filled(self, name):
        """An embedded store of its own with all revocations in it."""
        if not self.store.exists():
            self.tool("revocations", self.store, REVOCATIONS)
        own = self.directory / f"{name}.redb"
        own.write_bytes(self.store.read_bytes())
        return f"{{store: embedded, embedded: {{path: {own}}}}}"

    def doorward(self, name, revocation, **more):
        file, check, http = self.config(name, revocation, **more)
        server = self.start(BINARIES["doorward"], "serve", "--config", file, log=self.directory / f"{name}.log")
        wait_for(name, lambda: is_ready(f"http://127.0.0.1:{http}/readyz"))
        return server, check

    def noop(self, name, env=None):
        socket = f"unix:{self.directory}/{name}.sock"
        server = self.start(BINARIES["noop"], socket, env=env)
        wait_for("compare-noop", lambda: connects(socket))
        return server, socket

    def redis(self, *listen):
        return self.start("redis-server", *listen, "--save", "", "--maxmemory-policy", "noeviction", log=self.directory / "redis.log")

    # Straight over a Unix socket

    def capture(self):
        """The CheckRequest that Envoy makes of a browser's request, all its headers in it."""
        file, check, _ = self.config("capture", "{store: embedded}")
        server = self.start(BINARIES["h2"], check, file, env={"DUMP": str(self.message)})
        wait_for("compare-h2", lambda: connects(check))
        _, port, _ = self.envoy("capture", ext_authz(check, everything=True))
        h2load("--h1", "-n", 1, "-c", 1, *self.browser(), f"http://127.0.0.1:{port}/orders?page=2")
        self.end()
        return self.message.stat().st_size - 5

    def check_load(self, address, streams, requests):
        args = ["-n", requests, "-c", 1, "-m", streams, "-t", 1, "-d", self.message]
        args += ["-H", "content-type: application/grpc", "-H", "te: trailers", "-H", "grpc-timeout: 1000m"]
        return h2load(*args, "-B", address, CHECK)

    def direct(self):
        servers = {}
        servers["doorward"] = self.doorward("doorward", self.filled("doorward"))
        servers["noop"] = self.noop("noop")
        servers["noop_one_thread"] = self.noop("single", {"TOKIO_WORKER_THREADS": "1"})
        file, check, _ = self.config("h2", self.filled("h2"))
        servers["h2"] = (self.start(BINARIES["h2"], check, file), check)
        for name, (_, address) in servers.items():
            wait_for(name, lambda address=address: connects(address))
        time.sleep(4)  # The stores are read.
        requests = int(100_000 * self.scale)
        taken = {(name, streams): [] for name in servers for streams in (64, 8)}
        for server, address in servers.values():
            self.check_load(address, 64, requests // 4)
        for _ in range(self.rounds):
            for name, (server, address) in servers.items():
                for streams in (64, 8):
                    before = server.cpu()
                    done = self.check_load(address, streams, requests)
                    taken[name, streams].append((server.cpu() - before) / done * 1e6)
        memory = servers["doorward"][0].resident()
        self.end()
        return taken, memory

    # Through Envoy

    def browser(self):
        headers = {**BROWSER, "authorization": f"Bearer {self.token}"}
        return [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]

    def envoy(self, name, filters):
        """The shipped configuration with other filters in ext_authz's place, and its own answer for an upstream."""
        text = (ROOT / "envoy/edge-uds.yaml").read_text()
        port, admin = free_port(), free_port()
        text = text.replace("port_value: 10000", f"port_value: {port}").replace("port_value: 9901", f"port_value: {admin}")
        start = text.index("                  - name: envoy.filters.http.ext_authz")
        end = text.index("                  - name: envoy.filters.http.router")
        block = text[start:end]
        cluster_start = text.index("    - name: doorward\n")
        cluster = text[cluster_start:]
        block, cluster = filters(block, cluster)
        text = text[:start] + block + text[end:cluster_start] + cluster
        text = text.replace("route: {cluster: upstream}", 'direct_response: {status: 200, body: {inline_string: "ok"}}')
        file = self.directory / f"envoy-{name}.yaml"
        file.write_text(text)
        # Built with the examples, as a dependency of the tests.
        modules = {"ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(MODULES)}
        server = self.start(ENVOY, "--use-dynamic-base-id", "--concurrency", 1, "--log-level", "error", "-c", file, env=modules)
        wait_for(f"Envoy ({name})", lambda: is_ready(f"http://127.0.0.1:{admin}/ready"))
        return server, port, admin

    def through_envoy(self):
        noop_port = free_port()
        noop = self.start(BINARIES["noop"], f"127.0.0.1:{noop_port}")
        wait_for("compare-noop", lambda: connects(f":{noop_port}"))
        doorward, check = self.doorward("behind", self.filled("behind"))
        redis_socket = self.directory / "redis.sock"
        redis = self.redis("--port", 0, "--unixsocket", redis_socket)
        wait_for("redis-server", lambda: connects(f"unix:{redis_socket}"))
        lookup, lookup_check = self.doorward("lookup", f"{{store: redis, read: lookup, redis: {{url: \"redis+unix://{redis_socket}\"}}}}")
        asked = self.introspection()
        asking, asking_check = self.doorward("asking", "{store: embedded}", issuer_more=asked)
        beside, noop_socket = self.noop("noop-behind")
        variants = {
            "nothing": ((), NOTHING),
            "jwt_authn": ((), jwt_authn(self.jwks, cache=False)),
            "jwt_authn with its cache": ((), jwt_authn(self.jwks, cache=True)),
            "no-op, TCP, all headers": ((noop,), ext_authz(f"127.0.0.1:{noop_port}", everything=True)),
            "no-op, TCP, allowed headers": ((noop,), ext_authz(f"127.0.0.1:{noop_port}", everything=False)),
            "no-op, UDS, allowed headers": ((beside,), ext_authz(noop_socket, everything=False)),
            "Doorward, UDS, all headers": ((doorward,), ext_authz(check, everything=True)),
            "Doorward": ((doorward,), ext_authz(check, everything=False)),
            "Doorward, read: lookup": ((lookup, redis), ext_authz(lookup_check, everything=False)),
            "Doorward, introspection": ((asking,), ext_authz(asking_check, everything=False)),
        }
        return self.load_all(variants)

    def load_all(self, variants, send=None, requests=40_000):
        """Rounds of CPU per request, of Envoy and of what stands beside it."""
        send = send or self.as_browser("-c", 64)
        envoys = {name: self.envoy(f"{at}", filters) for at, (name, (_, filters)) in enumerate(variants.items())}
        gateways = {name: ((envoys[name][0],), variants[name][0], partial(send, envoys[name][1])) for name in variants}
        taken = self.rounds_of(gateways, requests)
        self.end()
        return taken

    def as_browser(self, *how):
        """Sends a browser's requests to a port, and returns how many."""
        return lambda port, requests: h2load("--h1", "-n", requests, *how, "-t", 1, *self.browser(), f"http://127.0.0.1:{port}/orders?page=2")

    def rounds_of(self, gateways, requests):
        """Rounds of CPU per request, of each gateway's own servers and of those beside it."""
        requests = int(requests * self.scale)
        taken = {name: [] for name in gateways}

        def load(own, beside, send, requests):
            before = [sum(server.cpu() for server in servers) for servers in (own, beside)]
            done = send(requests)
            after = [sum(server.cpu() for server in servers) for servers in (own, beside)]
            return [(after - before) / done * 1e6 for before, after in zip(before, after)]

        for gateway in gateways.values():
            load(*gateway, requests // 4)
        for _ in range(self.rounds):
            for name, gateway in gateways.items():
                taken[name].append(load(*gateway, requests))
        return taken

    # The settings of envoy/edge-uds.yaml, one by one

    def settings(self):
        server, check = self.doorward("settings", "{store: embedded}")
        tcp, tcp_check = self.doorward("tcp", "{store: embedded}", check=f"127.0.0.1:{free_port()}")
        shipped = ext_authz(check, everything=False)
        beside = (server,)
        variants = {
            "nothing": ((), NOTHING),
            "as shipped": (beside, shipped),
            "on TCP instead of a Unix socket": ((tcp,), ext_authz(tcp_check, everything=False)),
            "without allowed_headers": (beside, ext_authz(check, everything=True)),
            "without connection_keepalive": (beside, changed(shipped, r" +connection_keepalive: .*\n", "")),
            "without circuit_breakers": (beside, changed(shipped, BREAKERS, "")),
            "without validate_mutations": (beside, changed(shipped, "validate_mutations: true", "validate_mutations: false")),
            "without timeout": (beside, changed(shipped, r"timeout: 1s\n", r"timeout: 0s\n")),
            "without metadata": (beside, changed(shipped, "clear_route_cache: false", "enable_dynamic_metadata_ingestion: false")),
        }
        taken = self.load_all(variants)
        doorward, check = self.doorward("many", "{store: embedded}")
        shipped = ext_authz(check, everything=False)
        streams = r" +max_concurrent_streams: .*\n"
        many = {"shipped": shipped, "breakers": changed(shipped, BREAKERS, ""), "streams": changed(shipped, streams, "")}
        refused = {name: self.refused_by_envoy(name, filters) for name, filters in many.items()}
        noticed = self.frozen(doorward, shipped)
        self.end()
        return taken, refused, noticed

    def refused_by_envoy(self, name, filters):
        """Of 30,000 requests on 3,000 connections, how many become 503."""
        _, port, _ = self.envoy(f"many-{name}", filters)
        args = ["--h1", "-n", 30_000, "-c", 3_000, "-t", 1, *self.browser(), f"http://127.0.0.1:{port}/orders"]
        done = subprocess.run(["h2load", *map(str, args)], capture_output=True, text=True, check=False)
        return int(re.search(r"(\d+) 5xx", done.stdout)[1])

    def frozen(self, doorward, filters):
        """Seconds until Envoy gives up the connection to a Doorward that stands still."""
        _, port, admin = self.envoy("frozen", filters)
        h2load("--h1", "-n", 1, "-c", 1, *self.browser(), f"http://127.0.0.1:{port}/orders")
        doorward.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()

        def gave_up():
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/stats?filter=doorward.http2.keepalive_timeout") as stats:
                return not stats.read().strip().endswith(b" 0")

        try:
            wait_for("the keepalive timeout", gave_up)
            return time.monotonic() - began
        finally:
            doorward.process.send_signal(signal.SIGCONT)

    def introspection(self):
        """An authorization server that calls every token active; its own CPU is not counted."""
        port = free_port()
        answer = json.dumps({"active": True, "sub": "3f2b8c1e-7a0d-4f6e-9b1c-5d2e8f4a6b7c"})
        text = (
            "import http.server,sys\n"
            "class H(http.server.BaseHTTPRequestHandler):\n"
            "    protocol_version='HTTP/1.1'\n"
            "    def do_POST(self):\n"
            "        self.rfile.read(int(self.headers['content-length']))\n"
            f"        body={answer!r}.encode()\n"
            "        self.send_response(200); self.send_header('content-type','application/json')\n"
            "        self.send_header('content-length',str(len(body))); self.end_headers(); self.wfile.write(body)\n"
            "    def log_message(self,*a): pass\n"
            f"http.server.ThreadingHTTPServer(('127.0.0.1',{port}),H).serve_forever()\n"
        )
        self.start(sys.executable, "-c", text)
        wait_for("the authorization server", lambda: connects(f":{port}"))
        secret = self.directory / "client-secret"
        secret.write_text("secret")
        return f", introspection: {{url: \"http://127.0.0.1:{port}/\", client_id: a, client_secret_file: {secret}, cache: 1s, when: always}}"


# The report


def spread(values):
    return f"{statistics.median(values):7.1f}  ({min(values):.1f} – {max(values):.1f})"


def machine():
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{os.cpu_count()} × {model[1] if model else 'unknown processor'}, Linux {os.uname().release.split('-')[0]}"


def ratio_of(ours, theirs):
    return round(statistics.median(ours) / statistics.median(theirs), 3)


def report_direct(taken, memory, message, ratios):
    names = {
        "doorward": "Doorward, whole decision",
        "noop": "no-op: tonic + envoy-types, decides nothing",
        "noop_one_thread": "the no-op with one worker thread",
        "h2": "the same decision behind bare h2, one thread",
    }
    print(f"\nStraight over a Unix socket, a {message}-byte CheckRequest, {REVOCATIONS:,} revocations; CPU µs per request")
    print(f"{'':46} {'64 streams':>24} {'8 streams':>24}")
    for name, title in names.items():
        print(f"{title:46} {spread(taken[name, 64]):>24} {spread(taken[name, 8]):>24}")
    print(f"Doorward's resident memory: {memory:.1f} MiB")
    ratios["decision_vs_noop_64"] = ratio_of(taken["doorward", 64], taken["noop", 64])
    ratios["decision_vs_noop_8"] = ratio_of(taken["doorward", 8], taken["noop", 8])
    ratios["decision_vs_noop_one_thread_64"] = ratio_of(taken["doorward", 64], taken["noop_one_thread", 64])
    ratios["decision_vs_noop_one_thread_8"] = ratio_of(taken["doorward", 8], taken["noop_one_thread", 8])
    ratios["decision_vs_h2_64"] = ratio_of(taken["doorward", 64], taken["h2", 64])
    ratios["decision_vs_h2_8"] = ratio_of(taken["doorward", 8], taken["h2", 8])


def report_envoy(taken, ratios, how="64 connections"):
    nothing = statistics.median(envoy for envoy, _ in taken["nothing"])
    added = {name: [envoy - nothing + service for envoy, service in rounds] for name, rounds in taken.items()}
    print(f"\nThrough Envoy, one worker, {how}, the shipped configuration; CPU µs added per request to {nothing:.1f}")
    print(f"{'':34} {'Envoy':>8} {'service':>8} {'together':>30}")
    for name, rounds in taken.items():
        envoy = statistics.median(envoy for envoy, _ in rounds) - nothing
        print(f"{name:34} {envoy:8.1f} {statistics.median(service for _, service in rounds):8.1f} {spread(added[name]):>30}")
    if "jwt_authn" not in added:
        ratios["service_vs_noop_one_thread_low_rate"] = ratio_of(*([service for _, service in taken[name]] for name in ("Doorward", "the same on one thread")))
        return
    ratios["envoy_added_vs_jwt_authn"] = ratio_of(added["Doorward"], added["jwt_authn"])
    if "module" in added:
        ratios["module_vs_ext_authz"] = ratio_of(added["module"], added["Doorward"])
        ratios["module_vs_jwt_authn_cached"] = ratio_of(added["module"], added["jwt_authn with its cache"])
        ratios["module_metadata_vs_jwt_authn_cached"] = ratio_of(added["module, facts: metadata"], added["jwt_authn with its cache"])
        return
    ratios["envoy_added_vs_noop_uds"] = ratio_of(added["Doorward"], added["no-op, UDS, allowed headers"])
    ratios["envoy_added_vs_noop_tcp"] = ratio_of(added["Doorward"], added["no-op, TCP, all headers"])
    return {name: statistics.median(values) for name, values in added.items() if name != "nothing"}


def report_settings(taken, refused, noticed):
    nothing = statistics.median(envoy for envoy, _ in taken["nothing"])
    added = {name: [envoy - nothing + service for envoy, service in rounds] for name, rounds in taken.items() if name != "nothing"}
    shipped = statistics.median(added["as shipped"])
    print(f"\nThe settings of envoy/edge-uds.yaml, one by one; CPU µs added per request, Envoy and Doorward")
    for name, values in added.items():
        print(f"{name:34} {spread(values):>30} {statistics.median(values) - shipped:+6.1f}")
    print(f"of 30,000 requests on 3,000 connections {refused['shipped']:,} become 503, with default circuit breakers {refused['breakers']:,}, without max_concurrent_streams {refused['streams']:,}")
    print(f"a Doorward that stands still is given up after {noticed:.1f} s")


def chart(direct, added, file, caption):
    """Two groups of bars: what is lower is better."""
    groups = []
    if direct:
        rows = [("Doorward, 64 streams", direct["doorward", 64], True), ("no-op gRPC server", direct["noop", 64], False), ("bare h2, same decision", direct["h2", 64], False)]
        rows += [("Doorward, 8 streams", direct["doorward", 8], True), ("no-op gRPC server", direct["noop", 8], False), ("bare h2, same decision", direct["h2", 8], False)]
        groups.append(("The service alone: CPU µs per decision", [(name, statistics.median(values), ours) for name, values, ours in rows]))
    if added:
        groups.append(("With Envoy: CPU µs added per request, Envoy and service", [(name, value, name.startswith("Doorward")) for name, value in added.items()]))
    width, left, bar, gap = 760, 230, 18, 8
    parts, y = [], 16
    for title, rows in groups:
        most = max(value for _, value, _ in rows)
        parts.append(f'<text x="0" y="{y + 4}" font-weight="600">{title}</text>')
        y += 18
        for name, value, ours in rows:
            length = max(1, value / most * (width - left - 70))
            parts.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{name}</text>')
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar}" rx="2" fill="{"#2f6f4f" if ours else "#9aa5ad"}"/>')
            parts.append(f'<text x="{left + length + 6:.1f}" y="{y + 13}">{value:.1f}</text>')
            y += bar + gap
        y += 18
    parts.append(f'<text x="0" y="{y}" fill="#666" font-size="11">{caption}</text>')
    style = 'font-family="system-ui, sans-serif" font-size="13" fill="#222"'
    body = "\n".join(parts)
    file.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 0 {width + 20} {y + 12}" {style}>\n<rect x="-10" width="{width + 20}" height="{y + 12}" fill="#fff"/>\n{body}\n</svg>\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", action="store_true", help="write target/compare.json")
    parser.add_argument("--only", choices=PARTS, help=HELP)
    args = parser.parse_args()
    caption = f"{datetime.date.today()}, {machine()}; medians of interleaved rounds"
    ratios, direct, added = {}, None, None
    with tempfile.TemporaryDirectory(prefix="doorward-compare-") as directory:
        bench = Bench(directory, rounds=5 if args.quick else 9, scale=0.3 if args.quick else 1)
        try:
            message = bench.capture() if args.only in (None, "direct", "profile") else None
            if args.only == "settings":
                return report_settings(*bench.settings())
            if args.only == "start":
                return starting.report(starting.starts(bench))
            if args.only == "profile":
                return profiling.report(profiling.shares(bench))
            if args.only == "users":
                gateways.report_users(gateways.users(bench), ratios)
            if args.only == "peers":
                gateways.report_peers(gateways.peers(bench), ratios)
            if args.only == "module":
                report_envoy(gateways.inside(bench), ratios)
            if args.only == "rate":
                report_envoy(gateways.at_low_rate(bench), ratios, "500 requests a second")
            if args.only in (None, "direct"):
                direct, memory = bench.direct()
                report_direct(direct, memory, message, ratios)
            if args.only in (None, "envoy"):
                added = report_envoy(bench.through_envoy(), ratios)
        finally:
            bench.end()
    print(f"\n{'ratio':34}\n" + "\n".join(f"{name:34} {ratio:.2f}" for name, ratio in ratios.items()))
    print(caption)
    if not args.only:
        chart(direct, added, ROOT / "benches/compare.svg", caption)
    if args.json:
        rows = {f"{name}_{streams}": statistics.median(values) for (name, streams), values in (direct or {}).items()}
        result = {"date": str(datetime.date.today()), "machine": machine(), "ratios": ratios, "cpu_us": rows, "envoy_added_us": added or {}}
        (ROOT / "target").mkdir(exist_ok=True)
        (ROOT / "target/compare.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
