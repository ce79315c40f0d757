"""The processes of compare.sh: started, waited for, loaded, ended."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE = 60


class Server:
    """A process that was started here, and is ended here."""

    def __init__(self, *args, env=None, log=None):
        output = open(log, "wb") if log else subprocess.DEVNULL
        self.process = subprocess.Popen(
            [str(arg) for arg in args], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **(env or {})}
        )

    def cpu(self):
        """Seconds of CPU so far, of all its threads, to the nanosecond: by the process's clock (clock_getcpuclockid(3))."""
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def resident(self):
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, ready):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if ready():
                return
        except OSError:
            pass
        time.sleep(0.001)
    sys.exit(f"error: {what} does not start")


def connects(address):
    kind, where = (socket.AF_UNIX, address[5:]) if address.startswith("unix:") else (socket.AF_INET, ("127.0.0.1", int(address.rpartition(":")[2])))
    with socket.socket(kind) as probe:
        probe.connect(where)
        return True


def is_ready(url):
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return response.status == 200
    except urllib.error.HTTPError:
        return False


def h2load(*args):
    """Requests that succeeded; ends the run if any did not."""
    done = subprocess.run(["h2load", *map(str, args)], capture_output=True, text=True, check=False)
    found = re.search(r"requests: (\d+) total.*?(\d+) succeeded, (\d+) failed", done.stdout, re.S)
    statuses = re.search(r"status codes: (\d+) 2xx", done.stdout)
    if not found or int(found[3]) or not statuses or statuses[1] != found[1]:
        sys.exit(f"error: h2load {args}:\n{done.stdout[-1500:]}{done.stderr[-500:]}")
    return int(found[2])
