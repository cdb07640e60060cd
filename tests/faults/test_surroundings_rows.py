"""Rows 34, 35, 42 and 47: disk, memory, heat, and a policy that gets nowhere. Files are the test's, the
clock is simulated, and the C core reacts; the daemon as a whole is at the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from tests import daemons, simulator
from tests.conftest import CHUNK, PERIOD_NS, sweep, sweep_policy
from tests.daemons import ScriptedPolicy, engage, wait_for
from tests.survival import Survival, stop_times
from vlad import log
from vlad.disk import LOOK_LATE_NS, Disk
from vlad.errors import Refused
from vlad.faults import BY_NAME
from vlad.memory_pressure import MemoryPressure, own_cgroup
from vlad.progress import Progress
from vlad.scheduler import SchedulerConfig
from vlad.servo import MS, ServoConfig, now_ns
from vlad.simulation import Simulation
from vlad.surroundings import POLL_S, Surroundings, Watch
from vlad.throttling import Throttling
from vlad.wire_witness import judge

S = 1_000 * MS
POLL_NS = round(POLL_S * S)
START_NS = 1_000_000 * MS
PHASES_MS = (0, 70, 240)  # where between two looks the fault falls


class Around:
    """A moving arm whose surroundings are looked at every 250 ms."""

    def __init__(self, servo: ServoConfig, scheduler: SchedulerConfig) -> None:
        self.sim = Simulation(servo, scheduler, sweep_policy, lambda _: 100 * MS,
                              start_ns=START_NS, pose=tuple(sweep(START_NS)[0]))
        assert self.sim.engage() == "engaged"
        self.watch: Watch | None = None
        self.feed: Callable[[int], None] = lambda now: None
        self.sim.run(self.sim.now_ns + 3 * S)

    def watching(self, watch: Watch) -> None:
        self.watch = watch
        self.surroundings = Surroundings(self.sim.servo, {"it": watch})
        self.run(3 * S)
        assert self.active == [] and self.report["mode"] == "engaged"

    @property
    def report(self) -> dict[str, Any]:
        return dict(self.sim.servo.report())

    @property
    def active(self) -> list[int]:
        return list(self.report["active"])

    @property
    def reaction(self) -> str:
        return str(self.report["reaction"])

    def step(self) -> None:
        self.sim.run(self.sim.now_ns + 10 * MS)
        self.feed(self.sim.now_ns)
        if self.watch is not None and (self.sim.now_ns - START_NS) % POLL_NS < 10 * MS:
            self.surroundings.poll(self.sim.now_ns)

    def run(self, duration_ns: int) -> None:
        end = self.sim.now_ns + duration_ns
        while self.sim.now_ns < end:
            self.step()

    def until(self, condition: Callable[[], Any], limit_ns: int = 10 * S) -> float:
        begin = self.sim.now_ns
        while not condition():
            assert self.sim.now_ns - begin < limit_ns, f"not within {limit_ns / 1e9} s"
            self.step()
        return (self.sim.now_ns - begin) / 1e6


@pytest.fixture
def around(servo_config: ServoConfig, scheduler_config: SchedulerConfig) -> Around:
    return Around(servo_config, scheduler_config)


# --- 35 memory ----------------------------------------------------------------------------------


class Memory:
    """The kernel's files, as the test wants them."""

    def __init__(self, directory: Path) -> None:
        self.pressure = directory / "pressure"
        self.cgroup = directory / "cgroup"
        self.cgroup.mkdir()
        self.total_us = 1_000
        self.use(100)
        self.stall(0)

    def stall(self, share: float, for_ns: int = 0) -> None:
        self.total_us += int(share * for_ns / 1000)
        self.pressure.write_text(
            f"some avg10=0.00 avg60=0.00 avg300=0.00 total={self.total_us}\n"
            f"full avg10=0.00 avg60=0.00 avg300=0.00 total={self.total_us // 2}\n"
        )

    def use(self, used: int, cache: int = 0, limit: str = "1000") -> None:
        (self.cgroup / "memory.max").write_text(limit + "\n")
        (self.cgroup / "memory.current").write_text(f"{used + cache}\n")
        (self.cgroup / "memory.stat").write_text(f"anon {used}\ninactive_file {cache}\nactive_file 0\n")

    def watch(self) -> MemoryPressure:
        return MemoryPressure(str(self.pressure), str(self.cgroup), 0.2)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path)


