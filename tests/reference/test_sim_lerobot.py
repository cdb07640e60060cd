"""The simulated arm against LeRobot's own SO-101 follower, in LeRobot's own environment.

The environment is build/reference/venv: `python -m venv build/reference/venv` and there
`pip install "lerobot[feetech]==0.4.4"`.
"""

from __future__ import annotations

import json
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.simulator import running
from vlad import calibrate

pytestmark = pytest.mark.skipif(find_spec("mujoco") is None, reason="the simulator needs mujoco")

ROOT = Path(__file__).parents[2]
LEROBOT_PYTHON = ROOT / "build/reference/venv/bin/python"

SESSION = """
import json, sys, time
from lerobot.robots.so_follower.so_follower import SO101Follower
from lerobot.robots.so_follower.config_so_follower import SO101FollowerConfig
from pathlib import Path

port, directory = sys.argv[1:]
robot = SO101Follower(SO101FollowerConfig(port=port, id="arm", calibration_dir=Path(directory)))
robot.connect(calibrate=False)
report = {"calibrated": robot.is_calibrated, "before": robot.get_observation()}
goal = {"shoulder_pan.pos": 20.0, "shoulder_lift.pos": -60.0, "elbow_flex.pos": 55.0,
        "wrist_flex.pos": 30.0, "wrist_roll.pos": -25.0, "gripper.pos": 40.0}
report["sent"] = robot.send_action(goal)
for _ in range(150):
    after = robot.get_observation()
    time.sleep(0.02)
report["after"] = after
report["temperatures"] = robot.bus.sync_read("Present_Temperature", normalize=False)
robot.disconnect()
print("REPORT" + json.dumps(report))
"""


@pytest.mark.slow
@pytest.mark.skipif(not LEROBOT_PYTHON.exists(), reason="build/reference/venv holds no LeRobot")
def test_so101_follower_connects_reads_and_commands(tmp_path: Path) -> None:
    with running(tmp_path, "--no-cameras") as simulator:
        # The file that it needs, read out of the servos by vlad.
        file = str(tmp_path / "arm.json")
        assert calibrate.main(["--port", simulator.bus, "--calibration", file, "--servos-win"]) == 0
        done = subprocess.run(
            [str(LEROBOT_PYTHON), "-c", SESSION, simulator.bus, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        status = simulator.command("status")
    report = json.loads(done.stdout.split("REPORT")[1])
    assert report["calibrated"], "the EEPROM is not what assets/calibration.json says"
    # Sag under gravity, no integral gain: a few degrees at the loaded joints.
    for name, value in report["sent"].items():
        assert abs(report["after"][name] - value) < 6.0, (name, value, report["after"])
        assert abs(report["before"][name] - value) > 6.0, "the goal was where the arm already was"
    assert all(20 <= celsius <= 45 for celsius in report["temperatures"].values())
    assert not any(status["torque"].values()), "LeRobot takes the torque off when it disconnects"
