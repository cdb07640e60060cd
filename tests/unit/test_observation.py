"""Image preprocessing, normalisation and units against formulas and what LeRobot computed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.tiny_smolvla import JOINTS, build, reference
from vlad.errors import ConfigError, DeviceError
from vlad.manifest import Manifest, parse_manifest
from vlad.observation import ImagePreprocessor, JointSpace
from vlad.units import JointRange, JointUnits

GRIPPERS = [False] * 5 + [True]


def by_the_formula(image: np.ndarray, side: int) -> np.ndarray:
    """torch's bilinear interpolation (align_corners=False), pixel by pixel, in float64."""
    height, width = image.shape[:2]
    ratio = max(width / side, height / side)
    rows, columns = int(height / ratio), int(width / ratio)
    out = np.full((3, side, side), -1.0)
    for y in range(rows):
        for x in range(columns):
            source_y = max((y + 0.5) * height / rows - 0.5, 0)
            source_x = max((x + 0.5) * width / columns - 0.5, 0)
            y0, x0 = int(source_y), int(source_x)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            fy, fx = source_y - y0, source_x - x0
            corners = image[[y0, y0, y1, y1], [x0, x1, x0, x1]].astype(np.float64) / 255
            weights = [(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx]
            out[:, side - rows + y, side - columns + x] = 2 * (weights @ corners) - 1
    return out


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (32, 32), (16, 16), (7, 50), (33, 31), (1, 1), (200, 3)])
def test_preprocessing_follows_the_formula(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    made = ImagePreprocessor(32)(image)
    assert made.shape == (1, 3, 32, 32)
    assert made.dtype == np.float32
    assert np.abs(made[0] - by_the_formula(image, 32)).max() < 5e-6


@pytest.mark.parametrize("case", [0, 1])
def test_preprocessing_equals_lerobots_pixels(case: int) -> None:
    made = reference()
    pixels = ImagePreprocessor(32)(made[f"image0_{case}"].astype(np.uint8))[0]
    assert np.abs(pixels - made[f"pixels_{case}"]).max() <= 1e-6


def test_padding_is_black_on_the_left_and_top() -> None:
    wide = ImagePreprocessor(32)(np.full((24, 32, 3), 255, np.uint8))[0]
    assert (wide[:, :8] == -1).all()
    assert (wide[:, 8:] == 1).all()
    tall = ImagePreprocessor(32)(np.full((32, 24, 3), 255, np.uint8))[0]
    assert (tall[:, :, :8] == -1).all()
    assert (tall[:, :, 8:] == 1).all()


def test_one_preprocessor_serves_frames_of_two_sizes() -> None:
    preprocess = ImagePreprocessor(32)
    images = [np.random.default_rng(i).integers(0, 256, (40 + i, 30, 3), np.uint8) for i in (0, 1)]
    first = [preprocess(image) for image in images]
    assert all(np.array_equal(preprocess(i), f) for i, f in zip(images, first, strict=True))
    assert np.array_equal(ImagePreprocessor(32)(images[1]), first[1])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_images_are_refused(image: np.ndarray) -> None:
    with pytest.raises(DeviceError, match="expected uint8"):
        ImagePreprocessor(32)(image)


def test_degrees_are_lerobots_degrees() -> None:
    units = JointUnits("degrees", JOINTS, GRIPPERS)
    ticks, middle = 3000, 2047.5
    degrees = (ticks - middle) * 360 / 4095
    core = units.to_core([degrees] * 5 + [25.0])
    assert core[:5] == pytest.approx([(ticks - middle) * 2 * math.pi / 4096] * 5, abs=1e-12)
    assert core[5] == 0.25


def test_m100_follows_the_calibration_and_its_direction() -> None:
    ranges = {name: JointRange(1000, 3000, i % 2) for i, name in enumerate(JOINTS)}
    core = JointUnits("m100", JOINTS, GRIPPERS, ranges).to_core([50.0] * 5 + [25.0])
    quarter = 500 * 2 * math.pi / 4096
    assert core == pytest.approx([quarter, -quarter, quarter, -quarter, quarter, 0.75])


def test_m100_without_calibration_is_refused_by_joint() -> None:
    with pytest.raises(ConfigError, match="wrist_flex"):
        JointUnits("m100", JOINTS, GRIPPERS, {n: JointRange(0, 9) for n in JOINTS[:3]})
    with pytest.raises(ConfigError, match="shoulder_pan: range_max 5 <= range_min 5"):
        JointUnits("m100", JOINTS, GRIPPERS, dict.fromkeys(JOINTS, JointRange(5, 5)))


@pytest.mark.parametrize("units", ["degrees", "m100"])
def test_units_round_trip_without_rounding(units: str) -> None:
    ranges = {name: JointRange(700 + i, 3300 - i, i % 2) for i, name in enumerate(JOINTS)}
    convert = JointUnits(units, JOINTS, GRIPPERS, ranges)
    values = np.random.default_rng(1).uniform(-170, 170, (50, 6))
    assert np.abs(convert.from_core(convert.to_core(values)) - values).max() < 1e-10


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    bundle = build(tmp_path_factory.mktemp("bundle") / "tiny.vlad")
    return parse_manifest((bundle / "manifest.json").read_bytes())


def test_state_is_normalised_and_padded(manifest: Manifest) -> None:
    space = JointSpace(manifest)
    mean = np.array(manifest.state.mean)
    std = np.array(manifest.state.std)
    units = JointUnits("degrees", JOINTS, GRIPPERS)
    made = space.state(units.to_core(mean + 2 * std))
    assert made.shape == (1, manifest.max_state_dim)
    assert made[0, :6] == pytest.approx([2] * 6, abs=1e-5)
    assert (made[0, 6:] == 0).all()


def test_actions_are_restored_to_core_units(manifest: Manifest) -> None:
    space = JointSpace(manifest)
    normalised = np.zeros((3, manifest.max_action_dim), np.float32)
    normalised[1] = 1
    restored = JointUnits("degrees", JOINTS, GRIPPERS).from_core(space.actions(normalised))
    assert restored[0] == pytest.approx(manifest.action.mean, abs=1e-4)
    assert restored[1] == pytest.approx(np.add(manifest.action.mean, manifest.action.std), abs=1e-4)
    back = space.normalised_actions(space.actions(normalised))
    assert np.abs(back - normalised[:, :6]).max() < 1e-5


@pytest.mark.parametrize("state", [[0.0] * 5, [0.0] * 7, [math.nan] + [0.0] * 5, [[0.0] * 6]])
def test_a_bad_state_is_refused(manifest: Manifest, state: list[float]) -> None:
    with pytest.raises(DeviceError, match="6 finite positions"):
        JointSpace(manifest).state(state)