@pytest.mark.fault(35)
@pytest.mark.parametrize("phase_ms", PHASES_MS)
def test_f35_pressure_warns_and_refuses(
    around: Around, memory: Memory, phase_ms: int, survival: Survival
) -> None:
    around.watching(memory.watch())
    around.run(phase_ms * MS)
    around.feed = lambda _: memory.stall(0.5, 10 * MS)
    react_ms = around.until(lambda: around.reaction == "warn")
    assert around.active == [35] and around.watch is not None
    assert "waited for memory" in around.watch.problem
    survival(35, react_ms=react_ms, note="half of each second stalled: WARN, engage refused")
    around.run(3 * S)
    assert around.report["mode"] == "engaged", "a warning stops nothing"
    around.feed = lambda _: None
    around.until(lambda: not around.active)


@pytest.mark.fault(35)
@pytest.mark.parametrize("phase_ms", PHASES_MS)
def test_f35_ninety_percent_of_the_limit_holds(
    around: Around, memory: Memory, phase_ms: int, survival: Survival
) -> None:
    around.watching(memory.watch())
    memory.use(899, cache=100)
    around.run(2 * S)
    assert around.active == [], "the page cache would go first"
    around.run(phase_ms * MS)
    injected_ns = around.sim.now_ns
    memory.use(900)
    around.until(lambda: around.report["mode"] != "engaged")
    react_ms = (around.sim.now_ns - injected_ns) / 1e6
    _, rest_ms = stop_times(around.sim, injected_ns)
    survival(35, react_ms=react_ms, rest_ms=rest_ms, note="working set at 90 % of the cgroup: HOLD")
    memory.use(100)
    around.until(lambda: not around.active)
    assert around.report["mode"] == "holding" and around.report["latched"] == []


@pytest.mark.parametrize(("spoil", "shares"), [
    (lambda m: m.pressure.unlink(), (None, 0.1)),
    (lambda m: m.pressure.write_text("nonsense\n"), (None, 0.1)),
    (lambda m: m.pressure.write_bytes(b"\xff" * 70_000), (None, 0.1)),
    (lambda m: m.use(100, limit="max"), (0.0, None)),
    (lambda m: m.use(100, limit="0"), (0.0, None)),
    (lambda m: (m.cgroup / "memory.stat").write_text(""), (0.0, None)),
])  # fmt: skip
def test_what_cannot_be_read_is_not_judged(
    memory: Memory, spoil: Callable[[Memory], Any], shares: tuple[float | None, float | None]
) -> None:
    watch = memory.watch()
    spoil(memory)
    assert watch.poll(0) == "none"
    assert tuple(watch.counters().values()) == shares
    assert watch.problem == ""


def test_the_cgroup_of_this_process_is_found_where_there_is_one() -> None:
    found = own_cgroup()
    text = Path("/proc/self/cgroup").read_text()
    assert (found is not None) == any(line.startswith("0::/") for line in text.splitlines())


# --- 42 heat ------------------------------------------------------------------------------------


