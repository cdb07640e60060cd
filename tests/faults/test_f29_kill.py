"""Row 29: kill -9 of the daemon at random moments of motion.

The witness is the simulator's recording of the wire: no goal is ever more than one step from its
predecessor, the arm is at rest within 350 ms, and vlad-safe-stop and a restart move nothing.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests import daemons, simulator
from tests.daemon_process import engaged_and_moving, rest_ms, safe_stop, start
from tests.survival import Survival
from vlad.servo import now_ns
from vlad.wire_witness import goal_frames, judge

KILLS = int(os.environ.get("VLAD_KILLS", "6"))


@pytest.mark.fault(29)
@pytest.mark.slow
def test_f29_killed_at_random_moments_of_motion(tmp_path: Path, survival: Survival) -> None:
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
                daemon.send_signal(signal.SIGKILL)
                daemon.wait(10)
            finally:
                daemon.kill()
                daemon.wait()
            rest = rest_ms(sim, killed_ns)
            last_ns, last = list(goal_frames(sim.record))[-1]
            stopped = safe_stop(sim)
            assert stopped.returncode == 0, stopped.stderr
            managed_ms = (now_ns() - killed_ns) / 1e6 - rest - 100
            goals_after = list(goal_frames(sim.record))[-1][1]
            assert goals_after == last, "safe-stop leaves a goal that is in force"
            survival(29, react_ms=max(0.0, (last_ns - killed_ns) / 1e6), rest_ms=rest, clock="machine",
                     note=f"{KILLS} x SIGKILL in motion: no goal after it, none beyond one step")
            assert managed_ms < 5_000
        verdict = judge(sim.record, config.joints, period_s)
        assert verdict.ok, verdict.violations
        assert verdict.moved_ticks > 50
        assert all(seen <= bound for seen, bound in verdict.worst_step.values())
