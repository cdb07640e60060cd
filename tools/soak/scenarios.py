"""What can go wrong in a real-time soak: how it is injected, what must notice it, how it ends.

A scenario names rows of the fault table; reactions and bounds come from there. Where no row is named,
the daemon must go on as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tools.soak.robot import WORKER_LIMIT_MS, Robot
from vlad.cli import Declined

JOINTS = range(1, 7)
CAGE_TICKS = 35
ASTRAY_TICKS = 200  # 18 degrees, more than arm.following_limit_rad at any load
CAMERAS = ("top", "gripper", "left")
Act = Callable[[Robot, random.Random], Any]


def nothing(robot: Robot, rng: random.Random) -> None: ...


def clear_all(robot: Robot, rng: random.Random) -> None:
    robot.fault("clear_all")


@dataclass(frozen=True, slots=True)
class Scenario:
    """rows: one of these must become active, the first is the one meant; empty = the arm goes on.
    along: rows that may come with it. late_ms: what the configuration or the injection itself adds to
    the row's bound. lasts_s: how long it stays, from and to. operator: the stop is the operator's."""

    name: str
    inject: Act
    rows: tuple[str, ...] = ()
    along: frozenset[str] = frozenset()
    restore: Act = clear_all
    lasts_s: tuple[float, float] = (0.5, 3.0)
    late_ms: float = 0.0
    operator: bool = False
    weight: int = 2
    may: bool = False  # whether it shows depends on the motion: `check` knows
    check: Act = field(default=nothing)  # raises AssertionError, while the fault is there


def _joint(rng: random.Random) -> int:
    return rng.choice(JOINTS)


def _body_joint(rng: random.Random) -> int:
    return rng.choice(range(1, 6))


def fault(cmd: str, **fields: Any) -> Act:
    """A command of the fault port; a callable field is drawn from the random numbers."""
    def act(robot: Robot, rng: random.Random) -> None:
        robot.fault(cmd, **{k: v(rng) if callable(v) else v for k, v in fields.items()})
    return act


def stop_process(name: str, low_s: float, high_s: float) -> Act:
    def act(robot: Robot, rng: random.Random) -> None:
        process = getattr(robot, name)
        process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(rng.uniform(low_s, high_s))
        finally:
            process.send_signal(signal.SIGCONT)
    return act


def worker_signal(number: signal.Signals) -> Act:
    def act(robot: Robot, rng: random.Random) -> None:
        workers = robot.workers()
        assert workers, "the daemon has no worker"
        os.kill(rng.choice(workers), number)
    return act


def cage(robot: Robot, rng: random.Random) -> None:
    """A wall on either side of the fastest body joint, three degrees away: it must run into one."""
    before = robot.fault("status")["ticks"]
    time.sleep(0.2)
    after = robot.fault("status")["ticks"]
    joint = max(("1", "2", "3", "4", "5"), key=lambda j: abs(after[j] - before[j]))
    for side in (-1, 1):
        robot.fault("obstacle", id=int(joint), ticks=max(0, min(4095, after[joint] + side * CAGE_TICKS)))


def obeyed(robot: Robot, rng: random.Random) -> None:
    """Whether the sweep led it so far into the wall is known to the simulator: then it must be held."""
    before = robot.fault("status")
    time.sleep(0.5)
    seen, status = robot.fault("status"), robot.ask("status")
    astray = [j for j in ("1", "2", "3", "4", "5")
              if min(abs(s["goals"][j] - s["ticks"][j]) for s in (before, seen)) > ASTRAY_TICKS]
    assert not astray or status["mode"] != "engaged", f"joint {astray} is off its goal, and the arm engaged"


# --- the control socket ------------------------------------------------------------------------


def _raw(robot: Robot) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(5.0)
    client.connect(robot.socket)
    return client


def abuse(robot: Robot, rng: random.Random) -> None:
    """Garbage, wrong JSON, an endless line, a client that never finishes, one that never reads."""
    with contextlib.ExitStack() as stack:
        for payload in rng.sample((
            rng.randbytes(4000) + b"\n",
            b'{"v":1,"id":1,"verb":"engage","args":{"x":' + b"[" * 500 + b"\n",
            b"A" * 300_000,
            b'{"v":1,"id":1,"verb":"status"',
            b'{"v":1,"id":1,"verb":"status"}\n' * 2000,
            b'{"v":1,"id":1,"verb":"engage","args":{"now":true}}\n',
            b'{"v":9,"id":1,"verb":"limp"}\n',
        ), 4):
            client = stack.enter_context(_raw(robot))
            client.settimeout(1.0)
            with contextlib.suppress(OSError):
                client.sendall(payload)
        time.sleep(rng.uniform(0.2, 1.5))


def flood(robot: Robot, rng: random.Random) -> None:
    """Two hundred connections; in their midst the operator's hold must be served."""
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            with contextlib.suppress(OSError):
                stack.enter_context(_raw(robot))
        robot.ask("hold")


