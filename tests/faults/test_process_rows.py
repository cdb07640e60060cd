"""Rows about the process and its threads: 25 (no real time), 26 (a thread dies), 28 (it crashes), 30
(SIGTERM), 43 (the host loses power), 50 (modules of another build)."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import daemon_process, daemons, simulator
from tests.control_peer import Peer
from tests.daemons import ScriptedPolicy, engage, wait_for
from tests.pty_servos import joints
from tests.survival import Survival
from vlad import abi
from vlad.cli import ask
from vlad.control import Control
from vlad.daemon import Daemon
from vlad.safe_stop import write_state
from vlad.servo import now_ns
from vlad.wire_witness import goal_frames, judge

ROOT = Path(__file__).resolve().parents[2]
REST_POSE = {"shoulder_pan": 0.3, "shoulder_lift": -0.4, "elbow_flex": 0.4, "wrist_flex": 0.2,
             "wrist_roll": 0.1, "gripper": 0.4}


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[simulator.Simulator]:
    with simulator.running(tmp_path_factory.mktemp("sim"), "--width", "96", "--height", "96") as s:
        yield s


# --- 25 -----------------------------------------------------------------------------------------

UNPRIVILEGED = """
import json, os, resource, sys, time
from vlad.servo import ENGAGE, JointLimits, MemoryArm, Servo, ServoConfig

resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
allow = sys.argv[1] == "allowed"
servo = Servo(ServoConfig((JointLimits(-1.0, 1.0),), 33_333_333, 50, allow_non_realtime=allow))
arm = MemoryArm([0.0])
servo.adopt_memory(arm, False, [0.0])
reason = servo.start(80, -1)
time.sleep(0.2)
servo.request(ENGAGE)
time.sleep(0.2)
report = servo.report()
servo.stop()
print(json.dumps({"reason": reason, "why_not": report["why_not"], "mode": report["mode"],
                  "writes": arm.judge()["writes"], "realtime": report["realtime"]}))
