"""`vladctl top`: what it shows, that it fits, and that it drives a real terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pyte
import pytest

from vlad.top_screen import ASCII, UNICODE, Glyphs, History, columns, rail, screen

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper", "extra_1", "extra_2")
NOW_NS = 100 * 10**9


def joint(position: float = 0.25, **more: Any) -> dict[str, Any]:
    return {"goal": 0.5, "position": position, "min": -1.0, "max": 1.0, "temperature_c": 30, "voltage_v": 12.1,
            "load": -0.12, "status": 0, **more}  # fmt: skip


def fault(number: int, reaction: str = "hold") -> dict[str, Any]:
    return {"id": number, "name": f"name_{number}", "title": f"Title {number}", "reaction": reaction,
            "active": True, "latched": number % 2 == 0, "since_ns": NOW_NS - 3 * 10**9, "count": 1}  # fmt: skip


def status(joints: int = 6, faults: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "mode": "engaged", "reaction": "none", "why_not_engageable": [], "board": "imx95", "uptime_s": 3725.0,
        "queue_depth": 25, "t_execution_ms": 833.0, "t_inference_ms": {"p50": 200.0, "p99": 300.0, "predicted": 250.0},
        "stages_ms": {"prefix": {"p50": 120.0, "p99": 130.0}, "expert": {"p50": 80.0, "p99": 90.0}},
        "chunks": {"accepted": 12, "rejected": {"late": 2}},
        "servo": {"rate_hz": 100, "realtime": True, "wake_us": {"p99": 49.0, "max": 640.0}, "bus_us": {"p99": 3700.0},
                  "overruns": 1},
        "execution": {"engaged_ticks": 1000, "covered_ticks": 900, "gaps": 3},
        "faults": [fault(n) for n in range(1, faults + 1)],
        "arm": {"torque": True, "joints": {name: joint() for name in JOINTS[:joints]}},
        "policy": {"name": "sweep.vlad", "mode": "async", "rate_hz": 30.0, "chunk_size": 50, "task": "Sweep the arm.",
                   "threshold_ms": 900.0, "ladder": {"full": {"requests": 10}, "state_only": {"requests": 2}}},
        **more,
    }  # fmt: skip


def text(state: dict[str, Any], width: int = 80, height: int = 24, glyphs: Glyphs = UNICODE, **more: Any) -> list[str]:
    history = History()
    history.add(state)
    lines = screen(state, history, now_ns=NOW_NS, width=width, height=height, glyphs=glyphs, **more)
    return ["".join(part for part, _ in line) for line in lines]


@pytest.mark.parametrize("joints", [1, 6, 8])
@pytest.mark.parametrize("faults", [0, 1, 9])
@pytest.mark.parametrize("size", [(80, 24), (60, 24), (132, 43)])
def test_the_view_fits_and_keeps_its_keys(joints: int, faults: int, size: tuple[int, int]) -> None:
    lines = text(status(joints, faults), *size)
    assert len(lines) == size[1]
    assert max(map(len, lines)) <= size[0]
    assert "SPACE hold" in lines[-1]
    assert all(any(line.startswith(f" {name[:14]}") for line in lines) for name in JOINTS[:joints])


def test_what_an_operator_must_see_is_in_80_by_24() -> None:
    page = "\n".join(text(status(6, 2)))
    for piece in ("ENGAGED", "sweep.vlad async 30 Hz x 50", "up 1:02:05", "queue 25 of 50", "T_execution 833 ms",
                  "T_inference 250 ms", "12 accepted", "2 late", "idle 10 %", "3 gaps", "full 10 state_only 2",
                  "prefix 120 ms p99 130 ms", "late p99 49 us", "bus p99 3.7 ms", "F01 name_1: Title 1  hold, 3 s",
                  "F02 name_2: Title 2  hold, latched, 3 s", "12.1 V", "-12%", "torque on"):  # fmt: skip
        assert piece in page, piece


def test_more_faults_than_lines_are_counted() -> None:
    assert "and 6 more: vladctl status" in "\n".join(text(status(6, 10)))


def test_an_idle_daemon_and_a_strange_one() -> None:
    page = "\n".join(text(status(mode="ready", policy=None, t_inference_ms={"predicted": None}, stages_ms={},
                                 why_not_engageable=["no policy is loaded: `vladctl load PATH`"], execution={})))
    assert "READY" in page and "not engageable: no policy is loaded" in page
    assert text({})[0].strip()  # of another version: nothing where it knows nothing
    assert text(status(), width=40) == ["at least 60 columns, please"]


def test_a_task_cannot_command_the_terminal() -> None:
    state = status()
    state["policy"]["name"] = "\x1b[2Jevil\x07"
    assert all(line.isprintable() for line in text(state))


def test_ascii_only() -> None:
    assert "".join(text(status(6, 3), glyphs=ASCII)).isascii()


def test_a_plot_shows_the_newest_values_at_their_height() -> None:
    plot = columns([10, 0, 5, 10], 3, 2, 10, UNICODE)
    assert plot == ["  █", " ██"]
    assert columns([99], 1, 2, 10, UNICODE) == ["█", "█"]  # beyond the top: full
    assert columns([5], 1, 1, 0, UNICODE) == [" "]


def test_a_joint_outside_its_limits_is_marked() -> None:
    inside = rail(-1, 1, 0.0, 0.5, width=21, glyphs=UNICODE)
    assert "".join(char for char, _ in inside) == "─" * 10 + "│" + "─" * 4 + "●" + "─" * 5
    assert rail(-1, 1, 0.0, 1.2, width=21, glyphs=UNICODE)[-1] == ("●", "bad")


def run_in_terminal(program: str, keys: bytes, until: str, after: str = "") -> tuple[Any, int]:
    """The program in an 80x24 terminal: waits for `until`, types `keys`; the screen then, and the exit status."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    child = subprocess.Popen([sys.executable, "-c", program], stdin=slave, stdout=slave, stderr=slave,
                             env={**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"},
                             start_new_session=True)  # fmt: skip
    os.close(slave)
    view = pyte.Screen(80, 24)
    stream = pyte.ByteStream(view)
    shown, typed, end = None, False, time.monotonic() + 60
    while time.monotonic() < end:
        if select.select([master], [], [], 0.1)[0]:
            try:
                data = os.read(master, 65536)
            except OSError:
                break  # the other end is closed
            stream.feed(data)
        page = "\n".join(view.display)
        if until in page and not typed:
            os.write(master, keys)
            typed = True
        if typed and after and after in page and shown is None:
            shown = list(view.display)
            os.write(master, b"q")
        shown = shown or (list(view.display) if typed and not after else None)
        if child.poll() is not None:
            break
    os.close(master)
    return shown, child.wait(20)


PROGRAM = """
import json, sys
from pathlib import Path
from vlad.top import run
def ask(verb):
    if verb == "hold":
        {hold}
    return json.loads(Path({path!r}).read_text())
sys.exit(run(ask, 0.05, (ConnectionError,)))
"""


def test_it_drives_a_terminal_and_ends_with_q(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text(json.dumps(status(6, 2)))
    shown, code = run_in_terminal(PROGRAM.format(path=str(path), hold="pass"), b"q", "SPACE hold")
    assert code == 0
    assert shown[0].startswith(" ENGAGED") and shown[23].startswith(" q quit")


def test_a_space_holds_and_a_hold_that_fails_is_shouted(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text(json.dumps(status()))
    program = PROGRAM.format(path=str(path), hold="raise ConnectionError('nobody there')")
    shown, code = run_in_terminal(program, b" ", "SPACE hold", after="HOLD FAILED: nobody there")
    assert shown is not None and code == 0
