"""From what sensors deliver to what the policy was trained on, exactly as LeRobot does it, and back
to joint positions.

Sources: of SmolVLA's images `prepare_images` and `resize_with_pad` in lerobot/policies/smolvla/modeling_smolvla.py,
torch's bilinear `interpolate` (align_corners=False, no antialias), `_apply_transform` in
lerobot/processor/normalize_processor.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlad.errors import DeviceError
from vlad.manifest import ActCamera, Manifest, Statistics
from vlad.units import JointRange, JointUnits

Pixels = NDArray[np.uint8]
Array = NDArray[np.float32]
Positions = NDArray[np.float64]

_UNIT = (np.arange(256, dtype=np.float32) / np.float32(255)).astype(np.float32)


class ImagePreprocessor:
    """Scales RGB frames into a square with black padding on the left and top, and maps 0..255 to
    -1..1.

    The tables of a frame size are made at its first frame and kept, one size per camera being the
    normal case.
    """

    def __init__(self, side: int) -> None:
        self._side = side
        self._plans: dict[tuple[int, int], tuple[_Axis, _Axis]] = {}

    def __call__(self, image: Pixels) -> Array:
        """uint8 `[height, width, 3]` to float32 `[1, 3, side, side]`. Raises DeviceError for any
        other image.
        """
        _check_frame(image)
        height, width = image.shape[:2]
        plan = self._plans.get((height, width))
        if plan is None:
            ratio = max(width / self._side, height / self._side)
            plan = _Axis(height, int(height / ratio)), _Axis(width, int(width / ratio))
            self._plans[height, width] = plan
        rows, columns = plan
        padded = np.full((1, 3, self._side, self._side), -1.0, dtype=np.float32)
        if rows.size and columns.size:
            scaled = _bilinear(_UNIT[image], rows, columns)
            padded[0, :, self._side - rows.size :, self._side - columns.size :] = (
                scaled * np.float32(2) - np.float32(1)
            ).transpose(2, 0, 1)
        return padded


class NativePixels:
    """Frames of one camera of an ACT: normalised channel by channel, at the size that they have.

    A byte has 256 values, so each channel is a table of them: LeRobot's float32 arithmetic, bit by bit.
    """

    def __init__(self, camera: ActCamera) -> None:
        mean, std = np.array(camera.mean, np.float32), np.array(camera.std, np.float32)
        self._tables = (_UNIT[None] - mean[:, None]) / (std + np.float32(camera.eps))[:, None]
        self._camera = camera

    def __call__(self, image: Pixels) -> Array:
        """uint8 `[height, width, 3]` to float32 `[1, 3, height, width]`. Raises DeviceError for any other
        image.
        """
        _check_frame(image)
        camera = self._camera
        if image.shape[:2] != (camera.height, camera.width):
            raise DeviceError(
                f"camera {camera.name}: frame of {image.shape[1]}x{image.shape[0]}; the policy was trained on "
                f"{camera.width}x{camera.height}, and an ACT's frames are not scaled"
            )
        normalised = np.empty((1, 3, camera.height, camera.width), np.float32)
        for channel, table in enumerate(self._tables):
            np.take(table, image[:, :, channel], out=normalised[0, channel], mode="clip")  # clip: unbuffered
        return normalised


def _check_frame(image: Pixels) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DeviceError(f"camera frame is {image.dtype} {list(image.shape)}, expected uint8 [height, width, 3]")


class _Axis:
    """Source indices and weights of one axis of torch's bilinear interpolation, in its float32
    arithmetic.
    """

    def __init__(self, source: int, size: int) -> None:
        self.size = size
        self.identity = source == size
        if size == 0:
            return
        scale = np.float32(source) / np.float32(size)
        position = scale * (np.arange(size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
        position = np.maximum(position, np.float32(0))
        self.low = np.minimum(position.astype(np.int64), source - 1)
        self.high = np.minimum(self.low + 1, source - 1)
        self.weight: Array = (position - self.low.astype(np.float32)).astype(np.float32)


def _bilinear(image: Array, rows: _Axis, columns: _Axis) -> Array:
    if not rows.identity:
        low, high = image[rows.low], image[rows.high]
        image = low + (high - low) * rows.weight[:, None, None]
    if not columns.identity:
        low, high = image.take(columns.low, axis=1), image.take(columns.high, axis=1)
        image = low + (high - low) * columns.weight[None, :, None]
    return image


class JointSpace:
    """Joint positions of the core to the policy's normalised space, and its actions back.

    `calibration` is the arm's, by joint name: needed where the bundle's units are -100..100. Raises
    ConfigError.
    """

    def __init__(self, manifest: Manifest, calibration: Mapping[str, JointRange] | None = None) -> None:
        self._units = JointUnits(
            manifest.units,
            [joint.name for joint in manifest.joints],
            [joint.gripper for joint in manifest.joints],
            calibration,
        )
        self._joints = len(manifest.joints)
        self._state_width = manifest.state_width
        self._state = _Normaliser(manifest.state)
        self._action = _Normaliser(manifest.action)

    def state(self, positions: ArrayLike) -> Array:
        """Core units `[joints]` to the normalised, zero-padded float32 `[1, state_width]`.

        Raises DeviceError for a wrong count or a value that is not finite.
        """
        given = np.asarray(positions, dtype=np.float64)
        if given.shape != (self._joints,) or not np.isfinite(given).all():
            raise DeviceError(f"joint state {given.tolist()}: expected {self._joints} finite positions")
        padded = np.zeros((1, self._state_width), dtype=np.float32)
        padded[0, : self._joints] = self._state.normalise(self._units.from_core(given).astype(np.float32))
        return padded

    def actions(self, normalised: Array) -> Positions:
        """Normalised actions `[n, max_action_dim]` to core units, float64 `[n, joints]`; not
        clamped, not rounded.
        """
        return self._units.to_core(self._action.restore(normalised[:, : self._joints]))

    def normalised_actions(self, positions: ArrayLike) -> Array:
        """Core units `[n, joints]` to normalised actions float32 `[n, joints]`: the inverse of
        `actions`.
        """
        return self._action.normalise(self._units.from_core(positions).astype(np.float32))


class _Normaliser:
    """(x - mean) / (std + eps) and x * std + mean, in float32 as LeRobot computes them."""

    def __init__(self, statistics: Statistics) -> None:
        self._mean = np.array(statistics.mean, dtype=np.float32)
        self._std = np.array(statistics.std, dtype=np.float32)
        self._eps = np.float32(statistics.eps)

    def normalise(self, values: Array) -> Array:
        scaled: Array = (values - self._mean) / (self._std + self._eps)
        return scaled

    def restore(self, values: Array) -> Array:
        scaled: Array = values * self._std + self._mean
        return scaled