"""


@pytest.mark.fault(25)
@pytest.mark.parametrize("allowed", [False, True], ids=["strict", "allowed"])
def test_f25_without_rights_engage_is_refused(allowed: bool, survival: Survival) -> None:
    run = subprocess.run([sys.executable, "-c", UNPRIVILEGED, "allowed" if allowed else "strict"],
                         capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    assert not said["realtime"] and "RLIMIT_RTPRIO" in said["reason"], said
    assert "MEMLOCK" in said["reason"]
    if allowed:
        assert "realtime" not in said["why_not"]
    else:
        assert said["mode"] == "ready" and "realtime" in said["why_not"] and said["writes"] == 0
    survival(25, note="real threads without rights, another user: engage refused, unless allowed")


def engaged_in_spite_of_noise(daemon: Daemon) -> None:
    """A busy machine stops simulator or cameras for as long as a fault needs: then once more."""
    for _ in range(3):
        try:
            engage(daemon)
            return
        except AssertionError:
            daemon.clear()
    engage(daemon)


# --- 26 -----------------------------------------------------------------------------------------


def raises(*_: Any, **__: Any) -> None:
    raise MemoryError("injected")


class BrokenInbox:
    get = staticmethod(raises)


def in_capture(daemon: Daemon, _: Control) -> None:
    daemon.capture.look = raises  # type: ignore[method-assign]


def in_vision(daemon: Daemon, _: Control) -> None:
    daemon.inference._plan = raises  # type: ignore[method-assign, assignment]


def in_expert(daemon: Daemon, _: Control) -> None:
    daemon.inference._inbox = BrokenInbox()  # type: ignore[assignment]


def in_surroundings(daemon: Daemon, _: Control) -> None:
    daemon.surroundings.poll = raises  # type: ignore[method-assign]


def in_files(daemon: Daemon, _: Control) -> None:
    daemon.files.poll = raises  # type: ignore[method-assign]


def in_flight(daemon: Daemon, _: Control) -> None:
    daemon.flight._serve = raises  # type: ignore[method-assign]


def in_supervisor(daemon: Daemon, _: Control) -> None:
    daemon.supervise = raises  # type: ignore[method-assign]


def in_control(daemon: Daemon, control: Control) -> None:
    control._take = raises  # type: ignore[method-assign]
    with Peer(Path(control.path)) as peer:
        peer.send(b'{"v":1,"id":1,"verb":"status"}\n')
        wait_for(lambda: not control._threads[0].is_alive(), 10)


def in_control_changes(daemon: Daemon, control: Control) -> None:
    control._answer = raises  # type: ignore[method-assign]
    with Peer(Path(control.path)) as peer:
        peer.send(b'{"v":1,"id":1,"verb":"clear"}\n')
        wait_for(lambda: not control._threads[1].is_alive(), 10)


@pytest.mark.fault(26)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("kill", [in_capture, in_vision, in_expert, in_surroundings, in_files, in_flight,
                                  in_supervisor, in_control, in_control_changes])
def test_f26_an_exception_in_each_thread(
    sim: simulator.Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    kill: Callable[[Daemon, Control], None], survival: Survival,
) -> None:
    config = daemons.config_for(sim, tmp_path)
    with daemons.running(config, ScriptedPolicy()) as daemon:
        monkeypatch.setattr(threading, "excepthook", daemon.thread_died)
        control = Control(config.control, daemon, daemon.servo, path=tmp_path / "socket")
        control.start()
        try:
            engaged_in_spite_of_noise(daemon)
            injected_ns = now_ns()
            kill(daemon, control)
            wait_for(lambda: daemon.exit_status == 1, 10)
            wait_for(lambda: daemon.servo.report()["mode"] != "engaged", 5)
            assert "thread_died" in [f["name"] for f in daemon.status()["faults"]]
        finally:
            control.stop()
    # What the loop tells has the time at which its tick began, and that may be the one that it was injected in.
    events = [e for e in daemon.events.since(0) if e["t_ns"] >= injected_ns - config.period_ns]
    died = [e for e in events if e["event"] == "stage_died"]
    assert died and "MemoryError: injected" in died[0]["error"]
    braked = next(e for e in events if e["event"] == "mode" and e["from"] == "engaged")
    assert all(sim.command("status")["torque"].values())
    survival(26, react_ms=max(0.0, (braked["t_ns"] - died[0]["t_ns"]) / 1e6), clock="machine",
             note=f"an exception {kill.__name__.replace('_', ' ')}: HOLD, then the process ends with 1")


# --- 28 -----------------------------------------------------------------------------------------


@pytest.mark.fault(28)
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_f28_a_crash_in_motion(
    sim: simulator.Simulator, tmp_path: Path, number: signal.Signals, survival: Survival
) -> None:
    config = daemons.config_for(sim, tmp_path)
    daemon = daemon_process.start(config, tmp_path)
    try:
        daemon_process.engaged_and_moving(config)
        killed_ns = now_ns()
        daemon.send_signal(number)
        assert daemon.wait(10) == -number
    finally:
        daemon.kill()
        daemon.wait()
    rest = daemon_process.rest_ms(sim, killed_ns)
    last = list(goal_frames(sim.record))[-1][1]
    stopped = daemon_process.safe_stop(sim)
    assert stopped.returncode == 0, stopped.stderr
    assert list(goal_frames(sim.record))[-1][1] == last, "a goal in force is left alone"
    assert all(sim.command("status")["torque"].values())
    verdict = judge(sim.record, config.joints, config.period_ns / 1e9)
    assert verdict.ok, verdict.violations
    survival(28, rest_ms=rest, clock="machine",
             note=f"{number.name} in motion: the servos end at the last goal, one step away")


# --- 30 -----------------------------------------------------------------------------------------


def resting(speed: float) -> Callable[[str], str]:
    pose = "\n".join(f"{name} = {value}" for name, value in REST_POSE.items())

    def edit(text: str) -> str:
        text = re.sub(r"^park_speed = .*\n", "", text, flags=re.M)
        return text.replace("[arm]\n", f"[arm]\npark_speed = {speed}\n", 1).replace(
            "[servo]\n", f"[arm.rest_pose]\n{pose}\n\n[servo]\n", 1)

    return edit


def terminated(sim: simulator.Simulator, directory: Path, config: Any, injected: str = "") -> tuple[float, float, int]:
    """(s until the process has ended, ms until the last change of a goal, exit status)."""
    daemon = daemon_process.start(config, directory, injected)
    try:
        daemon_process.engaged_and_moving(config)
        asked_ns = now_ns()
        daemon.send_signal(signal.SIGTERM)
        status = daemon.wait(40)
        ended_s = (now_ns() - asked_ns) / 1e9
    finally:
        daemon.kill()
        daemon.wait()
    frames = list(goal_frames(sim.record))
    changed = [t for (t, goals), (_, before) in zip(frames[1:], frames, strict=False) if goals != before]
    return ended_s, max(0.0, (changed[-1] - asked_ns) / 1e6), status


@pytest.mark.fault(30)
def test_f30_without_a_rest_pose_it_holds_with_torque(
    sim: simulator.Simulator, tmp_path: Path, survival: Survival
) -> None:
    sim.command("clear_all")
    config = daemons.config_for(sim, tmp_path)
    ended_s, rest_ms, status = terminated(sim, tmp_path, config)
    assert status == 0 and ended_s < 15
    assert all(sim.command("status")["torque"].values())
    survival(30, rest_ms=rest_ms, clock="machine",
             note=f"SIGTERM in motion: HOLD, torque stays; the process ended after {ended_s:.1f} s")


@pytest.mark.fault(30)
def test_f30_with_a_rest_pose_it_parks_and_lets_go_there(
    sim: simulator.Simulator, tmp_path: Path, survival: Survival
) -> None:
    sim.command("clear_all")
    config = daemons.config_for(sim, tmp_path, edit=resting(0.3))
    ended_s, rest_ms, status = terminated(sim, tmp_path, config)
    assert status == 0 and ended_s < 15
    state = sim.command("status")
    assert not any(state["torque"].values())
    for joint in config.joints:
        assert abs(state["goals"][str(joint.id)] - joint.to_ticks(REST_POSE[joint.name])) <= 1
    survival(30, rest_ms=rest_ms, clock="machine",
             note=f"rest pose configured: parked, torque off there; ended after {ended_s:.1f} s")


@pytest.mark.fault(30)
def test_f30_a_park_that_takes_too_long_and_a_stage_that_hangs(
    sim: simulator.Simulator, tmp_path: Path, survival: Survival
) -> None:
    sim.command("clear_all")
    config = daemons.config_for(sim, tmp_path, edit=resting(0.01))
    hang = "import time; d.surroundings.poll = lambda now: time.sleep(1000)"
    ended_s, rest_ms, status = terminated(sim, tmp_path, config, hang)
    assert status == 0 and ended_s < 15, "systemd kills after 15 s"
    assert all(sim.command("status")["torque"].values()), "not at the rest pose: it holds"
    survival(30, rest_ms=rest_ms, clock="machine",
             note=f"a park too slow and a stage that hangs: held, ended after {ended_s:.1f} s of 15")


LOADING = """
import sys, time
from vlad import daemon, main

