"""What LeRobot expects in `meta/` and `data/`: features, and tables as it reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlad.dataset import stats

STATE, ACTION, CAPTURE = "observation.state", "action", "capture_ns"
PICTURES = "observation.images."


def features(fps: int, joints: Sequence[str], cameras: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """`features` of meta/info.json. No name of ours begins with `observation` or `action`: LeRobot would feed it to
    the policy."""
    names = [f"{joint}.pos" for joint in joints]
    vector = {"dtype": "float32", "shape": [len(joints)], "names": names}
    table: dict[str, Any] = {STATE: vector, ACTION: dict(vector)}
    for name, (height, width) in cameras.items():
        table[PICTURES + name] = {
            "dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"],
            "info": {"video.height": height, "video.width": width, "video.codec": "h264", "video.pix_fmt": "yuv420p",
                     "video.is_depth_map": False, "video.fps": fps, "video.channels": 3, "has_audio": False},
        }  # fmt: skip
    table[CAPTURE] = {"dtype": "int64", "shape": [1 + len(cameras)], "names": ["state", *cameras]}
    table["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    for name in ("frame_index", "episode_index", "index", "task_index"):
        table[name] = {"dtype": "int64", "shape": [1], "names": None}
    return table


def frames(columns: Mapping[str, NDArray[Any]]) -> Any:
    """Frames: `[frames]` or `[frames, size]` each."""
    def column(values: NDArray[Any]) -> Any:
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])

    return pa.table({name: column(values) for name, values in columns.items()})


def episodes(rows: Sequence[Mapping[str, Any]]) -> Any:
    """meta/episodes: a column for every key of any row, null where a row has none."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def tasks(texts: Sequence[str]) -> Any:
    """meta/tasks.parquet: LeRobot reads a pandas frame whose index is the task."""
    table = pa.table({"task_index": pa.array(range(len(texts)), pa.int64()), "task": pa.array(texts, pa.string())})
    text = {"pandas_type": "unicode", "numpy_type": "object"}
    number = {"pandas_type": "int64", "numpy_type": "int64"}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [{"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}],
        "columns": [{"name": name, "field_name": name, **kind, "metadata": None}
                    for name, kind in (("task_index", number), ("task", text))],
        "creator": {"library": "pyarrow", "version": pa.__version__}, "pandas_version": "2.2.0",
    }  # fmt: skip
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def stats_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """meta/stats.json: of all episodes, from what each row of meta/episodes says of its own."""
    names = [column.split("/") for column in rows[0] if column.startswith("stats/")]
    table: dict[str, dict[str, Any]] = {}
    for feature in dict.fromkeys(feature for _, feature, _ in names):
        kinds = [kind for _, other, kind in names if other == feature]
        parts = [{kind: np.array(row[f"stats/{feature}/{kind}"]) for kind in kinds} for row in rows]
        together = stats.of_all(parts)
        table[feature] = {kind: value.tolist() for kind, value in together.items()}
        table[feature]["count"] = [int(together["count"][0])]
    return table
