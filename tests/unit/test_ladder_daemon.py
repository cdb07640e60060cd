"""The ladder in a whole daemon: a policy whose cameras are slow keeps the arm moving by its state."""

from __future__ import annotations

from pathlib import Path

from tests import daemons, simulator
from tests.daemons import ScriptedPolicy, engage, wait_for
from vlad.cli_text import status_text
from vlad.metrics import render
from vlad.servo import now_ns


def test_a_policy_that_grew_slow_goes_down_the_ladder_and_says_so(tmp_path: Path) -> None:
    policy = ScriptedPolicy()
    with (
        simulator.running(tmp_path, "--width", "96", "--height", "96") as sim,
        daemons.running(daemons.config_for(sim, tmp_path), policy) as daemon,
    ):
        daemon.install(daemons.loaded(policy, daemon, rungs_ms={"state_only": 55, "steps:4": 60}))
        policy.vision_s = 0.35  # three cameras: a full pass takes two thirds of a chunk, two do not fit
        engage(daemon, moving=False)

        def ladder() -> dict[str, dict[str, object]]:
            return daemon.status()["policy"]["ladder"]

        wait_for(lambda: ladder()["state_only"]["accepted"] >= 3, 60, "no state-only chunk was accepted")
        status = daemon.status()
        assert list(ladder()) == ["full", "state_only", "steps:4"]
        assert ladder()["full"]["too_slow"] >= 3
        assert ladder()["state_only"]["measured_ms"] == 55
        chunks = [e for e in daemon.events.since(0, 5000) if e["event"] == "chunk"]
        state_only = [e for e in chunks if e["rung"] == "state_only"]
        assert all(e["reuse_age_ms"] > 0 and e["encoded"] == 0 for e in state_only)
        assert all(e["reuse_age_ms"] <= 1667 for e in state_only if e["verdict"] != "rejected")
        assert all("reuse_age_ms" not in e and e["encoded"] == 3 for e in chunks if e["rung"] == "full")
        assert all(e["rung"] == "full" for e in chunks if e["cold"])
        text = status_text(status, now_ns(), colour=False)
        assert "ladder       full: " in text
        assert "state_only: " in text
        metrics = render(status)
        assert 'vlad_rung_requests_total{rung="state_only"} ' in metrics
        assert 'vlad_rung_measured_seconds{rung="state_only"} 0.055' in metrics
        assert 'vlad_status{key="policy.ladder' not in metrics
