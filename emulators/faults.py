"""A door in front of an emulator that can be told to misbehave: the clients under test stay what they are."""

from __future__ import annotations

import http.client
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


@dataclass
class Fault:
    """What happens to the next `times` requests of that method whose address holds `where`."""

    method: str
    where: str
    status: int | None = None  # None: the request is carried out, and its answer is lost
    code: str = "ServerBusy"
    times: int = 1


@dataclass
class FaultyDoor:
    """`with FaultyDoor(azurite.blob_url) as door: door.url`; `seen` are the requests, as "PUT /path?query"."""

    target: str
    faults: list[Fault] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> FaultyDoor:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        parts = urlsplit(self.target)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}{parts.path}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fault_for(self, method: str, address: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and fault.where in address:
                fault.times -= 1
                return fault
        return None


def _handler(door: FaultyDoor) -> type[BaseHTTPRequestHandler]:
    behind = urlsplit(door.target).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            door.seen.append(f"{self.command} {self.path}")
            fault = door.fault_for(self.command, self.path)
            if fault is not None and fault.status is not None:
                self._answer(fault.status, {"x-ms-error-code": fault.code}, b"")
                return
            connection = http.client.HTTPConnection(behind, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP}
            connection.close()
            if fault is not None:
                self.close_connection = True
                self.connection.close()
                return
            self._answer(answer.status, kept, data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward  # noqa: N815

        def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() != "content-length":
                    self.send_header(name, value)
            length = headers.get("Content-Length") or headers.get("content-length") or str(len(data))
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
