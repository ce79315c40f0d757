"""Gateways in special conditions: Doorward inside Envoy, a low rate, many users, and other gateways beside it."""

import shutil
import statistics
import subprocess
from functools import partial
from pathlib import Path

from filters import NOTHING, ext_authz, inside_envoy, jwt_authn
from servers import connects, free_port, wait_for

SPRING = Path(__file__).resolve().parent / "spring"
USERS = (1, 5_000, 20_000)


def module(bench, facts):
    file, _, _ = bench.config(f"inside-{facts}", bench.filled(f"inside-{facts}"))
    return inside_envoy(file, facts)


def inside(bench):
    """The module beside what it is an alternative to."""
    doorward, check = bench.doorward("behind", bench.filled("behind"))
    variants = {
        "nothing": ((), NOTHING),
        "jwt_authn": ((), jwt_authn(bench.jwks, cache=False)),
        "jwt_authn with its cache": ((), jwt_authn(bench.jwks, cache=True)),
        "Doorward": ((doorward,), ext_authz(check, everything=False)),
        "module": ((), module(bench, "filter_state")),
        "module, facts: metadata": ((), module(bench, "metadata")),
        "module, facts: none": ((), module(bench, "none")),
    }
    return bench.load_all(variants)


def tokens_of(bench, *numbers):
    """A file of tokens for each number of users, the larger with all of the smaller."""
    every = bench.directory / "tokens"
    bench.tool("tokens", bench.key, every, max(numbers))
    lines = every.read_text().splitlines()
    files = {number: bench.directory / f"tokens-{number}" for number in numbers}
    for number, file in files.items():
        file.write_text("\n".join(lines[:number]))
    return files


def sender(bench, tokens, connections, rate=0):
    """Sends a browser's requests to a port, each with the next token; `rate`: a second, or as fast as they are answered."""
    head = bench.directory / "head"
    lines = ["GET /orders?page=2 HTTP/1.1", "host: localhost", *bench.browser()[1::2][:-1]]
    head.write_text("".join(f"{line}\r\n" for line in lines))

    def send(port, requests):
        bench.tool("load", port, connections, requests, rate, tokens, head)
        return requests

    return send


def at_low_rate(bench):
    """500 requests a second, evenly: what a check costs when threads sleep between checks."""
    doorward, check = bench.doorward("rate", bench.filled("rate"))
    noop, noop_socket = bench.noop("noop-rate")
    single, single_socket = bench.noop("noop-single", {"TOKIO_WORKER_THREADS": "1"})
    variants = {
        "nothing": ((), NOTHING),
        "jwt_authn with its cache": ((), jwt_authn(bench.jwks, cache=True)),
        "no-op, UDS, allowed headers": ((noop,), ext_authz(noop_socket, everything=False)),
        "the same on one thread": ((single,), ext_authz(single_socket, everything=False)),
        "Doorward": ((doorward,), ext_authz(check, everything=False)),
    }
    return bench.load_all(variants, sender(bench, tokens_of(bench, 1)[1], connections=1, rate=500), requests=5_000)


def users(bench):
    """Known tokens of many users in turn, from 64 connections; by what decides and how many users there are."""
    doorward, check = bench.doorward("users", bench.filled("users"))
    sends = {count: sender(bench, file, connections=64) for count, file in tokens_of(bench, *USERS).items()}
    variants = {
        "nothing": ((), NOTHING),
        "jwt_authn with its cache": ((), jwt_authn(bench.jwks, cache=True, size=2 * max(USERS))),
        "Doorward": ((doorward,), ext_authz(check, everything=False)),
        "module": ((), module(bench, "filter_state")),
    }
    gateways = {}
    for at, (name, (beside, filters)) in enumerate(variants.items()):
        envoy, port, _ = bench.envoy(f"{at}", filters)
        sends[max(USERS)](port, max(USERS))  # Until each is known.
        gateways |= {(name, count): ((envoy,), beside, partial(send, port)) for count, send in sends.items()}
    taken = bench.rounds_of(gateways, 40_000)
    bench.end()
    return taken


