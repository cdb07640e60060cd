"""Lets LeRobot write the small variants under tests/data/smolvla_variants, which tests/unit/test_smolvla_variants.py
reads. From the root of the repository:

    build/reference/venv/bin/python tests/reference/make_variants.py

Each is a checkpoint without its weights, which are made of their names (seeded_weights.py), and the chunks that
LeRobot computes from it. Dataset and language model are those of tests/data/smolvla_tiny.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

DATA = Path("tests/data/smolvla_variants")  # a checkpoint holds the path that it was written to
VARIANTS: dict[str, dict[str, object]] = {
    "all-cross": {"self_attn_every_n_layers": 0, "chunk_size": 5, "n_action_steps": 2},
    "every-third": {"self_attn_every_n_layers": 3, "num_vlm_layers": 4, "num_steps": 4},
    "every-layer": {"self_attn_every_n_layers": 1},
    "all-self": {"attention_mode": "self_attn"},
    "half-experts": {"num_vlm_layers": 4, "num_expert_layers": 2, "self_attn_every_n_layers": -1},
    "half-experts-self-first": {"num_vlm_layers": 4, "num_expert_layers": 2, "self_attn_every_n_layers": 4},
    "one-expert": {"num_expert_layers": 1, "self_attn_every_n_layers": 5},
    "one-layer": {"num_vlm_layers": 1},
    "marks-empty-cameras": {"add_image_special_tokens": True, "empty_cameras": 2},
    "padded": {"prefix_length": 99, "pad_language_to": "longest", "tokenizer_max_length": 40, "empty_cameras": 1},
    "larger-pictures": {"resize_imgs_with_padding": [48, 48]},
    "narrow": {"expert_width_multiplier": 0.75, "max_state_dim": 6, "max_action_dim": 7, "n_obs_steps": 2},
}
NORMALISED = ("MIN_MAX", "QUANTILES", "QUANTILE10", "IDENTITY")


def write(name: str, *arguments: str) -> None:
    target = DATA / name
    shutil.rmtree(target, ignore_errors=True)
    script = [sys.executable, "tests/reference/make_checkpoint.py", str(target), "--seeded", "--size", "tiny"]
    subprocess.run([*script, "--frames", "24x32,15x15", *arguments], check=True)
    shutil.rmtree(target / "dataset")
    for file in target.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)


def main() -> None:
    for name, settings in VARIANTS.items():
        cameras = "2" if "cameras" in name else "1"
        write(name, "--cameras", cameras, *(f"--set={key}={json.dumps(value)}" for key, value in settings.items()))
    for mode in NORMALISED:
        write(mode.lower().replace("_", "-"), "--normalise", mode)


if __name__ == "__main__":
    main()