class Zone:
    """A thermal zone that gets warmer by `slope` degrees a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set(60.0)

    def set(self, celsius: float) -> None:
        self.celsius = celsius
        self.path.write_text(f"{round(celsius * 1000)}\n")


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    return Zone(tmp_path / "temp")


def throttling(zone: Zone | None) -> Throttling:
    return Throttling(str(zone.path) if zone else None, 85.0, 95.0)


@pytest.mark.fault(42)
@pytest.mark.parametrize("slope_c_s", [1.0, 4.0])
def test_f42_a_ramp_is_predicted_and_the_arm_is_at_rest_before_it_is_critical(
    around: Around, zone: Zone, slope_c_s: float, survival: Survival
) -> None:
    watch = throttling(zone)
    around.watching(watch)
    around.feed = lambda _: zone.set(zone.celsius + slope_c_s * 0.01)
    reached: dict[str, float] = {}
    while around.report["mode"] == "engaged":
        around.step()
        reached.setdefault(around.reaction, zone.celsius)
        assert zone.celsius < 95.0, "it was not predicted"
    assert list(reached) == ["none", "warn", "slow", "hold"]
    assert reached["warn"] <= 85.0 - 20 * min(slope_c_s, 1.0) and reached["slow"] < 85.0
    _, rest_ms = stop_times(around.sim, around.sim.now_ns)
    around.run(int(rest_ms * MS))
    assert zone.celsius < 95.0
    zone.set(60.0)
    around.feed = lambda _: None
    around.until(lambda: not around.active, 40 * S)
    assert around.report["mode"] == "holding"
    survival(42, note=f"{slope_c_s:g} C/s: WARN at {reached['warn']:.0f} C, SLOW at "
                      f"{reached['slow']:.0f} C, HOLD at {reached['hold']:.1f} C, limits 85 and 95 C")


@pytest.mark.fault(42)
@pytest.mark.parametrize("phase_ms", PHASES_MS)
def test_f42_a_step_over_the_limit_holds(
    around: Around, zone: Zone, phase_ms: int, survival: Survival
) -> None:
    around.watching(throttling(zone))
    around.run(phase_ms * MS)
    injected_ns = around.sim.now_ns
    zone.set(96.0)
    around.until(lambda: around.report["mode"] != "engaged")
    react_ms = (around.sim.now_ns - injected_ns) / 1e6
    _, rest_ms = stop_times(around.sim, injected_ns)
    survival(42, react_ms=react_ms, rest_ms=rest_ms)


@pytest.mark.fault(42)
def test_f42_slow_inference_warns_and_slows_where_it_is_warm(zone: Zone) -> None:
    watch = throttling(zone)
    for i in range(8):
        assert watch.poll(i * S) == "none"
        watch.inference(100 * MS)
    for _ in range(5):
        watch.inference(131 * MS)
    assert watch.poll(9 * S) == "warn"
    assert "inference takes 1.31 x" in watch.problem and watch.counters()["drift"] == 1.31
    for i in range(10):
        zone.set(61.0 + i)  # 1 C/s: 85 C in 15 s
        level = watch.poll((10 + i) * S)
    assert level == "slow"
    for _ in range(5):
        watch.inference(129 * MS)
    assert watch.poll(20 * S) == "warn"
    watch.forget_inference()
    zone.set(60.0)
    assert watch.poll(40 * S) == "none"


@pytest.mark.fault(42)
def test_f42_one_slow_inference_is_no_drift(zone: Zone) -> None:
    watch = throttling(None)
    for took_ms in (100,) * 8 + (100, 900, 100, 800, 100):
        watch.inference(took_ms * MS)
    assert watch.poll(S) == "none" and watch.celsius is None
    unreadable = throttling(zone)
    zone.path.write_text("hot\n")
    assert unreadable.poll(S) == "none" and unreadable.counters()["unreadable"] == 1


# --- 47 no progress -----------------------------------------------------------------------------


def shaking(t_obs_ns: int, state: np.ndarray) -> np.ndarray:
    """4 Hz at 3 degrees on one joint, around the pose of the beginning."""
    t = (t_obs_ns + np.arange(CHUNK) * PERIOD_NS) / 1e9
    chunk = np.tile(sweep(START_NS), (CHUNK, 1))
    chunk[:, 3] += 0.05 * np.sin(2 * np.pi * 4 * t)
    return chunk


def standing(t_obs_ns: int, state: np.ndarray) -> np.ndarray:
    return np.tile(sweep(START_NS), (CHUNK, 1))


def followed(servo: ServoConfig, scheduler: SchedulerConfig, policy: Any, timeout_s: float | None,
             still_s: float = 10.0) -> tuple[Simulation, Progress, Callable[[int], None]]:
    """An arm under `policy`, and one round of the supervisor's look at it."""
    sim = Simulation(servo, scheduler, policy, lambda _: 100 * MS, start_ns=START_NS,
                     pose=tuple(sweep(START_NS)[0]))
    progress = Progress(tuple(f"j{i}" for i in range(6)), timeout_s, still_s)

    def look(now: int) -> None:
        _, mode, _, _, _, depth, _, _ = sim.servo.queue_view()
        level = progress.feed(now, mode == "engaged", depth > 0, sim.servo.command()[3])
        sim.servo.level_fault(BY_NAME["policy_stuck"].id, level)

    assert sim.engage() == "engaged"
    return sim, progress, look


