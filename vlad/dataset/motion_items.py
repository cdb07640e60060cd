"""Checklist items about where episodes start and how the joints move. Thresholds and why: docs/dataset-check.md."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlad.arm import read_calibration
from vlad.dataset import clusters
from vlad.dataset.item import Item, item, some
from vlad.dataset.motion import Motion, elsewhere, gripper_joint, placing_joints
from vlad.dataset.reader import Recording
from vlad.dataset.views import STILL, CameraView
from vlad.errors import BundleError, ConfigError

Array = NDArray[np.float64]

EACH = 10  # episodes of a cluster
MISPLACED = 0.3  # of the episodes
RECOVERY = (0.10, 0.30)  # of the episodes
COVERED = 15.0  # units of the recording
NEAR = 0.25  # of the validation episodes
VALIDATION = ("validation", "val", "valid", "eval", "test")


@dataclasses.dataclass(frozen=True, slots=True)
class Places:
    """Where the episodes start. episodes: those in which it could be told by a grasp. points: joints there `[n, d]`.
    found, silhouette: clusters of these. recorded: cluster by episode, as the dataset has it; empty unless it has one
    for each.
    """

    episodes: tuple[int, ...]
    points: Array
    found: NDArray[np.int64]
    silhouette: float
    recorded: dict[int, int]

    @property
    def labels(self) -> dict[int, int]:
        """Cluster by episode: as recorded, else as found, else empty."""
        if self.recorded:
            return self.recorded
        if self.silhouette < clusters.APART:
            return {}
        return dict(zip(self.episodes, self.found.tolist(), strict=True))


def places(recording: Recording, motions: Sequence[Motion], count: int | None) -> Places:
    """count: of clusters, where it is known."""
    joints = placing_joints(recording)
    grasped = {m.episode: m.grasp[joints] for m in motions if m.grasp is not None}
    points = np.array(list(grasped.values())).reshape(len(grasped), len(joints))
    found, score = clusters.find(points, count)
    known = {e.index: e.cluster for e in recording.episodes if e.cluster is not None}
    return Places(tuple(grasped), points, found, score, known if len(known) == len(recording.episodes) else {})


def start_clusters(at: Places, episodes: int) -> Item:
    """How many there are, and how many episodes are in each."""
    threshold = f"{EACH} episodes in each"
    apart = len(at.episodes) > 0 and at.silhouette >= clusters.APART
    told = f"{len(set(at.found.tolist()))} found by grasps (silhouette {at.silhouette:.2f})" if apart else (
        f"grasps are not in separate clusters (silhouette {at.silhouette:.2f})" if len(at.episodes) >= episodes / 2
        else f"only {len(at.episodes)} of {episodes} episodes have a grasp")  # fmt: skip
    figures = {"silhouette": at.silhouette, "recorded": bool(at.recorded), "labels": at.labels,
               "found": dict(zip(at.episodes, at.found.tolist(), strict=True))}  # fmt: skip
    if not at.labels:
        return item("start_clusters", told, threshold, None,
                    "record the cluster of each episode, or give --clusters N", **figures)  # fmt: skip
    counts = Counter(at.labels.values())
    few = {name: n for name, n in sorted(counts.items()) if n < EACH}
    words = f"{len(counts)} " + ("recorded, " + told if at.recorded else told.partition(" ")[2])
    least, greatest = min(counts.values()), max(counts.values())
    words += f"; {least} episodes in each" if least == greatest else f"; {least} to {greatest} episodes in each"
    advice = [f"record {EACH - n} more of cluster {name}" for name, n in few.items()]
    misplaced: list[int] = []
    if at.recorded and len(at.episodes) > 1:
        labels = np.array([at.recorded[e] for e in at.episodes])
        some_points = clusters.compared(at.points)
        values = clusters.silhouettes(at.points[some_points], labels[some_points])
        misplaced = [e for e, v in zip(np.array(at.episodes)[some_points].tolist(), values, strict=True) if v < 0]
        if len(misplaced) > MISPLACED * len(values):
            words += f"; {len(misplaced)} of {len(values)} grasps nearer to another cluster"
            advice.append(f"look at the cluster of episodes {some(misplaced)}")
    if len(counts) < 2:
        advice.append("vary where the object starts")
    return item("start_clusters", words, threshold, not advice, "; ".join(advice),
                counts={str(k): n for k, n in sorted(counts.items())}, misplaced=misplaced, **figures)  # fmt: skip


def recovery(recording: Recording, motions: Sequence[Motion]) -> Item:
    """Share of episodes that go back to the object; as recorded, else as the joints tell."""
    recorded = [e.recovery for e in recording.episodes]
    if all(r is not None for r in recorded):
        which, how = [e.index for e in recording.episodes if e.recovery], "recorded"
    else:
        usual = int(np.median([m.closings for m in motions]))
        which = [m.episode for m, away in zip(motions, elsewhere(list(motions)), strict=True)
                 if away or m.closings > usual]  # fmt: skip
        how = "estimated: the arm begins elsewhere, or grasps more often than usual"
    share = len(which) / len(motions)
    more = "record more that go back to an object missed, about one in five" if share < RECOVERY[0] else \
        "record more that succeed at once: recoveries are to be about one in five"  # fmt: skip
    return item("recovery_share", f"{share:.0%} ({how})",
                f"about 20 %: {RECOVERY[0]:.0%} to {RECOVERY[1]:.0%}", RECOVERY[0] <= share <= RECOVERY[1], more,
                share=share, episodes=which, how=how.partition(":")[0])  # fmt: skip


def coverage(recording: Recording) -> Item:
    """From the 1st to the 99th percentile of each joint's positions."""
    states = recording.columns["observation.state"].astype(np.float64)
    gripper = gripper_joint(recording)
    body = [i for i in range(states.shape[1]) if i != gripper]
    radians = bool(np.abs(states[:, body]).max() <= 2 * np.pi)
    low, high = np.percentile(states, (1, 99), axis=0)
    scale = np.where(np.arange(len(low)) == gripper, 1.0, 180 / np.pi) if radians else np.ones(len(low))
    if radians and gripper is not None and np.abs(states[:, gripper]).max() <= 2:
        scale[gripper] = 100.0
    spans = (high - low) * scale
    names = recording.dataset.joints
    least = int(spans.argmin())
    stiff = [names[i] for i in range(len(names)) if spans[i] < COVERED]
    return item("joint_coverage", f"at least {spans[least]:.0f} ({names[least]})",
                f"{COVERED:g} degrees or hundredths", not stiff,
                f"vary places and headings of the object so that {', '.join(stiff)} must move",
                joints={n: {"low": float(a), "high": float(b), "span": float(s)}
                        for n, a, b, s in zip(names, low, high, spans, strict=True)})  # fmt: skip


