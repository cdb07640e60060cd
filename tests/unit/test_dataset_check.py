"""`vlad dataset check`: a clean dataset passes, and each planted defect is found by its own item and no other."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests import recorded_dataset as recorded
from vlad.dataset import clusters
from vlad.dataset.check import Checked, judge
from vlad.dataset.item import TITLES
from vlad.dataset.motion import closings, motions, placing_joints
from vlad.dataset.motion_items import Places, near_share
from vlad.dataset.reader import Episode, read_recording
from vlad.dataset.views import MAX_PICTURES, MAX_VIEWS, CameraView, blur, budget, look
from vlad.errors import BundleError
from vlad.main import main

PICTURES = 10
TOP, GRIPPER, LEFT = recorded.KEYS
Frames = NDArray[np.uint8]


@dataclasses.dataclass
class Clean:
    root: Path
    views: dict[str, CameraView]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    """Three clusters of ten, two recoveries in each; the last cluster is held out."""
    root = recorded.write(tmp_path_factory.mktemp("recorded") / "set", recorded.takes([1, 6, 11]), validation=10)
    recording = read_recording(root)
    return Clean(root, {key: look(recording, key, PICTURES, lambda _: None) for key in recorded.KEYS})


@pytest.fixture
def copy(clean: Clean, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean.root, tmp_path / "set"))


def checked(clean: Clean, root: Path, spoiled: tuple[str, ...] = ()) -> Checked:
    """Looks at the spoiled cameras again; the others are as they were."""
    recording = read_recording(root)
    known = {e.index for e in recording.episodes}
    cameras = [look(recording, key, PICTURES, lambda _: None) if key in spoiled else _only(clean.views[key], known)
               for key in recording.dataset.cameras]  # fmt: skip
    return judge(recording, cameras)


def _only(camera: CameraView, episodes: set[int]) -> CameraView:
    kept = [(v, m) for v, m in zip(camera.views, camera.moved_px, strict=True) if v.episode in episodes]
    return dataclasses.replace(camera, views=tuple(v for v, _ in kept), moved_px=tuple(m for _, m in kept))


def verdicts(found: Checked, which: str = "bad") -> set[str]:
    return {i.key for i in found.items if i.verdict == which}


def item(found: Checked, key: str) -> Any:
    return next(i for i in found.items if i.key == key)


def test_a_clean_dataset_passes_every_item(clean: Clean) -> None:
    found = checked(clean, clean.root)
    assert [i.key for i in found.items] == list(TITLES)
    assert verdicts(found, "good") == set(TITLES), [i for i in found.items if i.verdict != "good"]
    assert found.ok and not any(i.advice for i in found.items)


def moved(x_px: float, degrees: float = 0.0) -> Callable[[Frames], Frames]:
    def change(frames: Frames) -> Frames:
        height, width = frames.shape[1:3]
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
        turn[0, 2] += x_px
        return np.stack([cv2.warpAffine(f, turn, (width, height), borderMode=cv2.BORDER_REPLICATE) for f in frames])

    return change


def lit(gains: NDArray[np.float64]) -> Callable[[Frames], Frames]:
    return lambda frames: (frames * np.resize(gains, (len(frames), 1, 1, 1))).clip(0, 255).astype(np.uint8)


def faded(frames: Frames) -> Frames:
    return (190 + 0.25 * (frames.astype(np.float64) - 190)).astype(np.uint8)


def blurred(frames: Frames) -> Frames:
    return np.stack([cv2.GaussianBlur(f, (0, 0), 2.0) for f in frames])


def blackened(frames: Frames) -> Frames:
    frames[10:14] = 8
    return frames


def stuck(frames: Frames) -> Frames:
    frames[8:18] = frames[8]
    return frames


LATE = range(20, 30)
PICTURE_DEFECTS = {
    "moved by 3 px": (TOP, LATE, moved(3), (), "camera_drift"),
    "turned by 1.5 degrees": (LEFT, LATE, moved(0, 1.5), (), "camera_drift"),
    "the gripper's camera moved by 4 px": (GRIPPER, LATE, moved(4), (), "camera_drift"),
    "a brighter lamp": (LEFT, [15], lit(np.array([1.2])), (), "lighting"),
    "clouds": (TOP, [15], lit(np.linspace(0.8, 1.2, recorded.FRAMES)[:, None, None, None]), (), "lighting"),
    "white on white": (TOP, range(30), faded, (), "contrast"),
    "out of focus": (TOP, range(10, 14), blurred, (), "focus"),
    "black for a while": (GRIPPER, [4], blackened, (), "dark_frames"),
    "frozen for a while": (TOP, [3], stuck, (), "frozen_frames"),
    "frames lost": (LEFT, [7], lambda frames: frames, (11, 12), "dropped_frames"),
}


@pytest.mark.parametrize("name", PICTURE_DEFECTS)
def test_a_defect_of_pictures_is_found_by_its_item_alone(clean: Clean, copy: Path, name: str) -> None:
    key, episodes, change, lost, expected = PICTURE_DEFECTS[name]
    recorded.spoil(copy, key, episodes, change, lost)
    found = checked(clean, copy, (key,))
    assert verdicts(found) == {expected}, [i for i in found.items if i.verdict != "good"]
    told = item(found, expected)
    assert key.rpartition(".")[2] in told.value + told.advice and told.advice
    assert not found.ok


def test_how_far_a_camera_moved_is_measured(clean: Clean, copy: Path) -> None:
    recorded.spoil(copy, LEFT, [12], moved(5))
    px = item(checked(clean, copy, (LEFT,)), "camera_drift").figures["cameras"]["left"]["px"]
    assert px[12] == pytest.approx(5, abs=0.2) and px[13] < 0.5


def rows(root: Path) -> Path:
    return root / "data/chunk-000/file-000.parquet"


def episodes(root: Path) -> Path:
    return root / "meta/episodes/chunk-000/file-000.parquet"


def late(root: Path) -> None:
    def change(columns: dict[str, list[Any]]) -> None:
        behind = 10**9 // recorded.FPS
        columns["capture_ns"] = [[t + (behind if frame > 11 else 0) for t in clocks]
                                 for clocks, frame in zip(columns["capture_ns"], columns["frame_index"], strict=True)]

    recorded.edit(rows(root), change)


def twice(root: Path) -> None:
    def change(columns: dict[str, list[Any]]) -> None:
        clocks = columns["capture_ns"]
        for at in range(1, len(clocks), 30):
            clocks[at][2] = clocks[at - 1][2]

    recorded.edit(rows(root), change)


def uneven(root: Path) -> None:
    random = np.random.default_rng(1)

    def change(columns: dict[str, list[Any]]) -> None:
        off = random.integers(-18_000_000, 18_000_000, len(columns["capture_ns"])).tolist()
        columns["capture_ns"] = [[t + o for t in c] for c, o in zip(columns["capture_ns"], off, strict=True)]

    recorded.edit(rows(root), change)


def behind(root: Path) -> None:
    def change(columns: dict[str, list[Any]]) -> None:
        columns["capture_ns"] = [[s, a, b, c - 130_000_000] for s, a, b, c in columns["capture_ns"]]

    recorded.edit(rows(root), change)


def few(root: Path) -> None:
    """Seven episodes of the last cluster go."""
    def change(columns: dict[str, list[Any]]) -> None:
        kept = [i for i, e in enumerate(columns["episode_index"]) if e < 23]
        columns.update({name: [column[i] for i in kept] for name, column in columns.items()})

    recorded.edit(rows(root), change)
    recorded.edit(episodes(root), change)
    recorded.edit_info(root, lambda info: info.update(total_episodes=23, total_frames=23 * recorded.FRAMES))


def no_recovery(root: Path) -> None:
    recorded.edit(episodes(root), lambda columns: columns.update(recovery=[False] * 30))


def stiff(root: Path) -> None:
    def change(columns: dict[str, list[Any]]) -> None:
        columns["observation.state"] = [[*s[:4], 0.05 * s[4], s[5]] for s in columns["observation.state"]]

    recorded.edit(rows(root), change)


def leaking(root: Path) -> None:
    recorded.edit_info(root, lambda info: info.update(splits={"train": "0:25", "validation": "25:30"}))


def overlapping(root: Path) -> None:
    recorded.edit_info(root, lambda info: info.update(splits={"train": "0:30", "val": "20:30"}))


def no_calibration(root: Path) -> None:
    shutil.rmtree(root / "meta/calibration")


def other_calibration(root: Path) -> None:
    (root / "meta/calibration/so101.json").write_text("{}")


def no_gripper_camera(root: Path) -> None:
    recorded.edit_info(root, lambda info: info["features"].pop(GRIPPER))


TABLE_DEFECTS = {
    "dropped_frames": (late, twice), "timestamp_jitter": (uneven,), "camera_skew": (behind,), "start_clusters": (few,),
    "recovery_share": (no_recovery,), "joint_coverage": (stiff,), "validation_split": (leaking, overlapping),
    "calibration_backup": (no_calibration, other_calibration), "gripper_camera": (no_gripper_camera,),
}  # fmt: skip


@pytest.mark.parametrize(("expected", "plant"), [(k, p) for k, each in TABLE_DEFECTS.items() for p in each])
def test_a_defect_of_tables_is_found_by_its_item_alone(
    clean: Clean, copy: Path, expected: str, plant: Callable[[Path], None]
) -> None:
    plant(copy)
    found = checked(clean, copy)
    assert verdicts(found) == {expected}, [i for i in found.items if i.verdict != "good"]
    assert item(found, expected).advice


def test_every_item_has_a_planted_defect() -> None:
    assert {d[-1] for d in PICTURE_DEFECTS.values()} | set(TABLE_DEFECTS) == set(TITLES)


def test_a_training_episode_again_is_no_validation(clean: Clean, copy: Path) -> None:
    """The same scene under another number: its pictures and its joints."""
    for key in recorded.KEYS:
        shutil.copy(recorded.video(copy, 3, key), recorded.video(copy, 22, key))
    found = checked(clean, copy, (TOP, LEFT))
    assert item(found, "validation_split").figures["same_scene"] == [(22, 3)]
    assert verdicts(found) == {"validation_split"}


def test_cameras_that_were_swapped(clean: Clean, copy: Path) -> None:
    for episode in range(30):
        shutil.copy(recorded.video(copy, episode, TOP), recorded.video(copy, episode, GRIPPER))
    found = checked(clean, copy, (GRIPPER,))
    assert verdicts(found) == {"gripper_camera"}
    assert "swapped" in item(found, "gripper_camera").advice


def test_what_lerobot_does_not_record_is_unknown_or_estimated(clean: Clean, copy: Path) -> None:
    def plain(info: dict[str, Any]) -> None:
        del info["features"]["capture_ns"]
        info["splits"] = {"train": "0:30"}

    recorded.edit_info(copy, plain)
    recorded.edit(rows(copy), lambda columns: columns.pop("capture_ns") and None)
    recorded.edit(episodes(copy), lambda columns: [columns.pop(n) for n in ("success", "recovery", "cluster")] and None)
    found = checked(clean, copy)
    assert verdicts(found, "unknown") == {"timestamp_jitter", "camera_skew", "validation_split"}
    assert found.ok and not verdicts(found)
    assert item(found, "timestamp_jitter").value == "not recorded" and item(found, "timestamp_jitter").advice
    assert item(found, "start_clusters").value.startswith("3 found by grasps")
    truth = [i for i, take in enumerate(recorded.takes([1, 6, 11])) if take.recovery]
    assert item(found, "recovery_share").figures["episodes"] == truth
    assert "estimated" in item(found, "recovery_share").value


@pytest.fixture(scope="module")
def eleven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulator's 11 clusters, 12 episodes in each as NXP recorded them; no pictures."""
    return recorded.write(tmp_path_factory.mktemp("eleven") / "set", recorded.takes(range(1, 12), 12), cameras=())


