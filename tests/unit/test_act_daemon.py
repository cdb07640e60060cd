"""An ACT bundle in a whole daemon on the simulated arm: it loads, engages and moves where the policy says."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import daemons, simulator, tiny_act
from tests.daemons import engage, wait_for
from tests.tiny_smolvla import DEGREES
from tests.unit.test_bundle_build import edit, edit_tensors, tensors
from vlad._native.flight import CHUNK as CHUNK_RECORD
from vlad.daemon import Daemon
from vlad.errors import Refused
from vlad.flight_file import read
from vlad.replay import replay
from vlad.servo import DEG

CHUNK = 50
AWAY_DEG = 12.0


def towards(directory: Path, target: NDArray[np.float64]) -> Path:
    """The tiny ACT with calm answers around a pose (core units) and chunks of 50 actions; a bundle of it."""
    data = directory / "data"
    shutil.copytree(tiny_act.DATA, data)
    edit(data / "checkpoint/config.json", lambda c: c.update(chunk_size=CHUNK, n_action_steps=CHUNK))
    statistics = tensors(data / "checkpoint/policy_postprocessor_step_0_unnormalizer_processor.safetensors")
    pose = (DEGREES.from_core(target) - statistics["action.mean"]) / statistics["action.std"]

    def calm(weights: dict[str, NDArray[np.float32]]) -> None:
        queries = weights["model.decoder_pos_embed.weight"]
        weights["model.decoder_pos_embed.weight"] = np.resize(queries, (CHUNK, queries.shape[1]))
        weights["model.action_head.weight"] *= 0.01
        weights["model.action_head.bias"] = pose.astype(np.float32)

    edit_tensors(data / "checkpoint/model.safetensors", calm)
    return tiny_act.build(directory / "calm.vlad", data=data)


def patient(text: str) -> str:
    """The most that a servo of a busy machine may be silent for."""
    assert "silent_ms = 250" in text
    return text.replace("silent_ms = 250", "silent_ms = 1000")


def keep_engaged(daemon: Daemon, done: Callable[[], bool], what: str) -> None:
    """Waits; what holds the arm because this machine stood still is cleared, and the arm engaged again."""

    def seen() -> bool:
        if not done() and daemon.status()["mode"] in ("holding", "faulted"):
            with contextlib.suppress(Refused):
                daemon.clear()
                daemon.engage()
        return done()

    try:
        wait_for(seen, 60, what)
    except AssertionError:
        skip_where_the_machine_stood_still(daemon)
        raise


def skip_where_the_machine_stood_still(daemon: Daemon) -> None:
    """Nothing was injected: a simulator or an interpreter that did not run for so long shows nothing of an ACT."""
    stalls = {"python_stalled", "servo_supply_lost", "servo_silent", "servo_deadline_missed", "camera_stalled"}
    seen = {e["name"] for e in daemon.events.since(0) if e["event"] == "fault" and e["active"]}
    if stalls & seen:
        pytest.skip(f"this machine stood still: {sorted(stalls & seen)}")


@pytest.mark.parametrize("aggregate", ["auto", "temporal_ensemble"])
def test_an_act_drives_the_simulated_arm(tmp_path: Path, aggregate: str) -> None:
    # Not at every step: the simulator shares the processor.
    extra = f'\n[policy]\nthreshold = 0.8\naggregate = "{aggregate}"\nladder = ["reuse", "state_only"]\n'
    extra += "".join(f"[stage.{name}]\nbound_ms = 5000\n" for name in ("vision", "expert"))  # of a busy machine
    with simulator.running(tmp_path, "--width", "96", "--height", "96") as sim:
        daemon = Daemon(daemons.config_for(sim, tmp_path, extra=extra, edit=patient))
        with daemons.supervised(daemon):
            wait_for(lambda: daemon.status()["arm"]["bus"], 20, "the bus is up")
            start = np.array(daemon.servo.joint_state()[2])
            target = start.copy()
            target[0] -= np.sign(start[0] or 1.0) * AWAY_DEG * DEG
            answer = daemon.load(str(towards(tmp_path, target)))
            assert answer["tasks"] == ["wave", "put the tea bag in the mug, slowly"]
            assert answer["fits"], answer["load_check"]
            assert list(answer["rungs_ms"]) == ["full", "reuse", "state_only"]
            daemon.task("wave")

            def off_deg() -> float:
                return float(abs(daemon.servo.joint_state()[2][0] - target[0]) / DEG)

            engage(daemon, moving=False)
            keep_engaged(daemon, lambda: off_deg() < AWAY_DEG / 3, "the arm came to the pose that the policy says")
            keep_engaged(daemon, lambda: daemon.status()["chunks"]["accepted"] >= 8, "eight chunks were accepted")
            status = daemon.status()
            assert status["policy"]["rtc"] is None
            merged = "weighted_average" if aggregate == "auto" else aggregate
            assert status["policy"]["aggregate"] == merged
            flight = read(Path(daemon.dump()["path"]))
        outcome = replay(flight)
        assert outcome.difference is None, outcome
        rows = [row for row in flight.rows[CHUNK_RECORD] if row["n_timeline"]]
        heard = [max(row["timeline_opinions"], default=0) for row in rows]
        if aggregate == "temporal_ensemble" and max(heard) < 3:
            skip_where_the_machine_stood_still(daemon)
        assert max(heard) >= 3 if aggregate == "temporal_ensemble" else max(heard) == 0
