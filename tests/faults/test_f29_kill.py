"""Row 29: kill -9 of the daemon at random moments of motion.

The witness is the simulator's recording of the wire: no goal is ever more than one step from its
predecessor, the arm is at rest within 350 ms, and vlad-safe-stop and a restart move nothing.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import daemons, simulator
from tests.daemons import wait_for
from vlad.cli import Declined, Unreachable, ask
from vlad.config import Config
from vlad.servo import now_ns
from vlad.wire_witness import goal_frames, judge

KILLS = int(os.environ.get("VLAD_KILLS", "6"))
SAFE_STOP = Path(__file__).resolve().parents[2] / "vlad/_native/vlad-safe-stop"
REST_NS = 350_000_000

# A daemon of its own process, with the scripted policy of tests/daemons.py.
PROGRAM = """
import sys
from tests import daemons
from vlad import config, daemon
from vlad.control import Control

settings = config.load(sys.argv[1])
d = daemon.Daemon(settings)
d.stop_on_signals()
control = Control(settings.control, d, d.servo)
control.start()
d.start()
d.install(daemons.loaded(daemons.ScriptedPolicy(), d))
sys.exit(d.run())
"""


def start(config: Config, directory: Path) -> subprocess.Popen[bytes]:
    log = (directory / "daemon.log").open("ab")
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(config.path)], stdout=log,
                            stderr=log, cwd=SAFE_STOP.parents[2])


def engaged_and_moving(config: Config) -> None:
    def ready() -> bool:
        try:
            return not ask(config.control.socket, "status", {}, 5.0)["why_not_engageable"]
        except (Unreachable, Declined):
            return False

    wait_for(ready, 40, "engageable")
    ask(config.control.socket, "engage", {}, 5.0)
    wait_for(lambda: not ask(config.control.socket, "status", {}, 5.0)["arm"]["at_rest"], 15, "motion")


@pytest.mark.fault(28)
@pytest.mark.fault(29)
@pytest.mark.slow
def test_f29_killed_at_random_moments_of_motion(tmp_path: Path) -> None:
    rng = random.Random(29)
    with simulator.running(tmp_path, "--width", "96", "--height", "96") as sim:
        config = daemons.config_for(sim, tmp_path)
        period_s = config.period_ns / 1e9
        for _ in range(KILLS):
            daemon = start(config, tmp_path)
            try:
                engaged_and_moving(config)
                time.sleep(rng.uniform(0.2, 2.5))
                killed_ns = now_ns()
                daemon.send_signal(rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV)))
                daemon.wait(10)
            finally:
                daemon.kill()
                daemon.wait()
            time.sleep(0.05)
            last = list(goal_frames(sim.record))[-1][1]
            # From 350 ms after the kill on the joints stand still.
            time.sleep(max(0.0, (killed_ns + REST_NS - now_ns()) / 1e9))
            first = sim.command("status")["ticks"]
            time.sleep(0.3)
            then = sim.command("status")["ticks"]
            for number, at in first.items():
                assert abs(at - then[number]) <= 3, f"still moving {REST_NS / 1e6:g} ms after the kill"
            stopped = subprocess.run(
                [str(SAFE_STOP), "hold", "--port", sim.bus, "--ids", "1,2,3,4,5,6",
                 "--gripper", "6"],
                capture_output=True, text=True, timeout=10, check=False,
            )
            assert stopped.returncode == 0, stopped.stderr
            goals_after = list(goal_frames(sim.record))[-1][1]
            assert goals_after == last, "safe-stop leaves a goal that is in force"
        verdict = judge(sim.record, config.joints, period_s)
        assert verdict.ok, verdict.violations
        assert verdict.moved_ticks > 50
        assert all(seen <= bound for seen, bound in verdict.worst_step.values())
