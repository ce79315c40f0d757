#!/usr/bin/env python3
"""An upstream that answers every request with what it saw, as JSON.

    python3 envoy/upstream.py [PORT]

It listens on 127.0.0.1 only, and prints its port on the first line: with PORT 0, the
default, the system chooses one.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps Envoy's connections open
    # Head and body leave in one packet; in two, the second waits 40 ms for an acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def echo(self):
        self.skip_body()
        headers = {}
        for name, value in self.headers.items():
            headers.setdefault(name.lower(), []).append(value)
        seen = {
            "method": self.command,
            "path": self.path,
            # A repeated header shows as one, joined: two identities are never taken for one.
            "headers": {name: ", ".join(values) for name, values in headers.items()},
        }
        body = json.dumps(seen, indent=2).encode() + b"\n"
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = echo

    def skip_body(self):
        """Reads the body away, or it would be taken for the next request."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self.rfile.read(size + 2)
            while self.rfile.readline().strip():
                pass
        else:
            self.rfile.read(int(self.headers.get("content-length", 0)))

    def log_message(self, *_):
        """Says nothing: Envoy keeps the access log."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    server = Server(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0), Echo)
    print(server.server_port, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