def hold(robot: Robot, rng: random.Random) -> None:
    robot.ask(rng.choice(("hold", "stop")))


def hold_storm(robot: Robot, rng: random.Random) -> None:
    """hold, resume, engage and clear as fast as they can be said, ending with hold."""
    for _ in range(20):
        with contextlib.suppress(Declined):
            robot.ask(rng.choice(("hold", "resume", "engage", "clear")))
    robot.ask("hold")


def limp(robot: Robot, rng: random.Random) -> None:
    robot.ask("limp")


def must_refuse(verb: str, **args: Any) -> Act:
    def act(robot: Robot, rng: random.Random) -> None:
        try:
            robot.ask(verb, **args)
        except Declined:
            return
        raise AssertionError(f"{verb} {args} was granted")
    return act


def reload(robot: Robot, rng: random.Random) -> None:
    """Held, as it must be for that; then the same bundle once more."""
    robot.ask("hold")
    end = time.monotonic() + 5
    while robot.ask("status")["mode"] in ("engaged", "stopping") and time.monotonic() < end:
        time.sleep(0.02)
    robot.ask("load", 180.0, path=str(robot.out / "sweep.vlad"))
    robot.ask("task", text=robot.ask("status")["policy"]["tasks"][0])


def bad_bundle(robot: Robot, rng: random.Random) -> None:
    """Held; a bundle with one flipped byte is refused, and the one that runs stays."""
    robot.ask("hold")
    end = time.monotonic() + 5
    while robot.ask("status")["mode"] in ("engaged", "stopping") and time.monotonic() < end:
        time.sleep(0.02)
    before = robot.ask("status")["policy"]["path"]
    must_refuse("load", path=str(robot.out / "broken.vlad"))(robot, rng)
    assert robot.ask("status")["policy"]["path"] == before, "the bundle that ran is gone"


def second_daemon(robot: Robot, rng: random.Random) -> None:
    status, said = robot.beside(
        "run", "--config", str(robot.config_path), "--socket", str(robot.short / "second.sock"))
    assert status == 1, f"a second daemon ended with {status}: {said[-300:]}"
    assert str(robot.bus) in said or os.path.realpath(robot.bus) in said, said[-300:]


def bad_config(robot: Robot, rng: random.Random) -> None:
    wrong = robot.short / "wrong.toml"
    wrong.write_text(robot.config_path.read_text() + '\n[servo2]\nx = 1\n')
    status, said = robot.beside("run", "--config", str(wrong))
    assert status == 78 and "servo2" in said, (status, said[-300:])


# Rows that a stalled process or a slow machine brings with it, whatever was injected. A pty's bytes wait for a
# worker of the kernel that is not real time: at a load of 11 some goals arrive after they were looked for.
STALL = frozenset({"servo_deadline_missed", "supervisor_hung", "camera_stalled", "inference_hung",
                   "python_stalled", "queue_drained", "chunk_jump", "stale_chunk",
                   "servo_supply_lost", "servo_silent", "short_write", "camera_skew", "camera_frozen", "frame_bad"})
BUS = frozenset({"reply_corrupt", "bus_garbage", "servo_silent", "servo_supply_lost", "serial_unplugged",
                 "servo_voltage", "following_error", "brown_out", "servo_encoder",
                 "calibration_changed"})  # a bus that was away is one whose calibration is not compared
STALLING = frozenset({"daemon_stopped", "arm_stopped"})  # scenarios that stall something themselves
SILENT_MS = 200.0  # servo.silent_ms of the simulator's configuration is 250 ms, 50 by default

