"""The link between servo loop and bus: what is handed over stays open until the loop gives it up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vlad import arm_link
from vlad import config as configuration
from vlad.arm_link import NOT_READ, ArmLink
from vlad.errors import DeviceError
from vlad.servo import now_ns

S = 1_000_000_000
NOW = now_ns()
CONFIG = Path(__file__).resolve().parent.parent.parent / "configs/so101-sim.toml"


SERVOS = SimpleNamespace(command_nu=(0,) * 6, command_ticks=(2048,) * 6, torque_mask=0,
                         calibration=(), settings=(), configured=(),
                         max_torque_permille=(1000,) * 6)


class Port:
    path = device = "/dev/servos"
    latency = None
    fd = 7
    open = True

    def close(self) -> None:
        self.open = False


class Loop:
    """The servo loop's side of the hand-over."""

    def __init__(self) -> None:
        self.adoptions = 0
        self.bus_up = False
        self.refuse: OSError | None = None

        self.handed_over = False

    def adopt_feetech(self, *_: object) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.handed_over = True

    def report(self) -> dict[str, Any]:
        return {"adoptions": self.adoptions, "bus_up": self.bus_up}

    def bus_counters(self) -> dict[str, int]:
        return {"frames": 5}


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> list[Port]:
    """Every port that was opened; the servos behind it are fine."""
    opened: list[Port] = []

    def open_port(*_: object) -> Port:
        opened.append(Port())
        return opened[-1]

    monkeypatch.setattr(arm_link, "open_port", open_port)
    monkeypatch.setattr(arm_link, "Bus", lambda *_, **__: None)
    monkeypatch.setattr(arm_link, "bring_up", lambda *_: SERVOS)
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    return opened


def linked(loop: Loop, calibration_changed: Callable[[], None] = lambda: None) -> ArmLink:
    config = configuration.load(CONFIG, machine=False)
    link = ArmLink(config, loop, calibration_changed)  # type: ignore[arg-type]
    link.connect()
    return link


def test_a_bus_that_the_loop_has_not_taken_yet_stays_open(ports: list[Port]) -> None:
    loop = Loop()
    link = linked(loop)
    for second in range(20):  # however long the loop takes
        link.poll(NOW + second * S)
    assert ports[0].open
    assert len(ports) == 1
    loop.adoptions, loop.bus_up = 1, True
    link.poll(NOW + 20 * S)
    assert ports[0].open


def test_a_bus_that_the_loop_gave_up_is_closed_and_reopened(ports: list[Port]) -> None:
    loop = Loop()
    link = linked(loop)
    loop.adoptions = 1
    for tenth in range(10):
        link.poll(NOW + tenth * S // 10)
    assert not ports[0].open
    assert ports[1].open
    assert len(ports) == 2
    assert link.counters() == {"frames": 10, "reopened": 1}


def test_a_port_that_is_not_taken_over_is_closed(ports: list[Port]) -> None:
    loop = Loop()
    loop.refuse = OSError(16, "Device or resource busy")
    with pytest.raises(DeviceError, match="busy"):
        linked(loop)
    assert not ports[0].open


@pytest.mark.fault(41)
def test_calibration_is_judged_before_the_loop_gets_the_bus(
    ports: list[Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first moment to the hand-over no refresh may say that it is compared and good."""
    loop = Loop()
    said: list[tuple[bool, str]] = []
    differs = SimpleNamespace(**{**vars(SERVOS), "calibration": ("pan: homing offset is 1, 2",)})
    monkeypatch.setattr(arm_link, "bring_up", lambda *_: differs)
    link = ArmLink(configuration.load(CONFIG, machine=False), loop,  # type: ignore[arg-type]
                   lambda: said.append((loop.handed_over, link.calibration_problem)))
    assert link.calibration_problem == NOT_READ
    link.connect()
    assert said == [(False, NOT_READ), (False, "pan: homing offset is 1, 2")]
    said.clear()
    monkeypatch.setattr(arm_link, "bring_up", lambda *_: SERVOS)
    loop.handed_over = False
    link.connect()
    assert said == [(False, NOT_READ), (False, "")]
    assert loop.handed_over
