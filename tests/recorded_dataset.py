"""A LeRobot dataset v3.0 as vlad records it: the simulated arm picks tea bags out of clusters before three cameras.

Made without physics: the arm is put where its joints are, the tea bag stays. One video file for each episode, so that
a test can spoil one episode and leave the others alone.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlad.sim.expert import HOLD_M, height_m, tilt_rad
from vlad.sim.reach import Reach
from vlad.sim.start import CLUSTERS, Start, draw_start
from vlad.sim.world import ASSETS, JOINTS, REST_POSE_RAD, World

Frames = NDArray[np.uint8]
FPS = 10
FRAMES = 24  # of each episode
SIZE = (320, 240)
CAMERAS = ("top", "gripper", "left")
KEYS = tuple(f"observation.images.{name}" for name in CAMERAS)
OPEN, HELD, SHUT = 80.0, 20.0, 5.0  # of the gripper, 0..100


@dataclasses.dataclass(frozen=True)
class Take:
    """One episode to record. recovery: it goes back to a tea bag that it missed. roll: of the wrist, rad."""

    cluster: int
    seed: int
    recovery: bool = False
    roll: float = 0.0


def takes(clusters: Sequence[int], each: int = 10, recoveries: int = 2) -> list[Take]:
    """`each` episodes of each cluster, the last so many of them recoveries, wrists turned this way and that."""
    return [Take(c, 100 * c + i, i >= each - recoveries, 0.6 * ((i % 3) - 1)) for c in clusters for i in range(each)]


def write(root: Path, plan: Sequence[Take], cameras: Sequence[str] = CAMERAS, validation: int = 0) -> Path:
    """The dataset in `root`. cameras: may be none. validation: so many episodes from the end are that split."""
    random, frames, size = np.random.default_rng(0), FRAMES, SIZE
    world = World(0)
    keys = [f"observation.images.{name}" for name in cameras]
    tables, rows = [], []
    t_ns = 5_000_000_000_000
    try:
        for index, take in enumerate(plan):
            world.begin(_start(take))
            joints = _motion(world, take, frames, random)
            for camera, key in zip(cameras, keys, strict=True):
                encode(video(root, index, key), _filmed(world, camera, joints, size))
            tables.append(_table(joints, index, len(keys), t_ns, random))
            t_ns += 60_000_000_000
            rows.append(_row(take, index, frames, keys))
    finally:
        world.close()
    (root / "data/chunk-000").mkdir(parents=True)
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    (root / "meta/calibration").mkdir()
    pq.write_table(pa.concat_tables(tables), root / "data/chunk-000/file-000.parquet")
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "task": ["put the tea bag in the mug"]}), root / "meta/tasks.parquet")
    shutil.copy(ASSETS / "calibration.json", root / "meta/calibration/so101.json")
    train = len(plan) - validation
    splits = {"train": f"0:{train}"} | ({"validation": f"{train}:{len(plan)}"} if validation else {})
    names = [f"{name}.pos" for name in JOINTS]
    scalars = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64",
               "task_index": "int64"}  # fmt: skip
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": [6], "names": names},
        "action": {"dtype": "float32", "shape": [6], "names": names},
        "capture_ns": {"dtype": "int64", "shape": [1 + len(keys)], "names": ["state", *cameras]},
        **{name: {"dtype": kind, "shape": [1], "names": None} for name, kind in scalars.items()},
        **{key: {"dtype": "video", "shape": [size[1], size[0], 3], "names": ["height", "width", "channels"]}
           for key in keys},
    }  # fmt: skip
    (root / "meta/info.json").write_text(json.dumps({
        "codebase_version": "v3.0", "robot_type": "so101_follower", "fps": FPS, "splits": splits,
        "total_episodes": len(plan), "total_frames": frames * len(plan), "total_tasks": 1, "features": features,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }))  # fmt: skip
    return root


def video(root: Path, episode: int, key: str) -> Path:
    """The file with one episode of one camera."""
    return root / "videos" / key / f"chunk-000/file-{episode:03d}.mp4"


def encode(path: Path, pictures: Iterable[Frames], lost: Sequence[int] = ()) -> None:
    """As LeRobot does it: a key frame every second one, yuv420p. lost: frames that do not get into the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        options = {"g": "2", "crf": "23", "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=Fraction(FPS), options=options)
        stream.pix_fmt = "yuv420p"
        for at, picture in enumerate(pictures):
            if not at:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, FPS)
            if at not in lost:
                container.mux(stream.encode(frame))
        container.mux(stream.encode())


def spoil(
    root: Path, key: str, episodes: Iterable[int], change: Callable[[Frames], Frames], lost: Sequence[int] = ()
) -> None:
    """Films episodes anew: change takes the pictures `[frames, height, width, 3]` and gives them back."""
    for episode in episodes:
        path = video(root, episode, key)
        with av.open(str(path)) as container:
            frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
        encode(path, change(frames), lost)