def until(sim: Simulation, look: Callable[[int], None], condition: Callable[[], Any]) -> float:
    begin = sim.now_ns
    while not condition():
        assert sim.now_ns - begin < 60 * S
        sim.run(sim.now_ns + 20 * MS)
        look(sim.now_ns)
    return (sim.now_ns - begin) / 1e6


@pytest.mark.fault(47)
def test_f47_a_policy_that_shakes_is_warned_of(
    servo_config: ServoConfig, scheduler_config: SchedulerConfig, survival: Survival
) -> None:
    sim, progress, look = followed(servo_config, scheduler_config, shaking, None)
    until(sim, look, lambda: not sim.servo.report()["at_rest"])
    react_ms = until(sim, look, lambda: sim.servo.report()["reaction"] == "warn")
    assert "j3 swings" in progress.problem and progress.oscillations == 1
    for _ in range(100):
        until(sim, look, lambda now=sim.now_ns: sim.now_ns > now)
    assert sim.servo.report()["mode"] == "engaged" and progress.oscillations == 1
    survival(47, react_ms=react_ms, note="4 Hz at 3 degrees: WARN, the arm goes on")


@pytest.mark.fault(47)
def test_f47_a_policy_that_stands_still_is_warned_of(
    servo_config: ServoConfig, scheduler_config: SchedulerConfig, survival: Survival
) -> None:
    sim, progress, look = followed(servo_config, scheduler_config, standing, None, 10.0)
    took_ms = until(sim, look, lambda: sim.servo.report()["reaction"] == "warn")
    assert 10_000 <= took_ms <= 10_500 and "no progress" in progress.problem
    assert sim.servo.report()["mode"] == "engaged"
    survival(47, react_ms=took_ms - 10_000, note="goals stand still for no_progress_s = 10 s: WARN")


@pytest.mark.fault(47)
def test_f47_an_ordinary_policy_raises_nothing(
    servo_config: ServoConfig, scheduler_config: SchedulerConfig
) -> None:
    sim, progress, look = followed(servo_config, scheduler_config, sweep_policy, None)
    for _ in range(30):
        until(sim, look, lambda end=sim.now_ns + S: sim.now_ns >= end)
        assert sim.servo.report()["active"] == []
    assert not any(progress.counters().values())