@pytest.mark.parametrize("noise_deg", [0.0, 1.0])
def test_eleven_clusters_are_found_by_grasps(eleven: Path, noise_deg: float) -> None:
    """Without what is recorded of them; also where an operator's hand grasps a little to the side."""
    recording = read_recording(eleven)
    points = np.stack([m.grasp[placing_joints(recording)] for m in motions(recording) if m.grasp is not None])
    points += np.random.default_rng(0).normal(0, noise_deg, points.shape)
    labels, score = clusters.find(points)
    truth = np.array([e.cluster for e in recording.episodes])
    assert len(set(labels.tolist())) == 11 and score > clusters.APART
    assert sorted(np.bincount(labels).tolist()) == [12] * 11
    assert all(len(set(truth[labels == one].tolist())) == 1 for one in range(11))


def test_places_everywhere_are_no_clusters() -> None:
    """NXP's cells touch one another: nothing but a record can tell them apart."""
    points = np.random.default_rng(0).uniform(0, 50, (200, 3))
    assert clusters.find(points)[1] < clusters.APART
    labels, _ = clusters.find(points, 7)
    assert len(set(labels.tolist())) == 7


def test_clusters_of_more_episodes_than_are_compared() -> None:
    centres = np.array([[0.0, 0], [40, 0], [0, 40]])
    truth = np.arange(9000) % 3
    labels, score = clusters.find(centres[truth] + np.random.default_rng(0).normal(0, 3, (9000, 2)))
    assert score > 0.7 and sorted(np.bincount(labels).tolist()) == [3000] * 3
    assert all(len(set(truth[labels == one].tolist())) == 1 for one in range(3))