def edit(file: Path, change: Callable[[dict[str, list[Any]]], None]) -> None:
    """Rewrites a table: change gets its columns as lists."""
    table = pq.read_table(file)
    columns = table.to_pydict()
    change(columns)
    schema = pa.schema([table.schema.field(name) for name in columns])
    pq.write_table(pa.table(columns, schema=schema), file)


def edit_info(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrites meta/info.json."""
    info = json.loads((root / "meta/info.json").read_text())
    change(info)
    (root / "meta/info.json").write_text(json.dumps(info))


def _start(take: Take) -> Start:
    """Nearer to the middle of its cell than the simulator's: cells that touch cannot be told apart by grasps."""
    start = draw_start(np.random.default_rng(take.seed), take.cluster)
    middle = np.array(CLUSTERS[take.cluster - 1])
    x, y = middle + 0.2 * (np.array(start.bag_m) - middle)
    return dataclasses.replace(start, bag_m=(float(x), float(y)))


def _motion(world: World, take: Take, frames: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Joints `[frames, 6]`: rad, the gripper 0..100."""
    bag = world.data.body("tea_bag").xpos.copy()
    mug = world.data.body("mug").xpos.copy()

    arm = Reach(world.model)

    def at(target: NDArray[np.float64], height: float, grip: float) -> NDArray[np.float64]:
        away = arm.distance(target)
        up = height_m(away, height)
        heading = arm.bearing(target) + take.roll
        point = np.array([target[0], target[1], up])
        return np.array([*arm.nearest(point, heading, HOLD_M, tilt_rad(away, up)), grip])

    rest = np.array([*REST_POSE_RAD[:5], SHUT])
    grasp = [at(bag, 0.08, OPEN), at(bag, 0.02, OPEN), at(bag, 0.02, HELD)]
    path = [rest, *grasp]
    if take.recovery:  # NXP's: it begins near the mug and goes back to the tea bag, and misses it once
        path = [at(mug, 0.12, OPEN), *grasp, at(bag, 0.06, OPEN), *grasp[1:]]
    path += [at(bag, 0.10, HELD), at(mug, 0.13, HELD), at(mug, 0.13, OPEN), rest]
    where = np.linspace(0, len(path) - 1, frames)
    joints = np.stack([np.interp(where, range(len(path)), column) for column in np.array(path).T], axis=1)
    return joints + random.normal(0, [0.001] * 5 + [0.1], joints.shape)


def _filmed(world: World, camera: str, joints: NDArray[np.float64], size: tuple[int, int]) -> Iterable[Frames]:
    for row in joints:
        world.data.qpos[:6] = [*row[:5], -0.175 + 1.92 * row[5] / 100]
        world.show(world.qpos())
        yield world.render(camera, *size)


def _table(joints: NDArray[np.float64], episode: int, cameras: int, t_ns: int, random: np.random.Generator) -> pa.Table:
    count = len(joints)
    units = np.concatenate([np.degrees(joints[:, :5]), joints[:, 5:]], axis=1)
    action = np.concatenate([units[1:], units[-1:]])
    t = t_ns + np.arange(count) * (10**9 // FPS) + random.integers(-300_000, 300_000, count)
    clocks = np.stack([t, *(t - 8_000_000 - random.integers(0, 12_000_000, count) for _ in range(cameras))], axis=1)
    vector = pa.list_(pa.float32(), 6)
    return pa.table({
        "observation.state": pa.array(units.astype(np.float32).tolist(), vector),
        "action": pa.array(action.astype(np.float32).tolist(), vector),
        "capture_ns": pa.array(clocks.tolist(), pa.list_(pa.int64(), 1 + cameras)),
        "timestamp": pa.array((np.arange(count) / FPS).astype(np.float32)),
        "frame_index": list(range(count)), "episode_index": [episode] * count,
        "index": list(range(episode * count, (episode + 1) * count)), "task_index": [0] * count,
    })  # fmt: skip


def _row(take: Take, index: int, frames: int, keys: Sequence[str]) -> Mapping[str, Any]:
    place = {"chunk_index": 0, "file_index": index, "from_timestamp": 0.0, "to_timestamp": frames / FPS}
    places = {f"videos/{key}/{name}": value for key in keys for name, value in place.items()}
    return {
        "episode_index": index, "tasks": ["put the tea bag in the mug"], "length": frames, "data/chunk_index": 0,
        "data/file_index": 0, "dataset_from_index": index * frames, "dataset_to_index": (index + 1) * frames,
        "success": True, "recovery": take.recovery, "cluster": take.cluster, **places,
    }  # fmt: skip
