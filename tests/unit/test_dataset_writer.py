"""The data set writer: what lies on the disk, how it is taken up again, what a kill and a full disk leave."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.moving_pictures import CAMERAS, JOINTS, add_frames, capture_ns, joints, picture
from vlad.arm import Calibration
from vlad.build.dataset import read_dataset
from vlad.dataset import files, stats
from vlad.dataset.writer import STAGING, DatasetWriter
from vlad.errors import DatasetError, DiskShort

MOTORS = {name: Calibration(i + 1, 0, 10 * i, 100, 4000) for i, name in enumerate(JOINTS)}


def opened(root: Path, **options: object) -> DatasetWriter:
    return DatasetWriter(root, 30, JOINTS, CAMERAS, **{"min_free_bytes": 0, **options})  # type: ignore[arg-type]


def record(root: Path, lengths: tuple[int, ...], **options: object) -> None:
    with opened(root, **options) as writer:
        for frames in lengths:
            add_frames(writer, writer.episodes, frames)
            writer.save_episode("tidy up", success=True)


def episodes(root: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(files.episodes_file(root)).to_pylist()
    return found


def check_whole(root: Path, at_least: int = 0) -> int:
    """Every episode that meta/info.json counts is there, with its frames, and pictures of some; returns how many."""
    info = json.loads((root / "meta/info.json").read_text())
    counted = info["total_episodes"]
    assert counted >= at_least
    rows = episodes(root)[:counted] if counted else []
    assert sum(int(str(row["length"])) for row in rows) == info["total_frames"]
    for episode, row in enumerate(rows):
        table = pq.read_table(files.data_file(root, episode))
        assert table["episode_index"].to_pylist() == [episode] * int(str(row["length"]))
        np.testing.assert_array_equal(table["observation.state"][3].as_py(), joints(episode, 3))
        assert table["capture_ns"][3].as_py() == capture_ns(episode, 3)
        if 1 < episode < counted - 4:
            continue  # decoding takes long; those at the seams are looked at
        for camera in CAMERAS:
            key = f"videos/observation.images.{camera}"
            place = root / f"{key}/chunk-{row[f'{key}/chunk_index']:03d}/file-{row[f'{key}/file_index']:03d}.mp4"
            start = float(str(row[f"{key}/from_timestamp"]))
            with av.open(str(place)) as container:
                shown = {round(float(f.time or 0) * 30): f for f in container.decode(video=0)}
            seen = shown[round(start * 30) + 3].to_ndarray(format="rgb24").astype(float)
            assert np.abs(seen - picture(camera, episode, 3)).mean() < 6
    return int(counted)


def test_layout(tmp_path: Path) -> None:
    root = tmp_path / "set"
    record(root, (5, 8), calibrations={"follower": MOTORS}, about={"teleop": "keyboard"})
    check_whole(root, 2)
    known = read_dataset(root)  # what `vlad build` and `vlad quantize` read
    assert (known.rate_hz, known.joints, known.tasks) == (30.0, JOINTS, ("tidy up",))
    about = json.loads((root / "meta/vlad.json").read_text())
    assert about["teleop"] == "keyboard" and about["calibrations"] == ["follower"]
    assert json.loads((root / "meta/calibration/follower.json").read_text())["gripper"]["homing_offset"] == 50
    assert not (root / STAGING).exists()
    videos = sorted(str(p.relative_to(root)) for p in root.glob("videos/*/*/*.mp4"))
    assert len(videos) == len(CAMERAS), f"the videos of both episodes are one file a camera: {videos}"
    features = json.loads((root / "meta/info.json").read_text())["features"]
    assert features["capture_ns"] == {"dtype": "int64", "shape": [3], "names": ["state", *CAMERAS]}


def test_episodes_of_several_recordings_follow_one_another(tmp_path: Path) -> None:
    root = tmp_path / "set"
    record(root, (5, 8))
    record(root, (6,), resume=True)
    with opened(root, resume=True) as writer:
        assert (writer.episodes, writer.frames) == (3, 19)
        add_frames(writer, 3, 4)
        writer.discard_episode()
        add_frames(writer, 3, 9)
        assert writer.save_episode("another task", success=False, recovery=True, cluster=7, extra={"reward": 0.5}) == 3
    assert check_whole(root) == 4
    rows = episodes(root)
    assert [row["success"] for row in rows] == [True, True, True, False]
    assert [row["cluster"] for row in rows] == [-1, -1, -1, 7]
    assert [row["reward"] for row in rows] == [None, None, None, 0.5]
    assert pq.read_table(root / "meta/tasks.parquet")["task"].to_pylist() == ["tidy up", "another task"]
    assert pq.read_table(files.data_file(root, 3))["task_index"].to_pylist() == [1] * 9
    assert len(list(root.glob("videos/*/*/*.mp4"))) == len(CAMERAS)
    of_all = json.loads((root / "meta/stats.json").read_text())["observation.state"]
    states = np.array([joints(e, f) for e, n in enumerate((5, 8, 6, 9)) for f in range(n)], np.float64)
    np.testing.assert_allclose(of_all["mean"], states.mean(0), atol=1e-6)
    np.testing.assert_allclose(of_all["std"], states.std(0), atol=1e-6)
    assert of_all["count"] == [28]


def test_statistics_of_pictures_are_exact(tmp_path: Path) -> None:
    shown = np.stack([picture("top", 0, f) for f in range(4)])
    histogram = np.stack([np.bincount(shown[..., c].ravel(), minlength=256) for c in range(3)]).astype(np.int64)
    found = stats.of_histogram(histogram, 4)
    pixels = shown.reshape(-1, 3) / 255
    for name, value in {"min": pixels.min(0), "max": pixels.max(0), "mean": pixels.mean(0), "std": pixels.std(0),
                        "q50": np.quantile(pixels, 0.5, axis=0, method="inverted_cdf")}.items():  # fmt: skip
        np.testing.assert_allclose(found[name].ravel(), value, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(("change", "said"), [
    ({}, "is a data set already"),
    ({"resume": True, "fps": 25}, "fps: 30 there, 25 here"),
    ({"resume": True, "joints": JOINTS[::-1]}, "observation.state"),
    ({"resume": True, "cameras": {"top": (48, 64)}}, "features"),
    ({"resume": True, "robot_type": "so100_follower"}, "robot_type"),
    ({"resume": True, "calibrations": {"follower": MOTORS | {"gripper": Calibration(6, 0, 51, 100, 4000)}}},
     "calibration was another"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    root = tmp_path / "set"
    record(root, (5,), calibrations={"follower": MOTORS})
    arguments = {"fps": 30, "joints": JOINTS, "cameras": CAMERAS, "min_free_bytes": 0, **change}
    with pytest.raises(DatasetError, match=said):
        DatasetWriter(root, **arguments)  # type: ignore[arg-type]
    assert check_whole(root) == 1


@pytest.mark.parametrize(("arguments", "said"), [
    ({"fps": 29.97}, "whole number"), ({"fps": 0}, "whole number"), ({"cameras": {}}, "without cameras"),
    ({"cameras": {"top": (47, 64)}}, "even numbers"), ({"cameras": {"a/b": (48, 64)}}, "letters"),
])  # fmt: skip
def test_arguments_are_checked(tmp_path: Path, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        DatasetWriter(tmp_path / "set", **{"fps": 30, "joints": JOINTS, "cameras": CAMERAS, **arguments})  # type: ignore[arg-type]
    assert not (tmp_path / "set").exists()


def test_a_directory_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="is no data set"):
        opened(tmp_path)
    with pytest.raises(DatasetError, match="is no data set"):
        opened(tmp_path, resume=True)


def test_two_recordings_do_not_write_to_one_data_set(tmp_path: Path) -> None:
    with opened(tmp_path / "set"), pytest.raises(DatasetError, match="another recording is under way"):
        opened(tmp_path / "set", resume=True)


@pytest.mark.parametrize("spoil", [
    lambda state, action, pictures, times: state.__setitem__(2, np.nan),
    lambda state, action, pictures, times: action.__setitem__(2, np.inf),
    lambda state, action, pictures, times: pictures.pop("top"),
    lambda state, action, pictures, times: pictures.__setitem__("top", pictures["top"][:, :-2]),
    lambda state, action, pictures, times: pictures.__setitem__("top", pictures["top"].astype(np.float32)),
    lambda state, action, pictures, times: times.pop(),
    lambda state, action, pictures, times: times.__setitem__(0, capture_ns(0, 3)[0]),
    lambda state, action, pictures, times: times.__setitem__(2, 0),
])  # fmt: skip
def test_a_frame_that_is_none_ends_its_episode_alone(tmp_path: Path, spoil: object) -> None:
    with opened(tmp_path / "set") as writer:
        add_frames(writer, 0, 4)
        writer.save_episode("t", success=True)
        add_frames(writer, 1, 4)
        state, times = joints(0, 4), capture_ns(1, 4)
        action, pictures = state.copy(), {camera: picture(camera, 1, 4) for camera in CAMERAS}
        spoil(state, action, pictures, times)  # type: ignore[operator]
        with pytest.raises(ValueError):
            writer.add_frame(state, action, pictures, times)
        assert writer.frames_under_way == 0 and writer.episodes == 1
        with pytest.raises(DatasetError, match="no episode to save"):
            writer.save_episode("t", success=True)


def test_a_disk_that_runs_short_ends_the_episode_and_no_other(tmp_path: Path) -> None:
    free = [1 << 30]
    root = tmp_path / "set"
    with opened(root, min_free_bytes=1 << 20, free_bytes=lambda path: free[0]) as writer:
        add_frames(writer, 0, 40)
        writer.save_episode("t", success=True)
        add_frames(writer, 1, 29)
        free[0] = (1 << 20) - 1
        with pytest.raises(DiskShort, match="1 episodes are safe"):
            add_frames(writer, 1, 61)  # it is asked once a second
        with pytest.raises(DiskShort):
            add_frames(writer, 1, 1)
        assert not list((root / STAGING).iterdir())
        free[0] = 1 << 30
        add_frames(writer, 1, 5)
        writer.save_episode("t", success=True)
    assert check_whole(root) == 2
    with pytest.raises(DiskShort):
        opened(tmp_path / "other", min_free_bytes=1 << 20, free_bytes=lambda path: 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    where = tmp_path / "disk"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(where)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


def test_a_disk_that_is_full_all_at_once_leaves_whole_episodes(small_disk: Path) -> None:
    """No reserve, so that every write may fail, wherever it is."""
    root = small_disk / "set"
    noise = np.random.default_rng(0)
    writer = opened(root)
    saved = 0
    with pytest.raises(DiskShort, match="are safe"):
        for episode in range(500):
            add_frames(writer, episode, 6)
            for frame in range(6, 12):  # what no codec makes small
                pictures = {c: noise.integers(0, 255, (*size, 3), dtype=np.uint8) for c, size in CAMERAS.items()}
                writer.add_frame(joints(episode, frame), joints(episode, frame), pictures, capture_ns(episode, frame))
            writer.save_episode("t", success=True)
            saved += 1
    assert saved > 3
    assert check_whole(root) == saved
    subprocess.run(["mount", "-o", "remount,size=30m", small_disk], check=True)
    add_frames(writer, saved, 5)
    writer.save_episode("t", success=True)
    writer.close()
    assert check_whole(root) == saved + 1


CHILD = """
import sys
from pathlib import Path
from tests.moving_pictures import CAMERAS, JOINTS, add_frames
from vlad.dataset.writer import DatasetWriter

