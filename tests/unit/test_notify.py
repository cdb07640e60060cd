"""sd_notify as systemd sees it: datagrams on a path or an abstract name."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlad.errors import ConfigError
from vlad.notify import Notifier, watchdog_usec


class Listener:
    """What systemd holds at the other end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)

    def received(self) -> list[str]:
        texts = []
        while True:
            try:
                texts.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return texts


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"@vlad-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")


@pytest.fixture
def listener(address: str) -> Iterator[Listener]:
    listener = Listener(address)
    yield listener
    listener.socket.close()


def test_every_message(listener: Listener, address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address})
    assert notifier.enabled
    assert notifier.ready("arm ready")
    assert notifier.status("loading\nWATCHDOG=1\n teabag")
    assert notifier.extend_timeout(1.5)
    assert notifier.stopping()
    assert listener.received() == [
        "READY=1\nSTATUS=arm ready",
        "STATUS=loading WATCHDOG=1 teabag",
        "EXTEND_TIMEOUT_USEC=1500000",
        "STOPPING=1",
    ]
    assert (notifier.sent, notifier.failed) == (4, 0)
    notifier.close()
    assert not notifier.stopping()


def test_watchdog_is_fed_at_a_quarter_of_its_interval(listener: Listener, address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000"})
    fed = [now for now in range(0, 2_000_000_000, 20_000_000) if notifier.watchdog(now)]
    assert fed == [0, 500_000_000, 1_000_000_000, 1_500_000_000]
    assert listener.received() == ["WATCHDOG=1"] * 4


def test_without_a_watchdog_nothing_is_fed(listener: Listener, address: str) -> None:
    assert not Notifier({"NOTIFY_SOCKET": address}).watchdog(10**12)
    other = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    assert not Notifier(other).watchdog(10**12)
    assert listener.received() == []


def test_without_systemd_every_call_is_harmless() -> None:
    notifier = Notifier({})
    assert not notifier.enabled
    assert not any(
        [notifier.ready(), notifier.status("x"), notifier.stopping(), notifier.watchdog(10**12)]
    )
    assert (notifier.sent, notifier.failed) == (0, 0)


def test_a_full_or_absent_socket_is_counted_and_never_waits(tmp_path: Path) -> None:
    absent = Notifier({"NOTIFY_SOCKET": str(tmp_path / "absent"), "WATCHDOG_USEC": "1000"})
    assert not absent.ready()
    assert not absent.watchdog(10**12)
    assert absent.failed == 2
    listener = Listener(str(tmp_path / "full"))
    full = Notifier({"NOTIFY_SOCKET": str(tmp_path / "full")})
    while full.status("x"):
        assert full.sent < 100_000
    assert full.failed == 1
    assert len(listener.received()) == full.sent
    assert full.status("again")
    listener.socket.close()


def test_a_long_status_is_cut(listener: Listener, address: str) -> None:
    assert Notifier({"NOTIFY_SOCKET": address}).status("x" * 100_000)
    assert listener.received() == ["STATUS=" + "x" * 256]


@pytest.mark.parametrize("address", ["relative", "vsock:2:1", "/" + "x" * 200])
def test_bad_address(address: str) -> None:
    with pytest.raises(ConfigError, match="NOTIFY_SOCKET"):
        Notifier({"NOTIFY_SOCKET": address})


def test_watchdog_usec() -> None:
    assert watchdog_usec({}) == 0
    assert watchdog_usec({"WATCHDOG_USEC": "2000000"}) == 2_000_000
    assert watchdog_usec({"WATCHDOG_USEC": "5", "WATCHDOG_PID": "42"}, pid=42) == 5
    assert watchdog_usec({"WATCHDOG_USEC": "5", "WATCHDOG_PID": "42"}, pid=43) == 0


@pytest.mark.parametrize("text", ["", "0", "-1", "1e6", "2s", "٣", "9" * 30])
@pytest.mark.parametrize("name", ["WATCHDOG_USEC", "WATCHDOG_PID"])
def test_bad_watchdog_numbers(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=name):
        watchdog_usec({"WATCHDOG_USEC": "5", "WATCHDOG_PID": "5", name: text})