def test_a_random_split_is_nearer_than_a_cell_held_out() -> None:
    """NXP's eleven cells of 10 x 10 cm, which touch one another."""
    random = np.random.default_rng(0)
    cells, chance = [], []
    for _ in range(40):
        corners = [(10 * x, 10 * y) for x in range(4) for y in range(3)][:11]
        points = np.concatenate([random.uniform(0, 10, (12, 2)) + corner for corner in corners])
        at = Places(tuple(range(132)), points, np.zeros(132, np.int64), 0.0, {})
        for held, found in ((range(60, 72), cells), (random.choice(132, 12, replace=False).tolist(), chance)):
            found.append(near_share(at, set(held), set(range(132)) - set(held)))
    assert np.mean(cells) < 0.12 and np.mean(chance) > 0.4  # type: ignore[arg-type]


def test_closings_of_a_gripper() -> None:
    noise = np.random.default_rng(0).normal(0, 0.5, 200)
    path = np.interp(np.arange(200), [0, 20, 40, 50, 100, 110, 150, 160], [5, 5, 80, 30, 30, 80, 80, 5])
    (first, opened), (last, never) = closings(path + noise, 15.0)
    assert 47 <= first <= 51 and 90 <= opened <= 103  # type: ignore[operator]
    assert 157 <= last <= 161 and never is None
    assert closings(np.full(50, 40.0) + noise[:50], 15.0) == []
    assert [at for at, _ in closings(np.linspace(80, 20, 11), 15.0)] == [9]