daemon.load = lambda *bundle, **more: time.sleep(60)
sys.exit(main.main(["run", "--config", sys.argv[1]]))
"""


@pytest.mark.fault(30)
def test_f30_while_a_bundle_loads(sim: simulator.Simulator, tmp_path: Path, survival: Survival) -> None:
    """The handler of a signal runs between two steps of the main thread: a load must not be one of them."""
    sim.command("clear_all")
    (tmp_path / "manifest.json").write_text("{}")
    config = daemons.config_for(sim, tmp_path, extra=f'\n[policy]\nbundle = "{tmp_path}"\n')
    said = tmp_path / "daemon.log"
    with said.open("wb") as log:
        daemon = subprocess.Popen([sys.executable, "-c", LOADING, str(config.path)], stdout=log, stderr=log,
                                  cwd=ROOT, env={**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)})
    try:
        wait_for(lambda: Path(config.control.socket).exists(), 30, "socket")
        status = wait_for(lambda: ask(config.control.socket, "status", {}, 5.0), 30)
        assert status["policy"] is None
        wait_for(lambda: ask(config.control.socket, "status", {}, 5.0)["mode"] != "offline", 30)
        time.sleep(1.0)
        asked_ns = now_ns()
        daemon.send_signal(signal.SIGTERM)
        ended = daemon.wait(30)
        ended_s = (now_ns() - asked_ns) / 1e9
    finally:
        daemon.kill()
        daemon.wait()
    assert ended == 0 and ended_s < 10, said.read_text()
    assert "stopped_while_loading" in said.read_text()
    survival(30, note=f"SIGTERM while a bundle loads: the process ended after {ended_s:.1f} s")


# --- 43 -----------------------------------------------------------------------------------------


@pytest.mark.fault(43)
def test_f43_a_state_file_is_whole_whenever_its_writer_dies(tmp_path: Path, survival: Survival) -> None:
    """200 times: a child rewrites it without pause, and is killed at a random moment."""
    path, kills, rng = tmp_path / "safe-stop", 200, random.Random(43)
    ports = ("/dev/ttyACM0", "/dev/" + "x" * 200)
    whole = set()
    for port in ports:
        write_state(path, port, 1_000_000, joints(), 0.2)
        whole.add(path.read_bytes())
    seen, torn, midway = set(), 0, 0
    for _ in range(kills):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                while True:
                    for port in ports:
                        write_state(path, port, 1_000_000, joints(), 0.2)
                        os.write(writer, b".")
            finally:
                os._exit(1)
        os.read(reader, 1)  # it is at it
        time.sleep(rng.uniform(0.0, 0.004))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
        midway += (tmp_path / "safe-stop.new").exists()
        found = path.read_bytes()
        torn += found not in whole
        seen.add(found)
    assert torn == 0 and seen <= whole and midway > 0
    survival(43, note=f"kill -9 of a writer of state, {kills} times, {midway} of them in the middle: never "
                      "torn; a boot starts disengaged and adopts the goals in force")


@pytest.mark.fault(43)
def test_f43_a_file_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b)))
    write_state(tmp_path / "safe-stop", "/dev/ttyACM0", 1_000_000, joints(), 0.2)
    assert done == ["fsync", "rename", "fsync"]


# --- 50 -----------------------------------------------------------------------------------------

OTHER_MODULE = """
#include <Python.h>
static struct PyModuleDef definition = { PyModuleDef_HEAD_INIT, "gate", 0, -1, 0, 0, 0, 0, 0 };
PyMODINIT_FUNC PyInit_gate(void)
{
    PyObject *module = PyModule_Create(&definition);
#ifdef NUMBER
    PyModule_AddIntConstant(module, "ABI", NUMBER);
#endif
    return module;
}
"""
START = """
import importlib.machinery, importlib.util, sys
loader = importlib.machinery.ExtensionFileLoader("vlad._native.gate", sys.argv[1])
spec = importlib.util.spec_from_file_location("vlad._native.gate", sys.argv[1], loader=loader)
import vlad._native
sys.modules["vlad._native.gate"] = importlib.util.module_from_spec(spec)
from vlad.main import main
sys.exit(main(["run", "--config", "/nowhere.toml"]))
"""


@pytest.mark.fault(50)
@pytest.mark.parametrize("number", ["999", "none"])
def test_f50_a_module_of_another_build_refuses_the_start(
    tmp_path: Path, number: str, survival: Survival
) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, module = tmp_path / "gate.c", tmp_path / "gate.so"
    source.write_text(OTHER_MODULE)
    subprocess.run([compiler, "-shared", "-fPIC", f"-I{sysconfig.get_path('include')}",
                    *([f"-DNUMBER={number}"] if number != "none" else []), str(source), "-o", str(module)],
                   check=True)
    run = subprocess.run([sys.executable, "-c", START, str(module)], capture_output=True, text=True,
                         cwd=ROOT, timeout=60, check=False)
    assert run.returncode == 1
    assert f"gate has {number}; install vlad anew" in run.stderr
    assert "/nowhere.toml" not in run.stderr, "nothing else was tried"
    survival(50, note=f"a compiled module of another number, or without one: no start ({number})")


@pytest.mark.fault(50)
def test_f50_python_and_the_header_agree_on_the_number() -> None:
    (number,) = re.findall(r"^#define VLAD_ABI (\d+)", (ROOT / "csrc/vlad.h").read_text(), re.M)
    assert int(number) == abi.ABI
    abi.check()
