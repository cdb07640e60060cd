"""Tries what `vlad build` refuses because LeRobot cannot run it: prints as JSON what LeRobot says to each.

    python refused_settings.py SCRATCH_DIRECTORY
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from make_checkpoint import SmolVLAPolicy, batch_of, configuration, observation
from stub_vlm import write_vlm

TRIED = {
    "nothing": {},
    "use_cache": {"use_cache": False},
    "use_delta_joint_actions_aloha": {"use_delta_joint_actions_aloha": True},
    "self-attention without an expert": {"num_expert_layers": 2, "self_attn_every_n_layers": 3},
    "all self-attention without an expert": {"num_expert_layers": 2, "attention_mode": "self_attn"},
    "expert made for the other attention": {"num_expert_layers": 2, "self_attn_every_n_layers": 2},
    "experts that do not divide": {"num_expert_layers": 3},
    "not square": {"resize_imgs_with_padding": [64, 32]},
    "own size": {"resize_imgs_with_padding": None},
    "odd expert width": {"expert_width_multiplier": 0.516},
}


def run(out: Path, settings: dict[str, object]) -> None:
    cameras = ["observation.images.camera1"]
    chosen = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    config = configuration(SimpleNamespace(size="small", out=out, normalise="MEAN_STD", set=chosen), cameras)
    policy = SmolVLAPolicy(config).eval().float()
    seen = {f"{k}_0": v for k, v in observation(1, 0, [(48, 64)], np.random.default_rng(0)).items()}
    batch = {k: v[None] for k, v in batch_of(seen | {"task_0": np.array("wave")}, 0, cameras).items() if k != "task"}
    batch["observation.language.tokens"] = torch.tensor([[5, 6, 7]])
    batch["observation.language.attention_mask"] = torch.ones(1, 3, dtype=torch.bool)
    actions = policy.predict_action_chunk(batch)
    assert torch.isfinite(actions).all()


def main() -> None:
    out = Path(sys.argv[1])
    write_vlm(out / "vlm", "small")
    found = {}
    for name, settings in TRIED.items():
        try:
            run(out, settings)
            found[name] = None
        except Exception as error:  # whatever LeRobot and torch raise
            found[name] = f"{type(error).__name__}: {error}"
    (out / "found.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
