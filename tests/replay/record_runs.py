"""Records the runs of tests/replay/runs anew, with the real daemon on the simulated arm:

    make replay-runs

Needed only when the record has new fields that a replay cannot do without. A run is kept because it
was decided as it was: look at what differs before you replace one.
"""

from __future__ import annotations

import itertools
import re
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from tests import daemons, simulator
from tests.daemons import ScriptedPolicy, engage, wait_for
from vlad.daemon import Daemon
from vlad.flight_file import read
from vlad.replay import replay

RUNS = Path(__file__).parent / "runs"
ROOT = Path(__file__).resolve().parents[2]
CALIBRATION = ROOT / "vlad/sim/assets/calibration.json"
FLIGHT = "\n[flight]\nthumbnail_hz = 0\nseconds = 15\n"


def mode(daemon: Daemon, name: str) -> None:
    wait_for(lambda: daemon.status()["mode"] == name, 10, name)


def clear(daemon: Daemon) -> None:
    wait_for(lambda: not any(f["active"] for f in daemon.status()["faults"]), 20)
    daemon.clear()


def sweep(daemon: Daemon, sim: simulator.Simulator, policy: ScriptedPolicy) -> None:
    signs = itertools.cycle((1, -1))
    policy.spoil = lambda chunk: chunk + 0.004 * next(signs)  # chunks that disagree, so that merging them shows
    engage(daemon)
    time.sleep(3)
    daemon.hold()
    mode(daemon, "holding")
    daemon.resume()
    time.sleep(1)
    daemon.limp()


def servo_silent(daemon: Daemon, sim: simulator.Simulator, policy: ScriptedPolicy) -> None:
    engage(daemon)
    sim.command("silence", id=3)
    mode(daemon, "faulted")
    sim.command("clear_all")
    wait_for(lambda: daemon.status()["arm"]["bus"], 10)
    clear(daemon)


def unplugged(daemon: Daemon, sim: simulator.Simulator, policy: ScriptedPolicy) -> None:
    engage(daemon)
    time.sleep(1)
    sim.command("unplug")
    mode(daemon, "faulted")
    sim.command("replug")
    wait_for(lambda: daemon.status()["arm"]["bus"], 20)
    clear(daemon)
    engage(daemon)


def garbage(daemon: Daemon, sim: simulator.Simulator, policy: ScriptedPolicy) -> None:
    engage(daemon)
    sim.command("corrupt", forever=True)
    mode(daemon, "faulted")
    sim.command("clear_all")
    clear(daemon)


def not_finite(daemon: Daemon, sim: simulator.Simulator, policy: ScriptedPolicy) -> None:
    engage(daemon)
    policy.spoil = lambda chunk: np.where(np.arange(len(chunk))[:, None] == 7, np.nan, chunk)
    mode(daemon, "faulted")
    policy.spoil = lambda chunk: chunk
    clear(daemon)
    engage(daemon)


def slow(daemon: Daemon, sim: simulator.Simulator, policy: ScriptedPolicy) -> None:
    engage(daemon)
    policy.delay_s = 1.9  # later than the last action of its predecessor
    wait_for(lambda: daemon.status()["chunks"]["rejected"], 20)
    policy.delay_s = 0.05
    time.sleep(2)


def neutral(directory: Path, text: str) -> str:
    """A configuration without a word about where this checkout lies: it is in the record."""
    (directory / "calibration.json").write_bytes(CALIBRATION.read_bytes())
    text = re.sub(r'calibration = ".*"', f'calibration = "{directory}/calibration.json"', text)
    assert str(ROOT) not in text
    return text.replace("[flight]", FLIGHT.strip())


SCENARIOS: dict[str, Callable[[Daemon, simulator.Simulator, ScriptedPolicy], None]] = {
    "sweep": sweep, "servo_silent": servo_silent, "unplugged": unplugged, "garbage": garbage,
    "not_finite": not_finite, "slow": slow,
}  # fmt: skip


def main(names: list[str]) -> int:
    """All runs, or the named ones."""
    RUNS.mkdir(exist_ok=True)
    for name, run in SCENARIOS.items():
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory() as text:
            directory = Path(text)
            with simulator.running(directory, "--width", "96", "--height", "96") as sim:
                config = daemons.config_for(sim, directory, edit=partial(neutral, directory))
                policy = ScriptedPolicy()
                with daemons.running(config, policy) as daemon:
                    run(daemon, sim, policy)
                    time.sleep(0.3)
                    written = Path(daemon.dump()["path"])
            outcome = replay(read(written))
            assert outcome.difference is None, outcome
            size = (RUNS / f"{name}.mcap").write_bytes(written.read_bytes())
            print(f"{name}: {outcome.ticks} ticks, {outcome.chunks} chunks, {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
