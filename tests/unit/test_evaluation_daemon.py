"""`vlad eval --real-time`: the real daemon on the real simulator, with the shipped policy. It grasps nothing; that
episodes are made, one after the other from the rest pose, is what is tested."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from tools.sweep_bundle import build_bundle
from vlad.evaluation.command import CONFIG, configured, main
from vlad.evaluation.rest import rest_pose
from vlad.evaluation.results import Result

pytestmark = pytest.mark.skipif(find_spec("mujoco") is None, reason="the simulator needs mujoco")


def test_the_rest_pose_is_one_that_the_configuration_takes() -> None:
    config = configured(CONFIG, {})
    pose = rest_pose(config)
    assert all(joint.min <= pose[joint.name] <= joint.max for joint in config.joints)
    assert pose["shoulder_lift"] == pytest.approx(-1.72, abs=0.01)
    assert pose["gripper"] == pytest.approx(0.09, abs=0.01)


@pytest.mark.slow
def test_episodes_through_the_daemon(tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path)
    # A busy machine draws slowly: small pictures, and few.
    small = CONFIG.read_text().replace("width = 160\nheight = 120", "width = 64\nheight = 48\nfps = 5")
    small = small.replace("../vlad/sim", str(CONFIG.parent.parent / "vlad/sim"))
    config = tmp_path / "small.toml"
    config.write_text(small)
    out = tmp_path / "e.json"
    words = ["--real-time", "--config", str(config), "--mode", "sync", "--episodes", "1", "--time-limit", "3"]
    words += ["--task", "mug", "--instruction", "Sweep the arm over the table."]
    assert main([str(bundle), *words, "--out", str(tmp_path / "out"), "--json", str(out)]) == 0
    found = msgspec.json.decode(out.read_bytes(), type=Result)
    assert [(e.cluster, e.success) for e in found.episodes] == [(1, False), (6, False)]
    assert found.conditions["time"] == "real" and found.notes == []
    for episode in found.episodes:
        assert episode.accepted >= 1 and episode.t_inference_ms
        assert episode.jerk is not None and episode.jerk > 0