@pytest.mark.fault(47)
def test_f47_the_end_of_an_episode_holds(
    servo_config: ServoConfig, scheduler_config: SchedulerConfig, survival: Survival
) -> None:
    sim, progress, look = followed(servo_config, scheduler_config, sweep_policy, 4.0)
    until(sim, look, lambda begin=sim.now_ns: sim.now_ns >= begin + 3_900 * MS)
    assert sim.servo.report()["mode"] == "engaged"
    until(sim, look, lambda: progress.timeouts == 1)
    react_ms, rest_ms = stop_times(sim, START_NS + 4 * S + 70 * MS)
    survival(47, react_ms=react_ms, rest_ms=rest_ms, note="episode_timeout_s over: HOLD")
    look(sim.now_ns)
    sim.run(sim.now_ns + 2 * S)
    assert sim.servo.report()["active"] == [] and sim.servo.report()["mode"] == "holding"


# --- the daemon as a whole ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[simulator.Simulator]:
    with simulator.running(tmp_path_factory.mktemp("sim"), "--width", "96", "--height", "96") as s:
        yield s


@pytest.mark.fault(35, 42)
def test_f35_f42_short_memory_and_heat_refuse_and_hold(
    sim: simulator.Simulator, memory: Memory, zone: Zone, tmp_path: Path
) -> None:
    keys = (f'[board]\nmemory_pressure = "{memory.pressure}"\nmemory_cgroup = "{memory.cgroup}"\n'
            f'thermal_zone = "{zone.path}"\n')
    config = daemons.config_for(sim, tmp_path, edit=lambda t: t.replace("[board]\n", keys))
    with daemons.running(config) as daemon:
        engage(daemon)
        memory.use(950)
        wait_for(lambda: daemon.status()["mode"] == "holding", 10)
        with pytest.raises(Refused, match=r"memory is short: 95% of the cgroup's memory limit"):
            daemon.engage()
        memory.use(100)
        wait_for(lambda: not daemon.status()["why_not_engageable"], 20)
        engage(daemon)
        hang = threading.Event()  # of a disk: it hides no heat
        daemon.calibration_file.poll = lambda now: "none" if hang.wait(60) else "warn"  # type: ignore[method-assign]
        time.sleep(2 * POLL_S)
        zone.set(97.0)
        wait_for(lambda: daemon.status()["mode"] == "holding", 10)
        hang.set()
        del daemon.calibration_file.poll
        assert daemon.status()["thermal"]["celsius"] == 97.0
        assert "throttles at 85 C" in daemon.status()["problems"]["throttling"]


# --- 34 disk ------------------------------------------------------------------------------------


@contextlib.contextmanager
def full_tmpfs() -> Iterator[Path]:
    """A directory on a file system of 64 KiB that is full; skips where it cannot be mounted."""
    directory = Path(tempfile.mkdtemp())
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(directory)],
                             capture_output=True, text=True, check=False)
    if mounted.returncode:
        directory.rmdir()
        pytest.skip(f"mounting a tmpfs needs rights: {mounted.stderr.strip()}")
    try:
        with contextlib.suppress(OSError), (directory / "fill").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)
        directory.rmdir()


@pytest.mark.fault(34)
def test_f34_a_full_directory(survival: Survival) -> None:
    with full_tmpfs() as directory:
        disk = Disk([str(directory)], dict)
        disk.look(0)
        assert disk.poll(0) == "warn" and disk.problem == f"{directory} is full"
        (directory / "fill").unlink()
        disk.look(1)
        assert disk.poll(1) == "none" and disk.problem == ""
        subprocess.run(["mount", "-o", "remount,ro", str(directory)], check=True)
        disk.look(2)
        assert disk.poll(2) == "warn" and disk.problem == f"{directory} is read-only"
    missing = Disk(["/nowhere/at/all"], dict)
    missing.look(0)
    assert missing.poll(0) == "warn"
    survival(34, note="a full and a read-only tmpfs: WARN")


@pytest.mark.fault(34)
@pytest.mark.parametrize("first", [False, True])
def test_f34_a_look_that_does_not_return(first: bool) -> None:
    """Also the very first one."""
    disk = Disk([], dict)
    if not first:
        disk.look(0)
    assert disk.poll(0) == "none" and disk.poll(LOOK_LATE_NS) == "none" and disk.problem == ""
    assert disk.poll(LOOK_LATE_NS + 1) == "warn" and "has not answered for 2.0 s" in disk.problem
    disk.look(9 * S)
    assert disk.poll(9 * S) == "none" and disk.problem == ""


