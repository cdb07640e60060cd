"""Lets LeRobot 0.3.3 write the policy of tests/data/smolvla_tiny as it did before processors existed: the
statistics are buffers inside the weights, and there are no processor files.

    python make_old_checkpoint.py OUT [--min-max] [--compiled]

Runs from the root of the repository in an environment of `pip install 'lerobot[smolvla]==0.3.3'`, offline.
Writes

    OUT/checkpoint/    what its save_pretrained writes; with --compiled as it does of a compiled model, whose
                       weights are under `model._orig_mod.`
    OUT/reference.npz  the chunks in degrees (`chunk_<case>`) that it computes in float32 from the observations
                       and the noise of tests/data/smolvla_tiny/reference.npz
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import numpy as np
import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from safetensors.torch import load_file
from torch import nn
from transformers.models.smolvlm import modeling_smolvlm

DATA = Path("tests/data/smolvla_tiny")


def ordered_positions(self, pixel_values, patch_attention_mask):
    """Vision embeddings with the position ids that bfloat16 and transformers 5 compute."""
    embedded = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
    return embedded.flatten(2).transpose(1, 2) + self.position_embedding.weight[None]


def configuration(document: dict, modes: dict[str, str]) -> SmolVLAConfig:
    """That of the newer checkpoint, as this LeRobot knows it."""
    known = set(SmolVLAConfig.__dataclass_fields__)
    taken = {key: value for key, value in document.items() if key in known}
    for side in ("input_features", "output_features"):
        taken[side] = {k: PolicyFeature(FeatureType[f["type"]], tuple(f["shape"])) for k, f in taken[side].items()}
    taken["normalization_mapping"] = {kind: NormalizationMode[mode] for kind, mode in modes.items()}
    taken["resize_imgs_with_padding"] = tuple(taken["resize_imgs_with_padding"])
    return SmolVLAConfig(**taken)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--min-max", action="store_true", help="normalise state and action by their range")
    parser.add_argument("--compiled", action="store_true", help="save a model that was compiled")
    args = parser.parse_args()
    vector = "MIN_MAX" if args.min_max else "MEAN_STD"
    document = json.loads((DATA / "checkpoint/config.json").read_text())
    config = configuration(document, {"VISUAL": "IDENTITY", "STATE": vector, "ACTION": vector})
    stats = json.loads((DATA / "dataset/meta/stats.json").read_text())
    tensors = {f: {k: np.asarray(v, np.float32) for k, v in s.items()} for f, s in stats.items()}
    policy = SmolVLAPolicy(config, dataset_stats=tensors).eval()
    weights = load_file(DATA / "checkpoint/model.safetensors")
    missing, unexpected = policy.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all("normalize" in key for key in missing), missing
    if args.compiled:
        flow = policy.model
        policy.model = nn.Module()  # what torch.compile makes: the module is its `_orig_mod`
        policy.model._orig_mod = flow
    policy.save_pretrained(args.out / "checkpoint")
    if args.compiled:
        policy.model = flow

    modeling_smolvlm.SmolVLMVisionEmbeddings.forward = ordered_positions
    policy = policy.float()
    with np.load(DATA / "reference.npz", allow_pickle=False) as archive:
        saved = {name: archive[name] for name in archive.files}
    chunks = {}
    for case in (0, 1):
        state = torch.from_numpy(saved[f"state_{case}"])[None]
        batch = {"observation.state": state, "task": [str(saved[f"task_{case}"])]}
        for index, name in enumerate(config.image_features):
            frame = torch.from_numpy(saved[f"image{index}_{case}"])
            batch[name] = frame.permute(2, 0, 1).float()[None] / 255
        noise = torch.from_numpy(saved[f"noise_{case}"])[None]
        chunks[f"chunk_{case}"] = policy.predict_action_chunk(batch, noise=noise)[0].float().numpy()
    np.savez_compressed(args.out / "reference.npz", **chunks)


if __name__ == "__main__":
    main()
