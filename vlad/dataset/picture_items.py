"""Checklist items that are measured in pictures. Thresholds and why: docs/dataset-check.md."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vlad.dataset.item import Item, item, some
from vlad.dataset.motion import Motion, elsewhere
from vlad.dataset.views import DARK, CameraView, View, gain
from vlad.observation import Pixels

Array = NDArray[np.float64]

DRIFT = 0.003  # of the picture's width
LIGHT = 0.10
CONTRAST = 15.0  # CIE 1976 colour difference
BLUR = 0.0025  # of the picture's width
SHARP_PX = 1.2  # no lens and codec does much better, however small the picture
_SEEN = 6.0  # colour difference: above the noise of a codec, below any object that stands out
_OBJECT = 0.0005  # of a picture


def picture_items(cameras: Sequence[CameraView], motions: Sequence[Motion]) -> Iterator[Item]:
    """Of all cameras. motions: of all episodes, those not looked at too."""
    yield drift(cameras)
    yield lighting(cameras)
    yield contrast(cameras, motions)
    yield focus(cameras)
    yield dark(cameras)
    yield frozen(cameras)
    yield gripper_camera(cameras)


def drift(cameras: Sequence[CameraView]) -> Item:
    """Between episodes, against the first."""
    figures, worst, moved, untold = {}, (0.0, "no camera"), [], []
    for camera in cameras:
        known = {v.episode: m for v, m in zip(camera.views, camera.moved_px, strict=True) if m is not None}
        figures[camera.name] = {"px": known, "width": camera.width, "limit_px": DRIFT * camera.width}
        if len(known) < max(2, len(camera.views) / 2) and len(camera.views) > 1:
            untold.append(camera.name)
        for episode, px in known.items():
            worst = max(worst, (px / camera.width, f"{px:.1f} px of {camera.width} ({camera.name}, episode {episode})"))
        if far := [episode for episode, px in known.items() if px > DRIFT * camera.width]:
            moved.append(f"{camera.name} in episodes {some(far)}")
    value = f"at most {worst[1]}" + (f"; too few features agree in {', '.join(untold)}" if untold else "")
    good = False if moved else None if untold or not cameras else True
    advice = ("fix the mount and record these again, or put the camera back to where it was: " + "; ".join(moved)
              if moved else f"see on the page (--html) whether {' and '.join(untold)} was moved altogether; if not, "
              "put something with texture into its view that stays where it is")  # fmt: skip
    return item("camera_drift", value if cameras else "no cameras",
                f"{DRIFT:.1%} of the picture's width", good, advice, cameras=figures)  # fmt: skip


def lighting(cameras: Sequence[CameraView]) -> Item:
    """Brightness and colour of the background, between episodes and within each."""
    fixed = [c for c in cameras if not c.moving]
    figures, worst, odd = {}, (0.0, "none"), []
    for camera in fixed:
        usual = reference([v.usual for v in camera.views])
        between = [gain(view.usual, usual) for view in camera.views]
        lit = [view.gains[view.luma >= DARK] for view in camera.views]
        within = [float(np.abs(gains - 1).max()) if len(gains) else 0.0 for gains in lit]
        figures[camera.name] = {"episodes": [v.episode for v in camera.views], "within": within,
                                "gains": [g.tolist() for g in between]}  # fmt: skip
        far = []
        for view, g, w in zip(camera.views, between, within, strict=True):
            off = float(np.abs(g - 1).max())
            worst = max(worst, (off, f"{camera.name}, episode {view.episode} against the others"),
                        (w, f"{camera.name}, within episode {view.episode}"))  # fmt: skip
            if max(off, w) > LIGHT:
                far.append(view.episode)
        if far:
            odd.append(f"{camera.name} in episodes {some(far)}")
    value = f"{worst[0]:.1%} at most ({worst[1]})" if fixed else "no fixed camera to tell by"
    advice = "fixed lamps, no daylight, exposure and white balance not automatic" if fixed else "add a fixed camera"
    return item("lighting", value, f"{LIGHT:.0%}", not odd if fixed else None,
                advice + (f"; odd: {'; '.join(odd)}" if odd else ""), cameras=figures)  # fmt: skip


def contrast(cameras: Sequence[CameraView], motions: Sequence[Motion]) -> Item:
    """Colour differences between arm, object and what is behind them, in the fixed cameras."""
    away = {m.episode for m, far in zip(motions, elsewhere(list(motions)), strict=True) if far}
    figures = {c.name: found for c in cameras if not c.moving if (found := contrasts(c, away))}
    pairs = [(v, f"{pair} ({name})") for name, each in figures.items() for pair, v in each.items()]
    lacking = sorted({pair for each in figures.values() for pair in ("arm and background", "object and background")
                      if not any(pair in other for other in figures.values())})  # fmt: skip
    if not pairs:
        return item("contrast", "not measured",
                    f"{CONTRAST:g} CIE 1976", None, "record with a fixed camera that sees the arm move")  # fmt: skip
    least = min(pairs)
    weak = [words for v, words in sorted(pairs) if v < CONTRAST]
    value = f"at least {least[0]:.0f}: {least[1]}" + (f"; not found: {' or '.join(lacking)}" if lacking else "")
    good = False if weak else None if lacking else True
    advice = ("change the colour of one: " + "; ".join(weak) if weak
              else "where every episode starts with the object in one place, it cannot be told from the background")
    return item("contrast", value, f"{CONTRAST:g} CIE 1976", good, advice,
                cameras=figures)  # fmt: skip


def contrasts(camera: CameraView, away: set[int]) -> dict[str, float]:
    """Of one fixed camera: by pair, the median over episodes. away: episodes in which the arm begins elsewhere, so
    that the first picture differs by more than the object."""
    behind = _lab(reference([v.usual for v in camera.views]))
    arms, arm_colours = [], []
    for view in camera.views:
        picture = _lab(view.far)
        apart = np.linalg.norm(picture - behind, axis=-1)
        if (seen := apart > _SEEN).mean() > _OBJECT:
            arms.append(float(np.median(apart[seen])))
            arm_colours.append(np.median(picture[seen], axis=0))
    found: dict[str, float] = {}
    if 2 * len(arms) <= len(camera.views):
        return {"arm and background": 0.0}  # joints move, and most episodes show nothing that does
    found["arm and background"] = float(np.median(arms))
    home = [v for v in camera.views if v.episode not in away]
    objects = [o for v in home if (o := blob(v, reference([h.start for h in home]))) is not None]
    if objects and 2 * len(objects) >= len(home):
        found["object and background"] = float(np.median([o[0] for o in objects]))
        colour = np.median([o[1] for o in objects], axis=0)
        found["arm and object"] = float(np.linalg.norm(colour - np.median(arm_colours, axis=0)))
    return found


def blob(view: View, usual: Pixels) -> tuple[float, Array] | None:
    """What the first picture has that others have not: its colour difference, and its colour (CIE Lab)."""
    picture = _lab(view.start)
    apart = np.linalg.norm(picture - _lab(usual), axis=-1)
    count, labels, stats, _ = cv2.connectedComponentsWithStats((apart > _SEEN).astype(np.uint8))
    if count < 2:
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    inside = labels == largest
    if inside.mean() < _OBJECT:
        return None
    return float(np.median(apart[inside])), np.asarray(picture[inside].mean(axis=0), np.float64)


def focus(cameras: Sequence[CameraView]) -> Item:
    """Radius of the sharpest edges of each episode."""
    figures = {c.name: {"episodes": [v.episode for v in c.views], "limit_px": blur_limit_px(c),
                        "blur_px": [v.blur_px if math.isfinite(v.blur_px) else None for v in c.views]}
               for c in cameras}  # fmt: skip
    known = [(v.blur_px / blur_limit_px(c), v.blur_px, c, v.episode) for c in cameras for v in c.views
             if math.isfinite(v.blur_px)]  # fmt: skip
    edgeless = [c.name for c in cameras if not any(math.isfinite(v.blur_px) for v in c.views)]
    soft = {c.name: [e for share, _, other, e in known if other is c and share > 1] for c in cameras}
    odd = [f"{name} in episodes {some(each)}" for name, each in soft.items() if each]
    value = "no edges" if not known else "edges of {1:.2f} px at most ({2.name}, episode {3})".format(
        *max(known, key=lambda k: k[0]))
    advice = f"focus, fix and clean the lens: {'; '.join(odd)}" if odd else f"nothing to see in {', '.join(edgeless)}"
    return item("focus", value, f"{BLUR:.2%} of the picture's width, {SHARP_PX:g} px where that is less",
                False if odd else None if edgeless or not cameras else True, advice, cameras=figures)  # fmt: skip


def blur_limit_px(camera: CameraView) -> float:
    """The greatest radius that is sharp."""
    return max(SHARP_PX, BLUR * camera.width)


def dark(cameras: Sequence[CameraView]) -> Item:
    """Frames that are black or nearly so."""
    found = {c.name: {v.episode: dim for v in c.views
                      if (dim := [f for f, luma in zip(v.frames, v.luma, strict=True) if luma < DARK])}
             for c in cameras}  # fmt: skip
    count = sum(len(dim) for each in found.values() for dim in each.values())
    looked = sum(len(v.frames) for c in cameras for v in c.views)
    where = [f"{name} in episodes {some(list(each))}" for name, each in found.items() if each]
    threshold = f"none with a mean under {DARK:g} of 255"
    advice = "more light or longer exposure, and look for a loose cable: " + "; ".join(where)
    return item("dark_frames", f"{count} of {looked} looked at", threshold, not count if cameras else None, advice,
                frames=found)  # fmt: skip


def frozen(cameras: Sequence[CameraView]) -> Item:
    """Times in which joints moved and the picture stood still."""
    found = {c.name: {v.episode: v.frozen for v in c.views if v.frozen} for c in cameras}
    count = sum(len(spans) for each in found.values() for spans in each.values())
    gaps = [b - a for c in cameras for v in c.views for a, b in zip(v.frames, v.frames[1:], strict=False)]
    where = [f"{name} in episodes {some(list(each))}" for name, each in found.items() if each]
    return item("frozen_frames", f"{count} times" + (
                f" (those shorter than {2 * max(gaps)} frames may be missed)" if gaps else ""), "none",
                not count if cameras else None,
                "another USB port or a shorter cable; record again: " + "; ".join(where), frames=found)  # fmt: skip


def gripper_camera(cameras: Sequence[CameraView]) -> Item:
    """A camera that moves with the arm."""
    carried = [c.name for c in cameras if c.moving]
    figures = {c.name: float(np.median([v.moves for v in c.views])) for c in cameras}
    named = [c.name for c in cameras if not c.moving and any(w in c.name for w in ("gripper", "wrist", "hand"))]
    value = f"{', '.join(carried)} moves with the arm" if carried else "none moves with the arm"
    return item("gripper_camera", value, "one", bool(carried),
                f"{', '.join(named)} is named like one and stands still: are cameras swapped?" if named else
                "mount a camera on the gripper: close grasps need it most", changing=figures)  # fmt: skip


def reference(pictures: Sequence[Pixels]) -> Pixels:
    """The median of each pixel, of 200 pictures at most."""
    return np.asarray(np.median(np.stack(pictures[:: -(-len(pictures) // 200)]), axis=0), np.uint8)


def _lab(picture: Pixels) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2Lab), np.float32)