def split(
    recording: Recording, at: Places, cameras: Sequence[CameraView], validation: Sequence[int] | None
) -> Item:
    """Whether validation episodes are unlike all that is trained on. validation: clusters that are held out, instead
    of the splits in meta/info.json. Raises BundleError where these clusters are not there."""
    threshold = f"no cluster in both; {NEAR:.0%} near a training episode"
    if validation is not None:
        held, train = _by_cluster(recording, at, validation)
    else:
        held = {e for name, each in recording.splits.items() if name in VALIDATION for e in each}
        train = {e for name, each in recording.splits.items() if name not in VALIDATION for e in each}
    if not held or not train:
        value = f"no validation split: {', '.join(recording.splits) or 'none'}"
        return item("validation_split", value, threshold, None,
                    "hold out one cluster: --validation-clusters, or splits in meta/info.json")  # fmt: skip
    leaks = []
    if both := sorted(held & train):
        leaks.append(f"episodes {some(both)} are in both")
    labels = at.labels
    if shared := sorted({labels[e] for e in held if e in labels} & {labels[e] for e in train if e in labels}):
        leaks.append(f"{'recorded' if at.recorded else 'found'} cluster {some(shared)} is in both")
    near = near_share(at, held, train)
    if near is not None and near > NEAR:
        leaks.append(f"{near:.0%} grasp as near to a training episode as those do to one another")
    if same := _same_scene(cameras, held - train, train):
        leaks.append("the first picture is a training episode's: " + ", ".join(f"{a} {b}'s" for a, b in same[:4]))
    value = f"{len(train)} to train, {len(held)} to validate; " + ("; ".join(leaks) or "no leak found")
    return item("validation_split", value, threshold, not leaks,
                "hold out whole clusters, and split before episodes are copied or augmented", train=len(train),
                validation=sorted(held), near=near, same_scene=same)  # fmt: skip


