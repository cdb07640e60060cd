"""`vladctl metrics --listen`: what it answers, and what clients cannot do to it."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from vlad import metrics_listener
from vlad.metrics_listener import MAX_CONNECTIONS, MetricsListener, address

TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Daemon:
    """What is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.gone = False

    def scrape(self) -> tuple[str, str]:
        self.asked += 1
        if self.gone:
            raise OSError("/run/vlad/vlad.sock: no such file")
        return f"vlad_uptime_seconds {self.asked}\n", TYPE


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def listener(daemon: Daemon) -> Iterator[MetricsListener]:
    with MetricsListener(("127.0.0.1", 0), daemon.scrape) as it:
        thread = threading.Thread(target=it.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield it
        it.shutdown()
        thread.join(10)


def ask(listener: MetricsListener, path: str = "/metrics", method: str = "GET") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", listener.server_address[1], timeout=10)
    connection.request(method, path)
    reply = connection.getresponse()
    body = reply.read().decode()
    connection.close()
    return reply.status, str(reply.getheader("Content-Type")), body


def test_a_scrape(listener: MetricsListener) -> None:
    assert ask(listener) == (200, TYPE, "vlad_uptime_seconds 1\n")
    assert ask(listener, "/metrics?x=1")[0] == 200
    assert not listener.public


def test_the_daemon_is_asked_once_a_second_at_most(
    listener: MetricsListener, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_listener, "FRESH_S", 1000.0)
    assert {ask(listener)[2] for _ in range(20)} == {"vlad_uptime_seconds 1\n"}
    monkeypatch.setattr(metrics_listener, "FRESH_S", 0.0)
    assert ask(listener)[2] == "vlad_uptime_seconds 2\n"


def test_a_daemon_that_is_gone_is_503_and_comes_back(listener: MetricsListener, daemon: Daemon) -> None:
    daemon.gone = True
    status, _, body = ask(listener)
    assert status == 503 and "no such file" in body
    daemon.gone = False
    assert ask(listener)[0] == 200


@pytest.mark.parametrize(("path", "method", "status"), [
    ("/", "GET", 404), ("/metrics/../etc", "GET", 404), ("/metrics", "POST", 501), ("/metrics", "DELETE", 501),
])
def test_nothing_else_is_answered(
    listener: MetricsListener, daemon: Daemon, path: str, method: str, status: int
) -> None:
    assert ask(listener, path, method)[0] == status
    assert daemon.asked == 0


def test_silent_clients_are_dropped_and_never_more_than_so_many(
    listener: MetricsListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_listener, "REQUEST_S", 2.0)
    silent = [socket.create_connection(listener.server_address[:2], timeout=20) for _ in range(MAX_CONNECTIONS)]
    for one in silent:
        one.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
    wait_for(lambda: listener._slots._value == 0)  # type: ignore[attr-defined]
    late = socket.create_connection(listener.server_address[:2], timeout=20)
    assert late.recv(1) == b"", "the ninth is closed at once"
    assert [one.recv(1) for one in silent] == [b""] * MAX_CONNECTIONS, "hung up on"
    wait_for(lambda: listener._slots._value == MAX_CONNECTIONS)  # type: ignore[attr-defined]
    assert ask(listener)[0] == 200
    for one in (*silent, late):
        one.close()


def wait_for(condition: object) -> None:
    end = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(("text", "value"), [
    ("127.0.0.1:9101", ("127.0.0.1", 9101)), ("[::1]:0", ("::1", 0)), ("0.0.0.0:65535", ("0.0.0.0", 65535)),
])
def test_addresses(text: str, value: tuple[str, int]) -> None:
    assert address(text) == value


@pytest.mark.parametrize("text", ["9101", "localhost:9101", "127.0.0.1:", "127.0.0.1:65536", "1.2.3:1", ":1", "a:-1"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ValueError):
        address(text)
