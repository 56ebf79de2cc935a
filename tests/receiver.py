"""A webhook on loopback."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver(ThreadingHTTPServer):
    """A webhook that keeps what it is sent; posts to /closed are refused."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Keeping)
        self.got: list[dict[str, Any]] = []
        self.url = f"json://127.0.0.1:{self.server_port}"


class _Keeping(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(403 if self.path.startswith("/closed") else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
