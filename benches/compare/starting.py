"""How long Doorward takes until it is ready, and how much memory it has then."""

import statistics
import subprocess
import sys
import time

EVERY = 9  # Starts of which the median counts.


def starts(bench):
    """By what the store holds: milliseconds until `/readyz`, MiB resident some seconds later."""
    taken = {"embedded store, empty": started(bench, lambda name: "{store: embedded}", EVERY)}
    taken["embedded store, 1,000,000 revocations"] = started(bench, bench.filled, 3)
    socket = bench.directory / "redis.sock"
    args = ["--port", 0, "--unixsocket", socket, "--save", "", "--maxmemory-policy", "noeviction", "--dir", bench.directory]
    redis = bench.start("redis-server", *args)
    store = f'{{store: redis, redis: {{url: "redis+unix://{socket}"}}}}'
    wait_for_redis(socket)
    taken["Redis, empty"] = started(bench, lambda name: store, 3)
    revoke(socket, 0, 100_000)
    taken["Redis, 100,000 revocations"] = started(bench, lambda name: store, EVERY)
    revoke(socket, 100_000, 1_000_000)
    taken["Redis, 1,000,000 revocations"] = started(bench, lambda name: store, 3)
    redis.end()
    return taken


def started(bench, revocation, times):
    took, memory = [], []
    for number in range(times):
        name = f"start-{number}"
        store = revocation(name)
        began = time.monotonic()
        server, _ = bench.doorward(name, store)
        took.append((time.monotonic() - began) * 1e3)
        time.sleep(5)  # The allocator gives back what the start took.
        memory.append(server.resident())
        server.end()
    return statistics.median(took), statistics.median(memory)


def wait_for_redis(socket):
    for _ in range(1_000):
        if subprocess.run(["redis-cli", "-s", socket, "ping"], capture_output=True, check=False).stdout == b"PONG\n":
            return
        time.sleep(0.05)
    sys.exit("error: redis-server does not start")


def revoke(socket, first, end):
    """Entries as docs/signing-out.md describes them, for tokens by UUIDs without dashes."""
    expires = str(int(time.time() * 1000) + 3_600_000)
    cli = subprocess.Popen(["redis-cli", "-s", socket, "--pipe"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    for number in range(first, end):
        token = f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{number:016x}"
        fields = ["issuer", "main", "kind", "token", "id", token, "at", "*", "expires", expires, "origin", "revoked", "reason", ""]
        command = ["XADD", "doorward:{r}:log", "*", *fields]
        text = "".join(f"${len(word)}\r\n{word}\r\n" for word in command)
        cli.stdin.write(f"*{len(command)}\r\n{text}".encode())
    cli.stdin.close()
    if cli.wait():
        sys.exit("error: redis-server does not take the revocations")


def report(taken):
    print(f"\n{'from start to ready, then at rest':45}{'ms':>8}{'MiB':>8}")
    for what, (milliseconds, memory) in taken.items():
        print(f"{what:45}{milliseconds:8.0f}{memory:8.1f}")