def test_blur_is_measured_in_px() -> None:
    sharp = np.kron(np.random.default_rng(0).integers(40, 220, (12, 16)), np.ones((20, 20))).astype(np.uint8)
    for radius in (1.0, 2.0, 4.0):
        assert blur(np.asarray(cv2.GaussianBlur(sharp, (0, 0), radius), np.uint8)) == pytest.approx(radius, rel=0.25)
    assert blur(sharp) < 0.9
    assert np.isnan(blur(np.full((240, 320), 90, np.uint8)))


def test_a_large_dataset_is_sampled() -> None:
    many = [Episode(i, slice(0, 300), None, None, None, {}) for i in range(50_000)]
    assert budget(many[:100], 20) == (many[:100], 20)
    assert budget(many[:100], 4096)[1] == MAX_PICTURES // 100
    chosen, each = budget(many, 20)
    assert each == 20 and len(chosen) == MAX_VIEWS and chosen[0].index == 0 and chosen[-1].index > 49_900


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def shorter(root: Path) -> None:
    recorded.edit(episodes(root), lambda columns: columns["length"].__setitem__(4, 20))


def too_many(root: Path) -> None:
    recorded.edit_info(root, lambda info: info.update(total_episodes=31))


def without_a_row(root: Path) -> None:
    recorded.edit(episodes(root), lambda columns: [column.pop(5) for column in columns.values()] and None)


