"""A recording of simulated arms through their buses: a leader is moved, the follower follows, a data set holds it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.daemons import config_for, wait_for
from tests.simulator import Simulator, running
from vlad.config import load
from vlad.dataset import files
from vlad.errors import DeviceError
from vlad.record.bus_rig import BusRig
from vlad.sim.frame_ring import FrameRing

pytestmark = [pytest.mark.skipif(find_spec("mujoco") is None, reason="the simulator needs mujoco"), pytest.mark.slow]

CALIBRATION = Path(__file__).parents[2] / "vlad/sim/assets/calibration.json"
# Of three, one is soon out of step with the others where the machine has no core to spare: a HOLD.
ONE_CAMERA = ("--cameras", "top")
START = (0.0, -1.2, 1.2, 0.8, 0.0, 0.3)  # rad; the arm as `vlad sim` starts it is folded, a little beyond this


@contextmanager
def recording(root: Path, config: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A running `vlad record` of its own, without a terminal."""
    command = [sys.executable, "-m", "vlad.main", "record", "--root", str(root), "--config", str(config), "--json",
               "--min-free-mib", "0", "--single-task", "wave", "--reset-time-s", "0", *options]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def summary(process: subprocess.Popen[str], seconds: float = 60.0) -> tuple[int, dict[str, Any], str]:
    out, err = process.communicate(timeout=seconds)
    assert out, err
    return process.returncode, json.loads(out), err


def counted(root: Path) -> int:
    info = root / "meta/info.json"
    return int(json.loads(info.read_text())["total_episodes"]) if info.exists() else 0


