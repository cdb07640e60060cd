"""`vladctl metrics --listen`: the daemon's metrics as a page that Prometheus scrapes.

A process of its own, without rights on the arm: it asks over the control socket like any client, at
most once a second, and may hang or be killed without the daemon noticing. Loopback unless told otherwise.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DEFAULT = "127.0.0.1:9101"
MAX_CONNECTIONS = 8
REQUEST_S = 5.0  # from accepting a connection to its end
FRESH_S = 1.0


def address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, the host an IP address: `127.0.0.1:9101`, `[::1]:9101`. ValueError with the reason."""
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{text}: ADDRESS:PORT is wanted, for instance {DEFAULT}")
    return str(ipaddress.ip_address(host)), int(port)


class MetricsListener(ThreadingHTTPServer):
    """Serves `GET /metrics`. scrape: the text and its content type; OSError when there is none."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, at: tuple[str, int], scrape: Callable[[], tuple[str, str]]) -> None:
        self.address_family = socket.AF_INET6 if ":" in at[0] else socket.AF_INET
        self._scrape = scrape
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._newest: tuple[str, str] = ("", "")
        self._asked_s = float("-inf")
        super().__init__(at, _Page)

    @property
    def public(self) -> bool:
        """Others than this machine may ask."""
        return not ipaddress.ip_address(self.server_address[0]).is_loopback  # type: ignore[arg-type]

    def page(self) -> tuple[str, str]:
        """As `scrape`, at most once a second."""
        with self._lock:
            if time.monotonic() - self._asked_s >= FRESH_S:
                self._newest = self._scrape()
                self._asked_s = time.monotonic()
            return self._newest

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread was to be had
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        end = threading.Timer(REQUEST_S, _hang_up, (request,))
        end.daemon = True
        end.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is nobody's error."""


def _hang_up(request: socket.socket) -> None:
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class _Page(BaseHTTPRequestHandler):
    server: MetricsListener
    timeout = REQUEST_S

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", "the metrics are at /metrics\n")
            return
        try:
            text, content_type = self.server.page()
        except OSError as error:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", f"{error}\n")
            return
        self._answer(HTTPStatus.OK, content_type, text)

    def _answer(self, status: HTTPStatus, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "vlad"

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are no news."""