@pytest.mark.fault(34)
@pytest.mark.parametrize("what", ["directory", "calibration file"])
def test_f34_a_disk_that_hangs(sim: simulator.Simulator, tmp_path: Path, what: str,
                               survival: Survival) -> None:
    """Whatever of it hangs, and in whatever call: nothing that decides waits for it."""
    config = daemons.config_for(sim, tmp_path)
    with daemons.running(config) as daemon:
        hang = threading.Event()
        began_ns = now_ns()
        if what == "directory":
            daemon.disk.of_directories = lambda: [] if hang.wait(60) else ["no"]  # type: ignore[method-assign]
        else:
            daemon.calibration_file.poll = lambda now: "none" if hang.wait(60) else "no"  # type: ignore[method-assign]
        wait_for(lambda: "disk_full" in [f["name"] for f in daemon.status()["faults"]], 20)
        after_ms = (now_ns() - began_ns) / MS
        assert "has not answered" in daemon.status()["problems"]["disk"]
        with pytest.raises(Refused, match="the disk is in trouble"):
            daemon.load("/some/bundle")
        assert [f["reaction"] for f in daemon.status()["faults"] if f["name"] == "disk_full"] == ["warn"]
        hang.set()
        wait_for(lambda: not daemon.status()["problems"], 20)
    survival(34, react_ms=0, clock="machine",
             note=f"a {what} that does not answer: WARN after {after_ms / 1e3:.1f} s")


@contextlib.contextmanager
def log_into(kind: str, directory: Path) -> Iterator[log.LogWriter]:
    """The log of this process goes where nothing is taken: full, or not read."""
    reader = -1
    if kind == "nobody reads":
        reader, descriptor = os.pipe()
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, 4096)
    elif kind == "full device":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        descriptor = os.open(directory / "log", os.O_WRONLY | os.O_CREAT)
    writer = log.start("debug", fd=descriptor, capacity=200)
    try:
        yield writer
    finally:
        if reader >= 0:
            os.close(reader)  # ends a write that waits
        writer.stop()
        structlog.reset_defaults()
        os.close(descriptor)


@pytest.mark.fault(34)
@pytest.mark.parametrize("kind", ["full device", "full tmpfs", "nobody reads"])
def test_f34_an_arm_moves_on_and_load_is_refused(
    sim: simulator.Simulator, tmp_path: Path, kind: str, survival: Survival
) -> None:
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(full_tmpfs()) if kind == "full tmpfs" else tmp_path
        writer = stack.enter_context(log_into(kind, directory))
        config = daemons.config_for(sim, tmp_path)
        daemon = stack.enter_context(daemons.running(
            config, ScriptedPolicy(), log_counters=writer.counters))
        engage(daemon)
        before = daemon.status()["chunks"]["accepted"]
        wait_for(lambda: "disk_full" in [f["name"] for f in daemon.status()["faults"]], 20)
        with pytest.raises(Refused, match="the disk is in trouble"):
            daemon.load("/some/bundle")
        wait_for(lambda: daemon.status()["chunks"]["accepted"] > before + 2, 20)
        assert daemon.status()["mode"] == "engaged"
        counters = writer.counters()
        assert counters["failed"] + counters["dropped"] + counters["stalled_ms"] > 0
        assert daemon.status()["log"]["disk_errors"] <= writer.counters()["disk_errors"]
        survival(34, react_ms=0, clock="machine",
                 note=f"log into what takes nothing ({kind}): the arm goes on, WARN, load refused")
    verdict = judge(sim.record, config.joints, config.period_ns / 1e9)
    assert verdict.ok, verdict.violations