def infinite(root: Path) -> None:
    recorded.edit(rows(root), lambda columns: columns["action"][30].__setitem__(2, float("nan")))


BROKEN = {
    "not a table of LeRobot frames": lambda root: truncate(rows(root)),
    "not a table of LeRobot episodes": lambda root: truncate(episodes(root)),
    "cannot be read": lambda root: recorded.video(root, 6, LEFT).unlink(),
    "cut short": lambda root: recorded.spoil(root, LEFT, [6], lambda frames: frames[:12]),
    "episode 4 has 20 frames, data/ has 24": shorter,
    "says total_episodes = 31, its tables hold 30": too_many,
    "has no row for episode 5": without_a_row,
    "action of row 30 is not finite": infinite,
    "info.json: missing": lambda root: (root / "meta/info.json").unlink(),
    "split train is 'all'": lambda root: recorded.edit_info(root, lambda info: info.update(splits={"train": "all"})),
    "does not name the columns of capture_ns": lambda root: recorded.edit_info(
        root, lambda info: info["features"]["capture_ns"].update(names=["state"])),
}  # fmt: skip


@pytest.mark.parametrize("said", BROKEN)
def test_what_is_broken_is_named(copy: Path, said: str) -> None:
    BROKEN[said](copy)
    with pytest.raises(BundleError, match=said) as error:
        look(read_recording(copy), LEFT, 2, lambda _: None)
    assert str(copy) in str(error.value)


def test_the_command(clean: Clean, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, figures = tmp_path / "r.html", tmp_path / "r.json"
    words = ["--frames", "10", "--html", str(page), "--json", str(figures), "--validation-clusters", "11"]
    assert main(["dataset", "check", str(clean.root), *words]) == 0
    text = capsys.readouterr().out
    assert text.count("\ngood ") == len(TITLES) and "15 good" in text
    found = json.loads(figures.read_text())
    assert found["ok"] and [i["key"] for i in found["items"]] == list(TITLES)
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") == 15 and html.count("<svg") == 6
    assert "<script" not in html and 'src="http' not in html and "default-src 'none'" in html
    assert all(title in html for title in TITLES.values())


def test_exit_statuses(eleven: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "check", str(eleven)]) == 1
    assert "BAD     Gripper camera" in capsys.readouterr().out
    for words, said in (
        ([str(tmp_path)], "info.json: missing"),
        ([str(eleven), "--validation-clusters", "12"], "no cluster 12"),
        ([str(eleven), "--json", str(tmp_path / "no/place.json")], "No such file"),
    ):
        assert main(["dataset", "check", *words]) == 2
        assert said in capsys.readouterr().err
    for wrong in (["check"], ["check", str(eleven), "--frames", "9"], ["polish"], []):
        with pytest.raises(SystemExit) as left:
            main(["dataset", *wrong])
        assert left.value.code == (0 if not wrong else 2)