writer = DatasetWriter(Path(sys.argv[1]), 30, JOINTS, CAMERAS, min_free_bytes=0, resume=True)
print("up", flush=True)
while True:
    add_frames(writer, writer.episodes, 6)
    print(writer.save_episode("t", success=True), flush=True)
    if writer.episodes % 4 == 0:
        writer._join_videos()
"""


def test_kill_9_at_any_moment_loses_the_episode_under_way_alone(tmp_path: Path) -> None:
    root = tmp_path / "set"
    generator = random.Random(1)
    sure = 0
    for _ in range(8):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(root)], stdout=subprocess.PIPE, text=True,
                                 cwd=Path(__file__).parents[2])  # fmt: skip
        assert child.stdout is not None and child.stdout.readline() == "up\n"
        time.sleep(generator.uniform(0, 0.5))
        child.send_signal(signal.SIGKILL)
        told = child.stdout.read().splitlines()
        child.wait()
        sure = max([sure, *(int(line) + 1 for line in told if line)])
        sure = check_whole(root, at_least=sure)  # as the kill left it
    assert sure > 8, "the children hardly recorded anything"
    with opened(root, resume=True) as writer:
        assert writer.episodes == sure
        add_frames(writer, sure, 6)
        writer.save_episode("t", success=True)
    assert check_whole(root) == sure + 1
    left = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and "meta" not in p.parts}
    assert len([name for name in left if name.startswith("data")]) == sure + 1
    assert len([name for name in left if name.startswith("videos")]) == len(CAMERAS), left


def test_each_step_of_a_commit_leaves_a_data_set_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends before the first, the second, ... renaming of a commit and the joining after it."""
    root = tmp_path / "set"
    record(root, (5,))
    put = files.put_in_place
    for steps in range(14):
        left = [steps]

        def dies(made: Path, final: Path, left: list[int] = left) -> None:
            if left[0] == 0:
                os._exit(9)
            left[0] -= 1
            put(made, final)

        before = check_whole(root)
        if (child := os.fork()) == 0:
            writer = opened(root, resume=True)
            monkeypatch.setattr(files, "put_in_place", dies)
            add_frames(writer, before, 5)
            writer.save_episode("t", success=True)
            writer._join_videos()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert check_whole(root) == before + (steps >= 6), "meta/info.json comes sixth, and says what counts"
        if os.waitstatus_to_exitcode(status) == 0:
            break
    else:
        raise AssertionError("more steps than were tried")
