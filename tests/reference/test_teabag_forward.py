"""tools/teabag, run where LeRobot is: its arithmetic is LeRobot's, and every stage works, up to a bundle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.reference.checkpoints import LEROBOT, ROOT, python
from vlad import bundle as bundles
from vlad.build.command import main as build
from vlad.check import main as check
from vlad.manifest import Manifest
from vlad.sim.task import TASKS

pytestmark = pytest.mark.slow

LIMIT = 1e-4
TINY = {
    "compiled": "false", "expert_episodes": "6", "shard": "2", "vision_steps": "4", "vision_batch": "4",
    "motion_steps": "10", "motion_batch": "4", "draws": "2", "rollin_groups": "1", "rollin_steps": "3",
}  # fmt: skip


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([str(python(LEROBOT)), *map(str, words)], cwd=ROOT, env=environment, text=True,
                          capture_output=True, timeout=1500, check=False)  # fmt: skip


def recipe(out: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    settings = [word for name, value in (TINY | changes).items() for word in ("--set", f"{name}={value}")]
    return run("-m", "tools.teabag", out, *settings)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teabag") / "run"
    done = recipe(out)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_the_forward_pass_is_lerobots(tmp_path: Path) -> None:
    done = run(Path(__file__).with_name("teabag_checks.py"), tmp_path / "vlm")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.partition("FOUND")[2])
    print(found)
    for name in ("pixels", "tokens", "keys", "velocity"):
        difference, largest = found[name]
        assert largest > 0.1, name
        assert difference <= LIMIT * max(1.0, largest), name
    # A tea bag 20 cm ahead of the pan axis, 5 cm up, 3 cm beyond and 3 cm above the jaws, along the arm, held.
    assert np.allclose(found["targets"], [0, 1.5, 0, 1, 0, 1, 1, 0, 1, 1, 0, 1, 0], atol=1e-4)


def test_every_stage_up_to_a_bundle(made: Path, tmp_path: Path) -> None:
    document = json.loads((made / "recipe.json").read_text())
    assert document["settings"]["vision_steps"] == 4
    assert set(document["made"]) == {"expert", "vision", "motion-0", "rollin-1", "motion-1"}
    assert document["versions"]["lerobot"] == "0.4.4"
    shards = sorted((made / "expert").iterdir())
    rows = np.concatenate([np.load(shard / "moments.npy", allow_pickle=False) for shard in shards])
    pictures = np.load(shards[0] / "pictures.npy", allow_pickle=False)
    assert len(np.unique(rows["episode"])) >= 2
    assert 6 not in rows["cluster"]
    assert np.isfinite(rows["chunk"]).all() and np.ptp(rows["chunk"][:, :, 0]) > 20
    assert pictures.std() > 20
    before, after = ((made / f"{name}.safetensors").read_bytes() for name in ("motion-0", "motion-1"))
    assert before != after

    bundle = tmp_path / "teabag.vlad"
    words = [str(made / "checkpoint"), "--dataset", str(made / "dataset"), "--units", "degrees", "-o", str(bundle)]
    assert build(words) == 0
    manifest = bundles.load(bundle).manifest
    assert isinstance(manifest, Manifest)
    assert [camera.name for camera in manifest.cameras] == ["top", "gripper", "left"]
    assert {task.text for task in manifest.tasks} == {task.instruction for task in TASKS}
    assert {len(task.token_ids) for task in manifest.tasks} == {9}
    assert check([str(bundle)]) == 0


def test_what_is_missing_is_made_again_and_comes_out_the_same(made: Path) -> None:
    shard = sorted((made / "expert").iterdir())[2]  # was made by a process that had made another one before
    expected = {file: (shard / file).read_bytes() for file in ("moments.npy", "pictures.npy")}
    weights = (made / "motion-0.safetensors").read_bytes()
    shutil.rmtree(shard)
    (made / "motion-0.safetensors").unlink()
    kept = (made / "vision.safetensors").stat().st_mtime_ns
    done = recipe(made)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {file: (shard / file).read_bytes() for file in expected} == expected
    assert (made / "motion-0.safetensors").read_bytes() == weights
    assert (made / "vision.safetensors").stat().st_mtime_ns == kept

    refused = recipe(made, vision_steps="5")
    assert refused.returncode == 1
    assert "give a new directory" in refused.stderr
    (made / "motion-1.safetensors").write_bytes(b"other")
    refused = recipe(made)
    assert refused.returncode == 1
    assert "is not what recipe.json says" in refused.stderr


def test_settings_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    for word, why in (("vision_stepz=5", "vision_steps"), ("vision_steps=many", "--set vision_steps=many"),
                      ("vision_steps=0", "at least 1")):  # fmt: skip
        refused = run("-m", "tools.teabag", tmp_path / "run", "--set", word)
        assert refused.returncode == 1
        assert why in refused.stderr
    assert not (tmp_path / "run").exists()
