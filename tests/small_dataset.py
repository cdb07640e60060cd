"""A small LeRobot dataset v3.0 with real tables and real MP4 videos, for a policy whose dataset has metadata alone."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

FPS = 30


def picture(camera: int, episode: int, frame: int, size: tuple[int, int] = (64, 48)) -> NDArray[np.uint8]:
    """RGB of `size` (width, height): one grey a frame, which survives any codec, over a pattern of the camera's own."""
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    pattern = 16 * np.sin(0.2 * rows * (camera + 1) + 0.1 * columns)
    grey = 60 + 100 * (episode % 2) + 4 * frame + pattern
    return np.repeat(grey[..., None], 3, axis=-1).clip(0, 255).astype(np.uint8)


def write_dataset(
    meta: Path, root: Path, episodes: int = 4, frames: int = 12, size: tuple[int, int] = (64, 48)
) -> Path:
    """`root` with the metadata of the dataset directory `meta` and so many episodes, all in one file of each kind."""
    shutil.copytree(meta / "meta", root / "meta")
    info = json.loads((root / "meta/info.json").read_text())
    stats = json.loads((root / "meta/stats.json").read_text())
    cameras = [k for k, f in info["features"].items() if f["dtype"] == "video"]
    tasks = pq.read_table(root / "meta/tasks.parquet").num_rows
    generator = np.random.default_rng(0)
    mean, std = (np.array(stats["observation.state"][k]) for k in ("mean", "std"))
    rows = [(e, f) for e in range(episodes) for f in range(frames)]
    states = (mean + std * generator.standard_normal((len(rows), len(mean)))).astype(np.float32)
    table = pa.table({
        "observation.state": pa.array(states.tolist(), pa.list_(pa.float32(), len(mean))),
        "action": pa.array(states.tolist(), pa.list_(pa.float32(), len(mean))),
        "timestamp": pa.array([f / FPS for _, f in rows], pa.float32()),
        "frame_index": [f for _, f in rows], "episode_index": [e for e, _ in rows],
        "index": list(range(len(rows))), "task_index": [e % tasks for e, _ in rows],
    })  # fmt: skip
    places: dict[str, list[float]] = {"episode_index": list(range(episodes))}
    for camera in cameras:
        places |= {f"videos/{camera}/{k}": [0] * episodes for k in ("chunk_index", "file_index")}
        places[f"videos/{camera}/from_timestamp"] = [e * frames / FPS for e in range(episodes)]
    for path, what in (("data", table), ("meta/episodes", pa.table(places))):
        (root / path / "chunk-000").mkdir(parents=True, exist_ok=True)
        pq.write_table(what, root / path / "chunk-000/file-000.parquet")
    for index, camera in enumerate(cameras):
        video = root / "videos" / camera / "chunk-000/file-000.mp4"
        video.parent.mkdir(parents=True)
        with av.open(str(video), "w") as container:
            stream = container.add_stream("mpeg4", rate=Fraction(FPS))
            (stream.width, stream.height), stream.pix_fmt, stream.bit_rate = size, "yuv420p", 4_000_000
            for e, f in rows:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index, e, f, size), format="rgb24")))
            container.mux(stream.encode())
    return root
