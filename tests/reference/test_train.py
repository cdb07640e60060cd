"""vlad train, run where LeRobot is: a short training of both small policies on simulated episodes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import expert_dataset, tiny_act, tiny_smolvla
from tests.reference.checkpoints import LEROBOT, ROOT, python
from vlad import bundle as bundles
from vlad.act import ActPolicy
from vlad.build.command import main as build
from vlad.policy import Policy
from vlad.train import recipe

pytestmark = pytest.mark.slow

STEPS, SAVED = 20, 10
LIMIT = 1e-4
CLUSTERS = (1, 6, 7)  # of the episodes; 6 is held out
POLICIES = {
    "smolvla-small": ("--policy", "smolvla-small"),
    # A thirtieth of the work, and no download.
    "act-small": ("--policy", "act-small", "--image-size", "64x64", "--policy.pretrained_backbone_weights=null"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("train")
    expert_dataset.write(where / "dataset", CLUSTERS)
    return where


def command(*words: str | Path) -> list[str]:
    return [str(python(LEROBOT)), "-m", "vlad.main", "train", *map(str, words)]


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(place / "cache")}  # fmt: skip


def run(place: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), cwd=place, env=environment(place), text=True, capture_output=True,
                          timeout=3000, check=False)  # fmt: skip


def new(policy: str, place: Path, out: Path, dataset: str = "dataset") -> tuple[str | Path, ...]:
    return (*POLICIES[policy], "--dataset", place / dataset, "--output-dir", out, "--steps", str(STEPS), "--save-freq",
            str(SAVED), "--log-freq", "1", "--val-frames", "8", "--batch-size", "4", "--threads", "1")  # fmt: skip


@pytest.fixture(scope="module", params=POLICIES)
def trained(request: pytest.FixtureRequest, place: Path) -> tuple[str, Path]:
    out = place / request.param
    done = run(place, *new(request.param, place, out))
    assert done.returncode == 0, done.stderr[-3000:]
    return request.param, out


def weights(out: Path) -> dict[str, bytes]:
    """All that a later step depends on, and what is deployed."""
    last = out / "checkpoints/last"
    names = ("pretrained_model/model.safetensors", "training_state/trained.safetensors",
             "training_state/optimizer_state.safetensors", "training_state/rng_state.safetensors",
             "training_state/training_step.json")  # fmt: skip
    return {name: (last / name).read_bytes() for name in names}


def test_the_loss_falls(trained: tuple[str, Path]) -> None:
    _, out = trained
    curves = json.loads((out / "curves.json").read_text())
    losses = [point["loss"] for point in curves["training"]]
    assert len(losses) == STEPS
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert [point["step"] for point in curves["validation"]] == [SAVED, STEPS]
    assert all(point["validation"] > 0 and point["training"] > 0 for point in curves["validation"])
    assert (out / "curves.svg").read_text().lstrip().startswith(("<svg", "<?xml"))
    assert os.readlink(out / "checkpoints/last") == f"{STEPS:06}"
    held = recipe.read(out / "recipe.json")
    assert (held.train_episodes, held.val_episodes) == ((0, 2), (1,))


def test_a_killed_run_goes_on_to_the_same_weights(trained: tuple[str, Path], place: Path) -> None:
    policy, whole = trained
    out = place / f"{policy}-killed"
    process = subprocess.Popen(command(*new(policy, place, out)), cwd=place, env=environment(place),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 1500
    while not (out / f"checkpoints/{SAVED:06}").exists():
        assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / f"checkpoints/{STEPS:06}").exists()
    partial = out / f"checkpoints/.{STEPS:06}.partial-1"  # a checkpoint in the making
    (partial / "pretrained_model").mkdir(parents=True)
    (partial / "pretrained_model/model.safetensors").write_bytes(b"half")
    done = run(place, "--resume", out)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"resumed after step {SAVED}" in done.stdout
    assert weights(out) == weights(whole)
    assert not partial.exists()
    curves = [json.loads((run / "curves.json").read_text()) for run in (out, whole)]
    assert curves[0] == curves[1]


def test_a_recipe_repeats_and_held_out_episodes_have_no_part_in_it(trained: tuple[str, Path], place: Path) -> None:
    policy, whole = trained
    repeated = run(place, "--recipe", whole / "recipe.json", "--output-dir", place / f"{policy}-again")
    assert repeated.returncode == 0, repeated.stderr[-3000:]
    assert weights(place / f"{policy}-again") == weights(whole)

    other = place / f"{policy}-dataset"
    shutil.copytree(place / "dataset", other)
    for file in other.glob("data/*/*.parquet"):
        table = pq.read_table(file)
        held_out = np.array(table["episode_index"]) == 1
        spoilt = np.where(held_out[:, None], 1e3, np.stack(table["action"].to_pylist())).astype(np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(spoilt.ravel()), 6)
        pq.write_table(table.set_column(table.column_names.index("action"), table.field("action"), column), file)
    refused = run(place, "--recipe", whole / "recipe.json", "--dataset", other, "--output-dir", place / "refused")
    assert refused.returncode == 1
    assert "has other contents" in refused.stderr
    out = place / f"{policy}-spoilt"
    done = run(place, *new(policy, place, out, other.name))
    assert done.returncode == 0, done.stderr[-3000:]
    assert weights(out) == weights(whole), "a held-out episode has changed the weights"
    losses = [json.loads((o / "curves.json").read_text())["validation"][-1] for o in (out, whole)]
    assert losses[0]["training"] == losses[1]["training"]
    assert losses[0]["validation"] > 10 * losses[1]["validation"]


def test_lerobot_loads_it_and_a_bundle_equals_it(trained: tuple[str, Path], place: Path, tmp_path: Path) -> None:
    policy, out = trained
    script = Path(__file__).with_name("train_checks.py")
    done = subprocess.run([python(LEROBOT), script, out, tmp_path], cwd=place, env=environment(place), text=True,
                          capture_output=True, timeout=1500, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.partition("FOUND")[2])
    print(found)
    if policy == "smolvla-small":
        assert found["shapes"] == [[3, 3, 96, 96]] * 3
        assert found["pixels"] <= 2 * 0.501 / 255, "cached pictures are further off than by rounding to a byte"
        assert 0.1 < found["loss"] < 100
        for difference in ("draws", "two_draws"):
            assert found[difference] < 1e-5 * found["loss"], difference
        # Each is computed in another batch, and float16 has 11 bits.
        assert found["tokens"] < 1e-3 * max(1.0, found["tokens_most"])
        assert found["cached_loss"] < 1e-3 * found["loss"]
    saved = tiny_smolvla.reference(tmp_path)
    words = [str(out / "checkpoints/last/pretrained_model"), "--dataset", str(place / "dataset"), "--units", "degrees"]
    assert build([*words, "-o", str(tmp_path / "p.vlad")]) == 0
    bundle = bundles.load(tmp_path / "p.vlad")
    if policy == "smolvla-small":
        normalised, _ = tiny_smolvla.chunk(Policy(bundle), saved, 0)
    else:
        normalised, _ = tiny_act.chunk(ActPolicy(bundle), saved, 0)
    expected = saved["normalised_chunk_0"]
    assert np.ptp(expected) > 0.1
    assert np.abs(normalised - expected).max() <= LIMIT


def test_checkpoints_are_tried_on_the_simulated_task(trained: tuple[str, Path], place: Path) -> None:
    _, out = trained
    done = run(place, "select", out, "--episodes", "1", "--from-step", str(STEPS))
    assert done.returncode == 0, done.stderr[-3000:]
    table = json.loads((out / "selection.json").read_text())
    assert (table["chosen"], table["clusters"], table["val_clusters"]) == (STEPS, [1, 7], [6])
    (row,) = table["checkpoints"]
    assert row["training"]["episodes"] == row["held_out"]["episodes"] == 1
    assert os.readlink(out / "checkpoints/best") == f"{STEPS:06}"


def test_a_pretrained_vision_encoder_stays_as_it_was(place: Path) -> None:
    """smolvla-small from the language model of another run: trained on cached vision tokens."""
    first = place / "vlm-source"
    done = run(place, *new("smolvla-small", place, first), "--val-frames", "0")
    assert done.returncode == 0, done.stderr[-3000:]
    saved = first / "checkpoints/last/pretrained_model"
    shutil.copytree(saved / "vlm", place / "vlm")
    with_lerobot(place, TAKE_VLM, saved / "model.safetensors", place / "vlm/model.safetensors")
    out = place / "from-vlm"
    done = run(place, *new("smolvla-small", place, out), "--vlm", place / "vlm")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "vision tokens" in done.stdout
    after = out / "checkpoints/last/pretrained_model/model.safetensors"
    changed = json.loads(with_lerobot(place, COMPARE_VLM, place / "vlm/model.safetensors", after))
    assert changed["vision_model"] == changed["connector"] == 0.0
    assert changed["text_model.layers"] > 0.0


TAKE_VLM = """
import sys
from safetensors.torch import load_file, save_file
own = "model.vlm_with_expert.vlm."
save_file({k[len(own):]: v for k, v in load_file(sys.argv[1]).items() if k.startswith(own)}, sys.argv[2])
"""
COMPARE_VLM = """
import json, sys
from safetensors.torch import load_file
a, b = (load_file(name) for name in sys.argv[1:])
b = {k: b["model.vlm_with_expert.vlm." + k] for k in a}
print(json.dumps({part: max(float((a[k] - b[k]).abs().max()) for k in a if part in k)
                  for part in ("vision_model", "connector", "text_model.layers")}))
"""


def with_lerobot(place: Path, code: str, *words: Path) -> str:
    done = subprocess.run([python(LEROBOT), "-c", code, *words], env=environment(place), text=True, capture_output=True,
                          timeout=600, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
