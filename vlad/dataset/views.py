"""What one camera saw in one episode, as the few numbers and small pictures that the checks need.

Pictures are looked at one episode of one camera at a time and not kept, so memory does not grow with the videos.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from vlad.dataset.drift import Drift, grey
from vlad.dataset.reader import Episode, Recording, frame_times, pictures, video_moment, video_pattern
from vlad.errors import BundleError
from vlad.observation import Pixels

Array = NDArray[np.float64]

WIDTH = 640  # px that features and focus are looked at
JPEG_WIDTH = 320
SMALL = (128, 96)
MAX_VIEWS = 2000  # episodes of one camera that are looked at, evenly over all: 0.15 MB each
MAX_PICTURES = 60_000  # of one camera
MOVES = 10.0  # of 255: more than a codec does to a pixel that stays the same
STILL = 2.0  # of 255: less than any motion does to the pixels that it moves
JOINT_MOVES = 5.0  # units of the recording (degrees, or hundredths): seen by any camera
DARK = 30.0  # mean luma, of 255
EDGES = 0.01  # of a picture, the sharpest
REBLUR_PX = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """frames: those looked at. luma: mean of each, 0..255. start, far, usual: RGB `[96, 128, 3]` of the first, of the
    one in which the arm is furthest from where it began, and the median. gains: colours of each against the
    median `[n, 3]`. blur_px: radius (sigma of a Gaussian) of the sharpest edges of the sharpest picture, in px of a
    picture WIDTH wide at most; NaN without edges. frozen: (from, to) of frames between which joints moved and no
    pixel did. moves: share of the picture that changed. jpeg: the first, to look at.
    """

    episode: int
    frames: tuple[int, ...]
    luma: Array
    start: Pixels
    far: Pixels
    usual: Pixels
    gains: Array
    blur_px: float
    frozen: tuple[tuple[int, int], ...]
    moves: float
    jpeg: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class CameraView:
    """All that was seen of one camera. moved_px: of each view, against the first. width: px that it is of.
    missing: frames that the video lacks, by episode.
    """

    feature: str
    size: tuple[int, int]
    views: tuple[View, ...]
    moved_px: tuple[float | None, ...]
    width: int
    missing: dict[int, int]

    @property
    def name(self) -> str:
        """Without `observation.images.`."""
        return self.feature.removeprefix("observation.images.")

    @property
    def moving(self) -> bool:
        """It is carried by the arm: while the arm moves, most of the picture changes. See docs/dataset-check.md."""
        return float(np.median([view.moves for view in self.views])) > 0.6


def look(recording: Recording, camera: str, count: int, report: Callable[[str], None]) -> CameraView:
    """`count` pictures of each episode of one camera. Raises BundleError for a video that is missing or cannot be
    decoded, or ends before its episodes do."""
    dataset = recording.dataset
    pattern = video_pattern(dataset, recording.info)
    places = {e.index: video_moment(dataset, pattern, camera, e.index, e.places) for e in recording.episodes}
    missing = _missing(recording, places)
    chosen, count = budget(recording.episodes, count)
    drift = Drift()
    views = []
    size = (0, 0)
    for episode in chosen:
        path, start_s = places[episode.index]
        frames = np.unique(np.linspace(0, episode.length - 1, min(count, episode.length)).round().astype(int))
        times = recording.of("timestamp", episode)[frames]
        moments = {(episode.index, int(f)): start_s + float(t) for f, t in zip(frames, times, strict=True)}
        found = {which[1]: picture for which, picture in pictures(path, moments, dataset.rate_hz)}
        if not found:
            raise BundleError(f"{path}: no frames of episode {episode.index}")
        sizes = {p.shape[1::-1] for p in found.values()} | ({size} if size[0] else set())
        if len(sizes) > 1:
            raise BundleError(f"{path}: pictures of {sorted(sizes)} px in one video feature")
        size = sizes.pop()
        luma = grey(list(found.values()), WIDTH)
        drift.add(np.median(luma, axis=0).astype(np.uint8))
        views.append(view_of(episode.index, found, luma, recording.of("observation.state", episode)))
        report(f"{camera.rpartition('.')[2]}, episode {episode.index}")
    return CameraView(camera, size, tuple(views), tuple(drift.moved_px()), drift.width, missing)


def budget(episodes: Sequence[Episode], count: int) -> tuple[list[Episode], int]:
    """Which episodes to look at, and how many pictures of each."""
    every = min(len(episodes), MAX_VIEWS)
    chosen = [episodes[i * len(episodes) // every] for i in range(every)]
    return chosen, min(count, MAX_PICTURES // every)


def _missing(recording: Recording, places: dict[int, tuple[Path, float]]) -> dict[int, int]:
    files: dict[Path, list[Episode]] = defaultdict(list)
    for episode in recording.episodes:
        files[places[episode.index][0]].append(episode)
    found = {}
    for path, episodes in files.items():
        times = frame_times(path)
        half_s = 0.5 / recording.dataset.rate_hz
        for episode in episodes:
            wanted = places[episode.index][1] + recording.of("timestamp", episode)
            end = float(wanted.max())
            if not len(times) or times[-1] < end - half_s:
                last = times[-1] if len(times) else 0.0
                raise BundleError(f"{path}: ends at {last:.3f} s, but episode {episode.index} needs "
                                  f"a frame at {end:.3f} s: the video is cut short, or lengths in "
                                  "meta/episodes are wrong")  # fmt: skip
            at = np.searchsorted(times, wanted).clip(1, max(1, len(times) - 1))
            near = np.minimum(np.abs(times[np.minimum(at, len(times) - 1)] - wanted), np.abs(times[at - 1] - wanted))
            if absent := int((near > half_s).sum()):
                found[episode.index] = absent
    return found


def view_of(episode: int, found: dict[int, Pixels], luma: NDArray[np.uint8], states: NDArray[np.float32]) -> View:
    """found: pictures by frame. luma: of the same, at most WIDTH wide. states: of the whole episode."""
    frames = sorted(found)
    small = np.stack([cv2.resize(found[f], SMALL, interpolation=cv2.INTER_AREA) for f in frames])
    poses = states[frames]
    bright = luma.mean(axis=(1, 2))
    usual = np.median(small, axis=0).astype(np.uint8)
    brightness = small.mean(axis=-1)
    low, high = np.percentile(brightness, (10, 90), axis=0)
    far = int(np.abs(poses - poses[0]).max(axis=1).argmax())
    frozen = [
        (frames[i], frames[i + 1])
        for i in range(len(frames) - 1)
        if np.abs(poses[i + 1] - poses[i]).max() > JOINT_MOVES and bright[i] >= DARK
        and np.percentile(np.abs(brightness[i + 1] - brightness[i]), 99.8) < STILL
    ]
    return View(
        episode=episode, frames=tuple(frames), luma=bright, start=small[0], far=small[far], usual=usual,
        gains=np.stack([gain(one, usual) for one in small]), blur_px=sharpest(luma),
        frozen=tuple(frozen), moves=float((high - low > MOVES).mean()), jpeg=jpeg(found[frames[0]]),
    )  # fmt: skip


def gain(picture: Pixels, reference: Pixels) -> Array:
    """How much brighter a picture is than another in each colour, 1 where the same; from pixels that are neither
    black nor white in either. What moves covers less than half of them and does not count."""
    a, b = (one[::2, ::2].reshape(-1, 3).astype(np.float64) for one in (picture, reference))
    usable = ((b > 25) & (b < 230) & (a < 250)).all(axis=1)
    if usable.sum() < len(a) / 20:
        return np.array([a.mean() / max(b.mean(), 1.0)] * 3)
    return np.asarray(np.median(a[usable] / b[usable], axis=0))


def jpeg(picture: Pixels) -> bytes:
    """At most JPEG_WIDTH wide."""
    height, width = picture.shape[:2]
    if width > JPEG_WIDTH:
        size = JPEG_WIDTH, max(1, round(height * JPEG_WIDTH / width))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=70))


def sharpest(luma: NDArray[np.uint8]) -> float:
    """Least blur of a few of the pictures `[n, height, width]`, px: the arm's motion blurs some. NaN without edges."""
    known = [b for one in luma[:: -(-len(luma) // 5)] if not math.isnan(b := blur(one))]
    return min(known, default=math.nan)


def blur(luma: NDArray[np.uint8]) -> float:
    """Radius of the sharpest edges, px: by how much a further blur of REBLUR_PX weakens their gradient (Zhuo and Sim,
    Defocus map estimation from a single image, 2011). NaN where there are no edges."""
    picture = luma.astype(np.float32)
    once, again = _slope(picture), _slope(np.asarray(cv2.GaussianBlur(picture, (0, 0), REBLUR_PX), np.float32))
    strongest = np.quantile(once, 1 - EDGES)
    if strongest < 4.0:
        return float("nan")
    ratio = once[once >= strongest] / np.maximum(again[once >= strongest], 1e-3)
    usable = ratio[ratio > 1.001]
    return float(np.quantile(REBLUR_PX / np.sqrt(usable**2 - 1), 0.25)) if len(usable) else float("nan")


def _slope(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    inner = (slice(4, -4), slice(4, -4))
    return np.asarray(np.hypot(cv2.Sobel(picture, cv2.CV_32F, 1, 0, scale=1 / 8)[inner],
                               cv2.Sobel(picture, cv2.CV_32F, 0, 1, scale=1 / 8)[inner]), np.float32)  # fmt: skip


def overlaid(a: bytes, b: bytes) -> bytes:
    """Two JPEGs of a size as one: the first in red, the second in cyan."""
    first, second = (cv2.cvtColor(simplejpeg.decode_jpeg(one), cv2.COLOR_RGB2GRAY) for one in (a, b))
    return jpeg(np.stack([first, second, second], axis=-1).astype(np.uint8))