def _by_cluster(recording: Recording, at: Places, validation: Sequence[int]) -> tuple[set[int], set[int]]:
    if not at.recorded:
        raise BundleError(f"{recording.path}: --validation-clusters: not every episode has a cluster in meta/episodes; "
                          "give splits in meta/info.json instead")  # fmt: skip
    if unknown := sorted(set(validation) - set(at.recorded.values())):
        raise BundleError(f"{recording.path}: --validation-clusters: no cluster {unknown[0]}; there are "
                          f"{sorted(set(at.recorded.values()))}")  # fmt: skip
    held = {e for e, cluster in at.recorded.items() if cluster in validation}
    return held, set(at.recorded) - held


def near_share(at: Places, held: set[int], train: set[int]) -> float | None:
    """Share of held-out grasps whose nearest training grasp is as near as training grasps usually are to one
    another."""
    a, b = (at.points[[i for i, e in enumerate(at.episodes) if e in side]] for side in (held, train))
    a, b = a[clusters.compared(a)], b[clusters.compared(b)]
    if len(a) < 1 or len(b) < 2:
        return None
    among = np.linalg.norm(b[:, None] - b[None], axis=-1)
    np.fill_diagonal(among, np.inf)
    nearest = np.array([np.linalg.norm(b - one, axis=1).min() for one in a])
    return float((nearest <= np.median(among.min(axis=1))).mean())


def _same_scene(cameras: Sequence[CameraView], held: set[int], train: set[int]) -> list[tuple[int, int]]:
    """Pairs of episodes that begin with the same picture in every fixed camera."""
    pairs: set[tuple[int, int]] | None = None
    for camera in (c for c in cameras if not c.moving):
        starts = {v.episode: v.start.astype(np.int16) for v in camera.views}
        trained = [e for e in starts if e in train]
        if not trained:
            return []
        coarse = np.stack([starts[e][::8, ::8] for e in trained])
        alike = set()
        for one in held & set(starts):
            near = np.abs(coarse - starts[one][::8, ::8]).mean(axis=(1, 2, 3)) < 2 * STILL
            alike |= {(one, other) for other, candidate in zip(trained, near, strict=True)
                      if candidate and (pairs is None or (one, other) in pairs)
                      and np.percentile(np.abs(starts[one] - starts[other]), 99.9) < 2 * STILL}  # fmt: skip
        pairs = alike
    return sorted(pairs or ())


def calibration(recording: Recording) -> Item:
    """A copy of the arm's calibration beside the recording."""
    threshold, joints = "meta/calibration/*.json of these joints", recording.dataset.joints
    folder = recording.path / "meta" / "calibration"
    read, wrong = [], []
    for file in sorted(folder.glob("*.json"))[:16]:
        try:
            motors = read_calibration(file)
        except ConfigError as error:
            wrong.append(str(error))
            continue
        if set(motors) == set(joints):
            read.append(file.name)
        else:
            wrong.append(f"{file.name} is of {sorted(motors)}")
    value = ", ".join(read) if read else "; ".join(wrong) or "none"
    return item("calibration_backup", value, threshold, bool(read),
                f"copy LeRobot's calibration JSON of this arm to {Path('meta') / 'calibration'}: without it these "
                "positions mean nothing on a recalibrated arm", files=read, wrong=wrong)  # fmt: skip


def motion_items(
    recording: Recording, motions: Sequence[Motion], at: Places, cameras: Sequence[CameraView],
    validation: Sequence[int] | None,
) -> Iterator[Item]:  # fmt: skip
    """In the order of the checklist."""
    yield start_clusters(at, len(recording.episodes))
    yield recovery(recording, motions)
    yield coverage(recording)
    yield split(recording, at, cameras, validation)
    yield calibration(recording)
