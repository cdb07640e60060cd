"""The same code on tflite-runtime 2.14 and NumPy 1, in an environment of its own (`make tflite-runtime`).

That release computes FULLY_CONNECTED in int8 with the scale of one channel for all, without a word: a file with a
scale for each channel loads, runs and is wrong. The golden check is what catches it. Convolutions with a scale for
each channel are right there, which is what `vlad tflite --convolve` is for.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny_act, tiny_litert
from tests.daemons import config_without_devices
from vlad import bundle as bundles
from vlad.backend import Threads, load_block
from vlad.bundle import Bundle

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / "build/tflite_runtime/venv/bin/python"

RUN = """
import sys
from pathlib import Path
import numpy as np
from vlad import bundle as bundles
from vlad.backend import Threads, load_block
from vlad.litert import version
given = np.load(sys.argv[2])
session = load_block(bundles.load(Path(sys.argv[1])), "vision", Threads())
np.save(sys.argv[3], session.run({"image": given})["tokens"])
print(version(), np.__version__)
"""


def there(*words: object) -> subprocess.CompletedProcess[str]:
    """Python of the other environment, with this very code."""
    assert PYTHON.exists(), "make tflite-runtime makes the environment that these tests need"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([PYTHON, *map(str, words)], cwd="/", env=environment, capture_output=True, text=True,
                          timeout=120, check=False)  # fmt: skip


def checked(bundle: Bundle, *more: object) -> dict[str, Any]:
    ended = there("-m", "vlad.main", "check", bundle.path, "--json", *more)
    found: dict[str, Any] = json.loads(ended.stdout)
    assert ended.returncode == (0 if found["ok"] else 1), ended.stderr
    return found


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An ACT whose vision ends in a matrix product."""
    return made(tmp_path_factory.mktemp("products"))


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same with a 1x1 convolution there."""
    return made(tmp_path_factory.mktemp("convolutions"), "--convolve")


def made(root: Path, *more: str) -> Bundle:
    source = tiny_act.build(root / "source.vlad")
    data = tiny_litert.dataset(tiny_act.DATA / "dataset", root / "data", (96, 96))
    assert tiny_litert.convert(source, data, root / "made.vlad", *more) == 0
    return bundles.load(root / "made.vlad")


def off_by(bundle: Bundle, tmp_path: Path) -> float:
    """How far the two runtimes are apart: root mean square over that of the values."""
    image = np.random.default_rng(0).standard_normal((1, 3, 96, 96), dtype=np.float32)
    here = load_block(bundle, "vision", Threads()).run({"image": image})["tokens"]
    np.save(tmp_path / "image.npy", image)
    ended = there("-c", RUN, bundle.path, tmp_path / "image.npy", tmp_path / "tokens.npy")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("tflite-runtime 2.14.0 1."), ended.stdout
    return float(np.sqrt(np.mean(np.square(np.load(tmp_path / "tokens.npy") - here)) / np.mean(np.square(here))))


def test_what_is_right_there_loads_and_is_proved(convolutions: Bundle, tmp_path: Path) -> None:
    assert off_by(convolutions, tmp_path) < 0.03
    found = checked(convolutions)
    assert found["ok"]
    assert found["blocks"]["vision"]["backend"] == "litert"
    assert found["golden"]["differences"]["tokens"] <= found["golden"]["tolerances"]["tokens"]


@pytest.mark.fault(38)
def test_what_runs_and_is_wrong_there_is_caught_by_the_golden_check(products: Bundle, tmp_path: Path) -> None:
    assert off_by(products, tmp_path) > 0.2, "it runs without an error, and is wrong"
    found = checked(products)
    assert not found["ok"]
    assert "golden output tokens differs by" in found["error"]
    assert "this runtime does not compute what the bundle was built for" in found["error"]


def test_one_delegate_serves_both_runtimes(products: Bundle, tmp_path: Path) -> None:
    """It computes the product itself, and rightly: then the whole is right there too, and is let pass."""
    library = tiny_litert.delegate()
    extra = f'\n[block.vision]\ndelegate = "{library}"\nallow_cpu_fallback = true\n'
    cameras = [camera.name for camera in products.manifest.cameras]
    config = config_without_devices(tmp_path, cameras, lambda text: text + extra)
    found = checked(products, "--config", config.path)
    assert found["ok"], found
    placement = {p["provider"]: p["operators"] for p in found["blocks"]["vision"]["placement"]}
    assert placement[str(library)] == {"FULLY_CONNECTED": 1}


def test_a_part_on_the_cpu_is_an_error_there_too(products: Bundle, tmp_path: Path) -> None:
    extra = f'\n[block.vision]\ndelegate = "{tiny_litert.delegate()}"\n'
    cameras = [camera.name for camera in products.manifest.cameras]
    config = config_without_devices(tmp_path, cameras, lambda text: text + extra)
    error = checked(products, "--config", config.path)["error"]
    assert "block vision was to run on" in error and "20 CONV_2D" in error
