"""Rows of the fault table against the whole daemon over a simulated bus and cameras, in real time.

Bounds on this shared machine are generous; the exact ones are in test_servo_rows.py, in ticks.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import daemons, simulator
from tests.daemons import ScriptedPolicy, engage, wait_for
from tests.survival import Survival
from vlad.daemon import Daemon
from vlad.errors import DeviceError, Refused
from vlad.faults import BY_NAME
from vlad.wire_witness import goal_frames


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[simulator.Simulator]:
    with simulator.running(tmp_path_factory.mktemp("sim"), "--width", "96", "--height", "96") as s:
        yield s


@pytest.fixture
def policy() -> ScriptedPolicy:
    return ScriptedPolicy()


@pytest.fixture
def daemon(sim: simulator.Simulator, policy: ScriptedPolicy, tmp_path: Path) -> Iterator[Daemon]:
    sim.command("clear_all")
    with daemons.running(daemons.config_for(sim, tmp_path), policy) as d:
        yield d
    sim.command("clear_all")


def faults(daemon: Daemon) -> list[str]:
    return [f["name"] for f in daemon.status()["faults"]]


def test_it_engages_moves_and_holds(daemon: Daemon) -> None:
    engage(daemon)
    time.sleep(2.0)
    status = daemon.status()
    assert status["mode"] == "engaged", status["faults"]
    assert status["execution"]["covered_ticks"] > 0
    daemon.hold()
    wait_for(lambda: daemon.status()["mode"] == "holding")
    assert daemon.status()["arm"]["torque"]
    daemon.resume()
    wait_for(lambda: daemon.status()["mode"] == "engaged")


@pytest.mark.fault(1)
@pytest.mark.fault(2)
def test_f02_a_stalled_camera_holds_and_clears_to_holding(
    daemon: Daemon, sim: simulator.Simulator
) -> None:
    engage(daemon)
    sim.command("camera_stall", camera="top")
    wait_for(lambda: daemon.status()["mode"] == "holding", 8)
    assert "camera_stalled" in faults(daemon)
    assert not any(f["latched"] for f in daemon.status()["faults"])
    with pytest.raises(Refused, match=r"camera|fault"):
        daemon.engage()
    sim.command("camera_resume", camera="top")
    wait_for(lambda: "camera_stalled" not in faults(daemon), 15)
    time.sleep(0.3)
    assert daemon.status()["mode"] == "holding", "cleared to holding, not to motion"


@pytest.mark.fault(15)
def test_f15_unplugged_latches_reopens_and_needs_clear_and_engage(
    daemon: Daemon, sim: simulator.Simulator
) -> None:
    engage(daemon)
    sim.command("unplug")
    wait_for(lambda: "serial_unplugged" in faults(daemon), 5)
    assert daemon.status()["mode"] == "faulted"
    with pytest.raises(Refused):
        daemon.engage()
    sim.command("replug")
    wait_for(lambda: daemon.status()["arm"]["bus"], 20, "bus reopened")
    assert daemon.status()["mode"] == "faulted"
    wait_for(lambda: not any(f["active"] for f in daemon.status()["faults"]), 5)
    daemon.clear()
    engage(daemon)


@pytest.mark.fault(17)
@pytest.mark.fault(18)
def test_f18_garbage_on_the_wire_never_moves_the_arm_and_latches(
    daemon: Daemon, sim: simulator.Simulator
) -> None:
    engage(daemon)
    sim.command("corrupt", forever=True)
    wait_for(lambda: daemon.status()["mode"] == "faulted", 5)
    sim.command("clear_all")
    counters = daemon.status()["bus"]
    assert counters["checksum_errors"] + counters["resync_bytes"] > 0
    wait_for(lambda: not any(f["active"] for f in daemon.status()["faults"]), 5)
    daemon.clear()
    assert daemon.status()["mode"] == "holding"


@pytest.mark.fault(19)
def test_f19_a_silent_servo_latches_with_its_id(daemon: Daemon, sim: simulator.Simulator) -> None:
    engage(daemon)
    sim.command("silence", id=3)
    wait_for(lambda: "servo_silent" in faults(daemon), 5)
    wait_for(lambda: daemon.status()["mode"] == "faulted", 5)
    assert daemon.status()["servo"]["missed"]["elbow_flex"] >= 5


@pytest.mark.fault(19)
@pytest.mark.fault(44)
@pytest.mark.parametrize("lost", ["one servo", "the supply"])
def test_servos_that_come_back_are_read_anew_before_anything_is_written(
    daemon: Daemon, sim: simulator.Simulator, lost: str
) -> None:
    engage(daemon)
    if lost == "one servo":
        sim.command("silence", id=3)
    else:
        sim.command("cut_supply")
    wait_for(lambda: daemon.status()["mode"] == "faulted", 5)
    if lost == "one servo":
        sim.command("restore", id=3)
    else:
        sim.command("restore_supply")
    wait_for(lambda: daemon.status()["bus"]["reopened"] and daemon.status()["arm"]["bus"], 20)
    assert daemon.status()["mode"] == "faulted"
    wait_for(lambda: not any(f["active"] for f in daemon.status()["faults"]), 5)
    daemon.clear()
    # Without supply they forgot their torque, and get none before somebody engages.
    assert daemon.status()["mode"] == ("holding" if lost == "one servo" else "ready")
    assert daemon.status()["arm"]["torque"] == (lost == "one servo")
    engage(daemon)
    assert daemon.status()["arm"]["torque"]


@pytest.mark.fault(9)
@pytest.mark.fault(27)
def test_f09_a_slow_expert_starves_the_queue_comes_to_rest_and_recovers(
    daemon: Daemon, policy: ScriptedPolicy
) -> None:
    engage(daemon)
    policy.delay_s = 3.0  # longer than a chunk lasts; the heartbeat bound is lifted for it
    daemon.servo.bound(2, 10_000_000_000)
    wait_for(lambda: daemon.status()["arm"]["at_rest"], 8, "rest")
    assert daemon.status()["mode"] == "engaged"
    policy.delay_s = 0.05
    before = daemon.status()["chunks"]["accepted"]
    wait_for(lambda: daemon.status()["chunks"]["accepted"] > before + 2, 20, "recovery")
    execution = daemon.status()["execution"]
    assert execution["covered_ticks"] + sum(execution["starved_ticks"].values()) == execution["engaged_ticks"]


@pytest.mark.fault(11)
def test_f11_nan_from_the_policy_never_reaches_the_wire(
    daemon: Daemon, policy: ScriptedPolicy
) -> None:
    engage(daemon)

    def spoil(chunk: np.ndarray) -> np.ndarray:
        chunk[7, 2] = np.nan
        return chunk

    policy.spoil = spoil
    wait_for(lambda: daemon.status()["mode"] == "faulted", 15)
    assert "action_not_finite" in faults(daemon)
    rejected = [e for e in daemon.events.since(0) if e.get("reason") == "not_finite"]
    assert rejected[0]["joint"] == "elbow_flex"
    assert rejected[0]["action"] == 7


def test_an_exception_in_the_policy_holds_and_does_not_end_the_daemon(
    daemon: Daemon, policy: ScriptedPolicy
) -> None:
    engage(daemon)
    policy.fail = RuntimeError("delegate returned an error")
    wait_for(lambda: daemon.status()["mode"] == "holding", 8)
    policy.fail = None
    wait_for(lambda: not daemon.status()["faults"], 8)
    daemon.resume()


@pytest.mark.fault(26)
def test_f26_a_dead_stage_holds_and_ends_the_process_non_zero(
    sim: simulator.Simulator, policy: ScriptedPolicy, tmp_path: Path
) -> None:
    with daemons.running(daemons.config_for(sim, tmp_path), policy) as daemon:
        engage(daemon)

        def die(*_: object) -> None:
            raise MemoryError("injected")

        daemon.inference._plan = die  # type: ignore[method-assign, assignment]
        wait_for(lambda: daemon.exit_status == 1, 5)
        wait_for(lambda: daemon.status()["mode"] in ("stopping", "faulted"), 2)
        assert "thread_died" in faults(daemon)


@pytest.mark.fault(26)
def test_f26_a_supervisor_that_dies_holds_and_ends_the_process_non_zero(
    sim: simulator.Simulator, policy: ScriptedPolicy, tmp_path: Path
) -> None:
    with daemons.running(daemons.config_for(sim, tmp_path), policy) as daemon:
        engage(daemon)

        def die() -> None:
            raise KeyError("injected")

        daemon.supervise = die  # type: ignore[method-assign]
        wait_for(lambda: daemon.exit_status == 1, 5)
        wait_for(lambda: daemon.status()["mode"] == "faulted", 2)
        assert "thread_died" in faults(daemon)


def test_an_arm_without_cameras_is_not_held_for_them(
    sim: simulator.Simulator, tmp_path: Path
) -> None:
    config = daemons.config_for(sim, tmp_path, cameras=False)
    daemon = Daemon(config)
    try:
        daemon.start()
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            daemon.supervise()
            time.sleep(0.02)
        assert not [name for name in faults(daemon) if BY_NAME[name].id <= 6], "a camera's"
    finally:
        daemon.shut_down()


@pytest.mark.fault(24)
def test_f24_a_servo_loop_that_stands_still_starves_systemds_watchdog(daemon: Daemon) -> None:
    wait_for(daemon.servo.all_fresh, 10)
    daemon.servo.stop()
    wait_for(lambda: not daemon.servo.all_fresh(), 2)


@pytest.mark.fault(31)
def test_f31_a_hung_supervisor_holds(daemon: Daemon) -> None:
    engage(daemon)
    daemon.supervise = lambda: time.sleep(1.5)  # type: ignore[method-assign]
    end = time.monotonic() + 1.0
    while time.monotonic() < end:  # an operator's requests do not stand in for it
        daemon._wait(lambda _: False, 0.1)
    wait_for(lambda: "supervisor_hung" in [e.get("name") for e in daemon.events.since(0)]
             or "supervisor_hung" in faults(daemon), 5)
    assert daemon.servo.report()["mode"] in ("stopping", "holding")


def keep_the_interpreter() -> None:
    ctypes.PyDLL(None).usleep(900_000)  # a C call that does not release it


def collect_garbage() -> None:
    """As long as one collection of a great many cycles takes."""
    cycles: list[list[object]] = [[] for _ in range(600_000)]
    for cycle in cycles:
        cycle.append(cycle)
    del cycle
    cycles.clear()
    gc.collect()


@pytest.mark.fault(27)
@pytest.mark.parametrize("stall", [keep_the_interpreter, collect_garbage])
def test_f27_python_that_stands_still_ages_its_stages_and_not_the_servo_loop(
    daemon: Daemon, stall: Callable[[], None], survival: Survival
) -> None:
    engage(daemon)
    before = daemon.servo.report()
    stall()
    after = daemon.servo.report()
    elapsed_ticks = (after["t_ns"] - before["t_ns"]) / daemon.config.period_ns
    ticks = after["counters"]["ticks"] - before["counters"]["ticks"]
    assert ticks > 0.7 * elapsed_ticks
    survival(27, clock="machine",
             note=f"bursts that keep the GIL: {ticks} of {elapsed_ticks:.0f} ticks of the servo loop ran")
    assert after["counters"]["wire_step"] == after["counters"]["wire_limit"] == 0
    survival(27, react_ms=0, clock="machine", note=f"{ticks} ticks in {elapsed_ticks:.0f} periods without Python")
    if stall is keep_the_interpreter:
        for _ in range(5):  # one that meets the supervisor awake looks to row 31 like its own
            if any(e["event"] == "stall" for e in daemon.events.since(0)):
                break
            stall()
            time.sleep(0.5)
        stalls = wait_for(lambda: [e for e in daemon.events.since(0) if e["event"] == "stall"], 10)
        assert max(e["duration_ms"] for e in stalls) >= 250
        wait_for(lambda: any(e.get("name") == "python_stalled" for e in daemon.events.since(0)), 10)
    engage(daemon)


@pytest.mark.fault(46)
def test_f46_a_policy_that_starts_elsewhere_does_not_move_the_arm(
    daemon: Daemon, policy: ScriptedPolicy
) -> None:
    def far(chunk: np.ndarray) -> np.ndarray:
        chunk[:, 0] += 0.7
        return chunk

    policy.spoil = far
    before = daemon.status()["arm"]["joints"]["shoulder_pan"]["position"]
    engage(daemon, moving=False)
    wait_for(lambda: "unexpected_initial_pose" in [
        e.get("name") for e in daemon.events.since(0)], 8)
    wait_for(lambda: daemon.status()["mode"] == "holding")
    after = daemon.status()["arm"]["joints"]["shoulder_pan"]["position"]
    assert abs(after - before) < 0.05


@pytest.mark.fault(49)
def test_f49_a_second_daemon_is_refused_the_bus(daemon: Daemon, survival: Survival) -> None:
    with pytest.raises(DeviceError, match="in use"):
        Daemon(daemon.config).start()
    survival(49, note="a second daemon on the same bus: refused by the lock, naming the port")


@pytest.mark.fault(40)
@pytest.mark.parametrize("named", ["servo.ratehz", "arm.port"])
def test_f40_a_bad_configuration_ends_with_78(
    sim: simulator.Simulator, tmp_path: Path, named: str, survival: Survival
) -> None:
    config = daemons.config_for(sim, tmp_path)
    text = config.path.read_text()
    if named == "servo.ratehz":
        text = text.replace("[servo]\n", "[servo]\nratehz = 100\n")
    else:
        text = text.replace(sim.bus, "/nowhere/bus")
    config.path.write_text(text)
    ended = subprocess.run(
        [sys.executable, "-m", "vlad.main", "run", "--config", str(config.path)],
        capture_output=True, text=True, timeout=60, check=False,
    )
    assert ended.returncode == 78
    assert named in ended.stderr
    assert str(config.path) in ended.stderr
    survival(40, note=f"status 78, file and key named ({named})")


@pytest.mark.fault(32)
def test_f32_no_wall_clock_in_the_package() -> None:
    root = Path(__file__).resolve().parents[2]
    for path in root.glob("vlad/**/*.py*"):
        if path.suffix in (".py", ".pyx"):
            assert "time.time(" not in path.read_text(), path
    for path in root.glob("csrc/*.[ch]"):
        text = path.read_text()
        assert "CLOCK_REALTIME" not in text, path
        assert "gettimeofday" not in text, path


def test_events_are_numbered_and_json(daemon: Daemon) -> None:
    engage(daemon)
    events = daemon.events.since(0)
    assert [e["seq"] for e in events] == sorted({e["seq"] for e in events})
    json.dumps(events)
    json.dumps(daemon.status())


@pytest.mark.fault(30)
def test_f30_stopping_the_daemon_holds_the_arm_and_keeps_torque(
    sim: simulator.Simulator, policy: ScriptedPolicy, tmp_path: Path
) -> None:
    sim.command("clear_all")
    with daemons.running(daemons.config_for(sim, tmp_path), policy) as daemon:
        engage(daemon)
    state = sim.command("status")
    assert all(state["torque"].values()), "no rest pose is configured: torque stays on"
    assert daemon.exit_status == 0
    time.sleep(0.3)
    then = sim.command("status")
    assert then["goals"] == state["goals"]


def test_a_restart_adopts_the_goal_in_force_and_writes_nothing(
    sim: simulator.Simulator, policy: ScriptedPolicy, tmp_path: Path
) -> None:
    with daemons.running(daemons.config_for(sim, tmp_path), policy) as daemon:
        engage(daemon)
    before = sim.command("status")["goals"]
    written = len(list(goal_frames(sim.record)))
    with daemons.running(daemons.config_for(sim, tmp_path), ScriptedPolicy()) as daemon:
        wait_for(lambda: daemon.status()["arm"]["bus"] and daemon.status()["mode"] == "ready", 5)
        time.sleep(0.5)
        goals = daemon.status()["arm"]["joints"]
        assert all(abs(j["goal"] - j["position"]) < 0.35 for j in goals.values())
    assert sim.command("status")["goals"] == before
    assert len(list(goal_frames(sim.record))) == written, "a restart writes no goal"


def test_a_policy_too_slow_for_async_is_loaded_and_not_engaged(
    daemon: Daemon, policy: ScriptedPolicy
) -> None:
    daemon.install(daemons.loaded(policy, daemon, measured_ms=6150))
    with pytest.raises(Refused, match=r"too slow for async.*Hz or slower.*sync"):
        daemon.engage()
    assert "too slow" in daemon.status()["why_not_engageable"][0]
    daemon.install(daemons.loaded(policy, daemon, "sync", measured_ms=6150))
    engage(daemon)
    assert daemon.status()["policy"]["mode"] == "sync"


def test_sync_is_cold_start_repeated(sim: simulator.Simulator, tmp_path: Path) -> None:
    with daemons.running(daemons.config_for(sim, tmp_path), ScriptedPolicy(), "sync") as daemon:
        engage(daemon)
        time.sleep(3.0)
        chunks = [e for e in daemon.events.since(0) if e["event"] == "chunk"]
        assert len(chunks) >= 2
        assert all(c["cold"] and c["verdict"] != "rejected" for c in chunks)
        assert daemon.status()["execution"]["starved_ticks"]["sync"] > 0