def episodes(root: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(files.episodes_file(root)).to_pylist()
    return found


def until(process: subprocess.Popen[str], condition: Callable[[], Any], what: str) -> None:
    """Waits for it while the recording runs; fails with what that said when it has ended."""
    wait_for(lambda: process.poll() is not None or condition(), 40, what)
    assert condition(), process.communicate()[1]


def lead(leader: Simulator, pose: Callable[[float], tuple[float, ...]], seconds: float) -> None:
    """Moves the leader by hand, 50 times a second."""
    begun = time.monotonic()
    while (t := time.monotonic() - begun) < seconds:
        leader.command("hand", pose=list(pose(t)))
        time.sleep(0.02)


def wave(t: float) -> tuple[float, ...]:
    return (0.5 * np.sin(2.0 * t), *START[1:])


@contextmanager
def arm_with_cameras(directory: Path) -> Iterator[tuple[Simulator, Path]]:
    """A simulated follower and its configuration. Its pictures are made here, at no cost: drawing three cameras in
    software beside everything else is too much for a small machine."""
    with running(directory, "--no-cameras") as follower:
        rings = [FrameRing(f"{follower.camera_prefix}-{camera}", 96, 96) for camera in ("top", "gripper", "left")]
        ending = threading.Event()

        def shoot() -> None:
            noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
            shots = 0
            while not ending.wait(1 / 30):
                shots += 1
                for ring in rings:
                    ring.publish(np.roll(noise, shots, axis=1), time.monotonic_ns())

        camera = threading.Thread(target=shoot)
        camera.start()
        try:
            yield follower, config_for(follower, directory).path
        finally:
            ending.set()
            camera.join()
            for ring in rings:
                ring.close()


@contextmanager
def two_arms(directory: Path) -> Iterator[tuple[Simulator, Simulator, Path, list[str]]]:
    """The follower with its configuration, the leader held at START, and the options that name it."""
    (directory / "leader").mkdir()
    (directory / "follower").mkdir()
    with arm_with_cameras(directory / "follower") as (follower, config), \
            running(directory / "leader", "--no-cameras") as leader:  # fmt: skip
        leader.command("hand", pose=list(START))
        options = ["--teleop", f"leader:{leader.bus}", "--leader-calibration", str(CALIBRATION), "--label", "success",
                   *ONE_CAMERA]  # fmt: skip
        yield follower, leader, config, options


def test_the_follower_follows_its_leader_and_the_episodes_are_saved(tmp_path: Path) -> None:
    root = tmp_path / "set"
    with two_arms(tmp_path) as (follower, leader, config, options), \
            recording(root, config, *options, "--num-episodes", "2", "--episode-time-s", "2") as process:  # fmt: skip
        until(process, (root / ".vlad-recording/top.mp4").exists, "an episode")
        lead(leader, wave, 6)
        status, said, err = summary(process)
        assert status == 0, err
        assert all(follower.command("status")["torque"].values()), "it holds"
        assert not any(leader.command("status")["torque"].values()), "it is led by hand"
        goals = [p for p in follower.packets() if p["dir"] == "tx" and p.get("goals")]
    assert (said["episodes"], said["success"], said["total_episodes"]) == (2, 2, 2)
    rows = episodes(root)
    assert [row["success"] for row in rows] == [True, True]
    first = pq.read_table(files.data_file(root, 0)).to_pydict()
    states, actions = (np.array(first[key]) for key in ("observation.state", "action"))
    pan = states[:, 0]
    assert np.ptp(pan) > 15, "degrees: the leader waved 57 of them"
    assert np.abs(np.diff(actions, axis=0)).max() <= np.degrees(2.5 / 30) + 1e-3, "no step beyond the speed limit"
    lag = [np.abs(pan[k:] - actions[: len(pan) - k, 0]).mean() for k in range(12)]
    assert min(lag) < 6 and min(lag) < lag[0] + 1e-9, f"the arm does what the action said a little before: {lag}"
    times = np.array(first["capture_ns"])
    assert (np.diff(times[:, 0]) > 0).all() and (times[:, 1:] > 0).all()
    assert goals and said["wire_step"] == said["wire_limit"] == 0
    assert len(json.loads((root / "meta/calibration/leader.json").read_text())) == 6


def test_a_leader_that_is_unplugged_leaves_the_follower_holding_and_no_episode(tmp_path: Path) -> None:
    root = tmp_path / "set"
    with two_arms(tmp_path) as (follower, leader, config, options), \
            recording(root, config, *options, "--num-episodes", "5", "--episode-time-s", "60") as process:  # fmt: skip
        until(process, (root / ".vlad-recording/top.mp4").exists, "an episode")
        lead(leader, wave, 1.5)
        leader.command("unplug")
        status, said, err = summary(process)
        time.sleep(0.5)
        before = follower.command("status")
        time.sleep(0.5)
        after = follower.command("status")
    assert status == 1 and "the leader at" in said["problem"] and "is silent" in err
    assert (said["episodes"], said["dropped"], said["total_episodes"]) == (0, 1, 0)
    assert all(after["torque"].values()) and before["goals"] == after["goals"]
    assert json.loads((root / "meta/info.json").read_text())["total_episodes"] == 0


def test_a_leader_of_another_calibration_is_refused(tmp_path: Path) -> None:
    with two_arms(tmp_path) as (_, leader, config, options):
        leader.command("recalibrate", id=2, homing_offset=1000, range_min=907, range_max=3181)
        with recording(tmp_path / "set", config, *options) as process:
            status, said, _ = summary(process)
    assert status == 1
    assert "shoulder_lift (id 2): homing offset is 1000 in the servo, 1033 in the file" in said["problem"]


def test_led_by_keys_over_a_terminal(tmp_path: Path) -> None:
    """Two episodes: one ends with Enter while the arm is jogged, the other with Backspace; then Esc."""
    root = tmp_path / "set"
    with arm_with_cameras(tmp_path) as (follower, config):
        master, slave = pty.openpty()
        command = [sys.executable, "-m", "vlad.main", "record", "--root", str(root), "--config", str(config), "--json",
                   "--min-free-mib", "0", "--single-task", "wave", "--teleop", "keyboard",
                   *ONE_CAMERA]  # fmt: skip
        process = subprocess.Popen(command, stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        video = root / ".vlad-recording/top.mp4"
        until(process, video.exists, "an episode")
        for _ in range(40):  # a key that is held
            os.write(master, b"q")
            time.sleep(0.03)
        time.sleep(0.5)
        os.write(master, b"\r")
        until(process, files.episodes_file(root).exists, "the first episode")
        time.sleep(0.5)
        os.write(master, b"\x1b[C")
        until(process, video.exists, "another episode")
        time.sleep(0.5)
        os.write(master, b"\x7f")
        until(process, lambda: counted(root) == 2, "the second")
        os.write(master, b"\x1b")
        status, said, err = summary(process)
        assert status == 0, err
        held = follower.command("status")
    assert all(held["torque"].values())
    assert [row["success"] for row in episodes(root)] == [True, False]
    assert (said["success"], said["failure"], said["dropped"]) == (1, 1, 0)
    first = pq.read_table(files.data_file(root, 0)).to_pydict()
    actions = np.array(first["action"])[:, 0]
    assert 15 < np.ptp(actions) < 60, "1.2 s at 29 degrees/s, less what a busy machine leaves out"
    assert (np.diff(actions) >= -1e-4).all() and (actions[-5:] == actions[-1]).all(), "it stands once the key is let go"
    assert len(first["capture_ns"][0]) == 2, "of the state and of the camera that was to be recorded"


def test_a_loop_that_hangs_is_a_hold(tmp_path: Path) -> None:
    """The servo loop runs on when Python does not: it is told nothing, and holds."""
    with arm_with_cameras(tmp_path) as (follower, config):
        rig = BusRig(load(config), 30, ONE_CAMERA[1:])
        try:
            rig.start()
            rig.begin(0)
            pose = rig.pose
            for _ in range(30):
                rig.observe()
                pose[0] += 0.02
                rig.act(pose)
            assert np.abs(np.array(follower.command("status")["goals"]["1"]) - 2033) > 50, "it moves"
            time.sleep(1.2)
            before = follower.command("status")["goals"]
            time.sleep(0.3)
            after = follower.command("status")
            assert before == after["goals"] and all(after["torque"].values())
            with pytest.raises(DeviceError, match="the arm has stopped"):
                rig.observe()
            rig.resume()
            rig.begin(1)
            np.testing.assert_allclose(rig.pose, pose, atol=0.05)
            pose = rig.pose
            for _ in range(30):
                rig.observe()
                pose[0] -= 0.02
                rig.act(pose)
            assert follower.command("status")["goals"]["1"] < before["1"] - 50, "it moves again"
        finally:
            rig.close()
        assert all(follower.command("status")["torque"].values())


def test_the_recording_is_killed_and_the_arm_holds_and_whole_episodes_are_there(tmp_path: Path) -> None:
    root = tmp_path / "set"
    with two_arms(tmp_path) as (follower, leader, config, options), \
            recording(root, config, *options, "--num-episodes", "9", "--episode-time-s", "1") as process:  # fmt: skip
        until(process, lambda: counted(root) >= 2, "two episodes")
        leader.command("hand", pose=list(wave(1.0)))
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(1.0)
        before = follower.command("status")
        time.sleep(0.5)
        after = follower.command("status")
        with recording(root, config, *options, "--resume", "--num-episodes", "1", "--episode-time-s", "1") as again:
            status, said, err = summary(again)
    assert all(after["torque"].values()) and before["goals"] == after["goals"]
    assert all(abs(before["ticks"][id] - ticks) <= 2 for id, ticks in after["ticks"].items()), "it stands"
    assert status == 0, err
    assert said["total_episodes"] == len(episodes(root)) >= 3
