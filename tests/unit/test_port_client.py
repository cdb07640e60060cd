"""Asking the simulator's port: what is refused, and what does not answer, is said."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from vlad.errors import ConfigError, DeviceError
from vlad.sim.control_port import ControlPort
from vlad.sim.port_client import ask


def _apply(command: Mapping[str, Any]) -> dict[str, Any]:
    if command["cmd"] == "world":
        return {"cluster": 3}
    raise ConfigError("there is no such command")


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Path]:
    """A port that is served until the test ends."""
    import select

    path, ended = tmp_path / "sim.sock", threading.Event()
    served = ControlPort(str(path), _apply)

    def serve() -> None:
        while not ended.is_set():
            for ready in select.select(served.sockets(), [], [], 0.02)[0]:
                served.serve(ready)

    thread = threading.Thread(target=serve)
    thread.start()
    yield path
    ended.set()
    thread.join()
    served.close()


def test_an_answer_comes_back(port: Path) -> None:
    assert ask(port, {"cmd": "world"}) == {"ok": True, "cluster": 3}


def test_a_refusal_is_an_error(port: Path) -> None:
    with pytest.raises(DeviceError, match="simulator's port: fly: there is no such command"):
        ask(port, {"cmd": "fly"})


def test_where_no_simulator_is(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="simulator's port: world: "):
        ask(tmp_path / "none.sock", {"cmd": "world"})
