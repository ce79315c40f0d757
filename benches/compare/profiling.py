"""Where Doorward's CPU time goes while it answers known tokens: `perf`, by function and by owner."""

import re
import signal
import subprocess
import time
from collections import Counter

OWNERS = {
    "the kernel: sockets, waiting, waking": r"\[k\]",
    "the clock": r"clock_gettime",
    "HTTP/2 and the runtime: h2, hyper, http, tonic, tower, bytes, tokio": r"\b(h2|hyper|hyper_util|http|http_body|tonic|tower|tower_service|bytes|tokio|tokio_util|slab|indexmap)::",
    "reading the question": r"doorward::api::check::(request|fields)|CheckServer::decide|from_utf8",
    "the decision": r"doorward::(authz|state|clock)|arc_swap|quick_cache|memcmp",
    "the answer, its record and metrics": r"doorward::(api|metrics|traces)|prometheus",
    "accepting and bounding connections": r"doorward::serve",
    "copying": r"memmove|memcpy|memset",
    "the allocator": r"\b_?mi_|mi_theap",
}


def shares(bench):
    """Shares of functions, the largest first."""
    samples = bench.directory / "perf.data"
    server, address = bench.doorward("doorward", bench.filled("doorward"))
    time.sleep(4)  # The store is read.
    bench.check_load(address, 64, 30_000)
    perf = ["perf", "record", "-F", "1500", "-o", samples, "-p", server.process.pid]
    recorder = subprocess.Popen([str(arg) for arg in perf], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1)  # Until it has attached.
    bench.check_load(address, 64, 300_000)
    recorder.send_signal(signal.SIGINT)
    recorder.wait()
    report = ["perf", "report", "-i", str(samples), "--no-children", "--stdio", "--sort", "sym"]
    text = subprocess.run(report, check=True, capture_output=True, text=True).stdout
    return [(float(share), symbol) for share, symbol in re.findall(r"^ *([\d.]+)% +(\[[k.]\] .*?) *$", text, flags=re.M)]


def report(rows):
    owners = Counter()
    for share, symbol in rows:
        owners[next((owner for owner, pattern in OWNERS.items() if re.search(pattern, symbol)), "the rest")] += share
    print("\nof Doorward's CPU time at 64 streams, one connection, 1,000,000 revocations")
    for owner, share in owners.most_common():
        print(f"{share:5.1f} %  {owner}")
    print("\nthe first twenty functions")
    for share, symbol in rows[:20]:
        print(f"{share:5.1f} %  {symbol}")