SCENARIOS: tuple[Scenario, ...] = (
    Scenario("unplug", fault("unplug"), ("serial_unplugged",), BUS, lasts_s=(0.2, 4.0)),
    Scenario("cut_supply", fault("cut_supply"), ("servo_supply_lost",), BUS, late_ms=SILENT_MS,
             lasts_s=(0.6, 4.0)),
    Scenario("silence", fault("silence", id=_joint), ("servo_silent",), BUS, late_ms=SILENT_MS,
             lasts_s=(0.6, 3.0)),
    # Five in a row are the row's. Of an arm that answers late, as on a busy machine, some count as missed.
    Scenario("corrupt_some", fault("corrupt", id=_joint, count=lambda r: r.randrange(8, 10)),
             ("reply_corrupt",), BUS, may=True),
    Scenario("corrupt_all", fault("corrupt", id=_joint, forever=True), ("bus_garbage", "reply_corrupt"), BUS),
    Scenario("drop_few", fault("drop", id=_joint, count=lambda r: r.randrange(1, 4)), weight=1),
    Scenario("drop_rate", fault("drop", rate=0.05), along=BUS, weight=1),
    Scenario("garbage", fault("garbage", bytes=lambda r: r.randrange(1, 400)), along=BUS, weight=1),
    Scenario("heat", fault("heat", id=_joint, celsius=lambda r: r.uniform(71, 90)),
             ("servo_over_temperature",)),
    Scenario("warm", fault("heat", id=_joint, celsius=lambda r: r.uniform(40, 58)), weight=1),
    Scenario("voltage", fault("voltage", volts=lambda r: r.uniform(5.0, 7.5)), ("servo_voltage", "brown_out"),
             BUS),
    Scenario("overload", fault("overload", id=_joint), ("servo_overload",), frozenset({"following_error"})),
    Scenario("encoder_jump", fault("encoder_jump", id=_body_joint,
                                   ticks=lambda r: r.choice((-1, 1)) * r.randrange(200, 500)),
             ("servo_encoder",), frozenset({"following_error"})),
    Scenario("obstacle", cage, ("following_error", "servo_overload"), late_ms=6000.0, lasts_s=(1.0, 3.0),
             may=True, check=obeyed),
    Scenario("camera_stall", fault("camera_stall", camera=lambda r: r.choice(CAMERAS)), ("camera_stalled",),
             STALL, late_ms=250.0),
    Scenario("camera_freeze", fault("camera_freeze", camera=lambda r: r.choice(CAMERAS)), ("camera_frozen",),
             STALL, late_ms=2000.0, lasts_s=(1.0, 3.0)),
    Scenario("camera_dark", fault("camera_dark", camera=lambda r: r.choice(CAMERAS)), ("camera_dark",),
             STALL, late_ms=500.0, lasts_s=(1.0, 3.0)),
    Scenario("daemon_stopped", stop_process("daemon", 0.6, 1.2), ("servo_deadline_missed",), STALL,
             late_ms=1200.0),
    Scenario("arm_stopped", stop_process("sim", 0.6, 1.2), ("servo_supply_lost", "servo_silent"),
             STALL | BUS, late_ms=SILENT_MS, weight=1),
    Scenario("worker_killed", worker_signal(signal.SIGKILL), ("inference_failed",), STALL, restore=nothing,
             late_ms=3000.0),
    Scenario("worker_stopped", worker_signal(signal.SIGSTOP), ("inference_hung", "inference_failed"),
             STALL | {"inference_failed"}, restore=nothing, late_ms=3000.0 + WORKER_LIMIT_MS, weight=1),
    Scenario("operator_hold", hold, ("operator_stop",), operator=True, restore=nothing),
    Scenario("hold_storm", hold_storm, ("operator_stop",), operator=True, restore=nothing, weight=1),
    Scenario("operator_limp", limp, ("operator_stop",), operator=True, restore=nothing, weight=1),
    Scenario("socket_abuse", abuse, restore=nothing),
    Scenario("socket_flood", flood, ("operator_stop",), operator=True, restore=nothing),
    Scenario("engage_twice", lambda robot, _: robot.ask("engage"), restore=nothing, weight=1),
    Scenario("load_in_motion", must_refuse("load", path="/nowhere.vlad"), restore=nothing, weight=1),
    Scenario("unknown_task", must_refuse("task", text="fly to the moon and back"), restore=nothing, weight=1),
    Scenario("reload", reload, ("operator_stop",), operator=True, restore=nothing, weight=1),
    Scenario("bad_bundle", bad_bundle, ("operator_stop",), operator=True, restore=nothing, weight=1),
    Scenario("second_daemon", second_daemon, restore=nothing, along=STALL, weight=1),
    Scenario("bad_config", bad_config, restore=nothing, along=STALL, weight=1),
)