def report_users(taken, ratios):
    nothing = {count: statistics.median(envoy for envoy, _ in taken["nothing", count]) for count in USERS}
    added = {}
    for (name, count), rounds in taken.items():
        added[name, count] = statistics.median(envoy + beside for envoy, beside in rounds) - nothing[count]
    shown = ", ".join(f"{nothing[count]:.1f}" for count in USERS)
    print(f"\nKnown tokens of many users in turn, Envoy with one worker, 64 connections; CPU µs added per request to {shown}")
    print(f"{'':34}" + "".join(f"{f'{count:,} users':>15}" for count in USERS))
    for name in dict.fromkeys(name for name, _ in taken if name != "nothing"):
        print(f"{name:34}" + "".join(f"{added[name, count]:15.1f}" for count in USERS))
        for count in USERS[1:]:
            ratios[f"{name}: {count:,} users vs one"] = round(added[name, count] / added[name, 1], 3)
    for count in USERS:
        ratios[f"module vs jwt_authn cached, {count:,}"] = round(added["module", count] / added["jwt_authn with its cache", count], 3)


def peers(bench):
    """Whole gateways: what a request costs in all processes together."""
    doorward, check = bench.doorward("peers", bench.filled("peers"))
    variants = {
        "Envoy without authorization": ((), NOTHING),
        "Envoy, jwt_authn": ((), jwt_authn(bench.jwks, cache=False)),
        "Envoy, jwt_authn with its cache": ((), jwt_authn(bench.jwks, cache=True)),
        "Envoy, Doorward": ((doorward,), ext_authz(check, everything=False)),
        "Envoy, Doorward's module": ((), module(bench, "filter_state")),
    }
    send = bench.as_browser("-c", 64)
    gateways = {}
    for at, (name, (beside, filters)) in enumerate(variants.items()):
        envoy, port, _ = bench.envoy(f"{at}", filters)
        gateways[name] = ((envoy,), beside, partial(send, port))
    if shutil.which("mvn"):
        server, redis, port = spring(bench)
        gateways["Spring Cloud Gateway, Redis"] = ((server,), (redis,), partial(send, port))
        send(port, int(200_000 * bench.scale))  # Until most of it is compiled.
    else:
        print("Spring Cloud Gateway is left out: Maven is missing (apt-get install maven)")
    taken = bench.rounds_of(gateways, 40_000)
    bench.end()
    return taken


def spring(bench):
    """The gateway that asks Redis about each token: it, its Redis, its port."""
    subprocess.run(["mvn", "-q", "-B", "package"], cwd=SPRING, check=True)
    redis_port, port = free_port(), free_port()
    redis = bench.redis("--port", redis_port, "--bind", "127.0.0.1")
    settings = {"server.port": port, "server.address": "127.0.0.1", "spring.data.redis.port": redis_port, "jwks": bench.jwks, "logging.level.root": "warn"}
    jar = SPRING / "target/compare-gateway-1.jar"
    server = bench.start("java", "-jar", jar, *(f"--{name}={value}" for name, value in settings.items()), log=bench.directory / "spring.log")
    wait_for("Spring Cloud Gateway", lambda: connects(f":{port}"))
    return server, redis, port


def report_peers(taken, ratios):
    together = {name: [own + beside for own, beside in rounds] for name, rounds in taken.items()}
    ours = statistics.median(together["Envoy, Doorward"])
    print("\nWhole gateways, 64 connections; CPU µs per request in all their processes, and in relation to Envoy with Doorward")
    for name, values in together.items():
        median, least, most = statistics.median(values), min(values), max(values)
        print(f"{name:34} {f'{median:.1f}  ({least:.1f} – {most:.1f})':>30} {median / ours:8.2f}")
    for name, values in together.items():
        if name != "Envoy, Doorward":
            ratios[f"{name} vs Doorward"] = round(statistics.median(values) / ours, 3)
