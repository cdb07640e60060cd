"""The same code on tflite-runtime 2.14 and NumPy 1, in an environment of its own (`make tflite-runtime`).

That release computes some files wrongly without a word; what happens to them is in tests/tiny_litert.py. The golden
check is what catches it. What `vlad tflite` writes has no such place, and is right there.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny_act, tiny_litert, tiny_smolvla
from tests.daemons import config_without_devices
from vlad import bundle as bundles
from vlad.backend import Threads, load_block
from vlad.bundle import Bundle
from vlad.manifest import ActManifest

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


def config(bundle: Bundle, directory: Path, extra: str) -> Path:
    cameras = [camera.name for camera in bundle.manifest.cameras]
    text = f'\n[block.vision]\ndelegate = "{tiny_litert.delegate()}"\n{extra}'
    return config_without_devices(directory, cameras, lambda head: head + text).path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """What `vlad tflite` writes."""
    root = tmp_path_factory.mktemp("written")
    made = {}
    for name, policy, size in (("act", tiny_act, (96, 96)), ("smolvla", tiny_smolvla, (64, 48))):
        source = policy.build(root / f"{name}.vlad")
        data = tiny_litert.dataset(policy.DATA / "dataset", root / name, size)
        assert tiny_litert.convert(source, data, root / f"{name}8.vlad") == 0
        made[name] = bundles.load(root / f"{name}8.vlad")
    return made


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    root = tmp_path_factory.mktemp("wrong")
    return bundles.load(tiny_litert.aliased(tiny_act.build(root / "act.vlad"), root / "wrong.vlad"))


def off_by(bundle: Bundle, tmp_path: Path) -> float:
    """How far the two runtimes are apart: root mean square over that of the values."""
    side = 96 if isinstance(bundle.manifest, ActManifest) else 32
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, side, side)).astype(np.float32)
    here = load_block(bundle, "vision", Threads()).run({"image": image})["tokens"]
    np.save(tmp_path / "image.npy", image)
    ended = there("-c", RUN, bundle.path, tmp_path / "image.npy", tmp_path / "tokens.npy")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("tflite-runtime 2.14.0 1."), ended.stdout
    return float(np.sqrt(np.mean(np.square(np.load(tmp_path / "tokens.npy") - here)) / np.mean(np.square(here))))


@pytest.mark.parametrize("name", ["act", "smolvla"])
def test_what_vlad_writes_is_right_there_too(written: dict[str, Bundle], name: str, tmp_path: Path) -> None:
    bundle = written[name]
    assert off_by(bundle, tmp_path) < 0.05
    found = checked(bundle)
    assert found["ok"]
    assert found["blocks"]["vision"]["backend"] == "litert"
    assert found["golden"]["differences"]["tokens"] <= found["golden"]["tolerances"]["tokens"]


@pytest.mark.fault(38)
def test_what_runs_and_is_wrong_there_is_caught_by_the_golden_check(wrong: Bundle, tmp_path: Path) -> None:
    assert off_by(wrong, tmp_path) > 0.2, "it runs without an error, and is wrong"
    found = checked(wrong)
    assert not found["ok"]
    assert "golden output tokens differs by" in found["error"]
    assert "this runtime does not compute what the bundle was built for" in found["error"]


def test_one_delegate_serves_both_runtimes(written: dict[str, Bundle], tmp_path: Path) -> None:
    bundle = written["smolvla"]
    found = checked(bundle, "--config", config(bundle, tmp_path, "allow_cpu_fallback = true\n"))
    assert found["ok"], found
    placement = {p["provider"]: p["operators"] for p in found["blocks"]["vision"]["placement"]}
    assert placement[str(tiny_litert.delegate())] == {"FULLY_CONNECTED": 13}


def test_a_part_on_the_cpu_is_an_error_there_too(written: dict[str, Bundle], tmp_path: Path) -> None:
    error = checked(written["act"], "--config", config(written["act"], tmp_path, ""))["error"]
    assert "block vision was to run on" in error and "20 CONV_2D" in error
