"""tools.teabag's forward pass against LeRobot's, on random weights; runs where LeRobot is.

    python teabag_checks.py VLM

VLM: a directory to write the backbone into. Prints one JSON object of largest differences and largest values, which
tests/reference/test_teabag_forward.py judges.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from lerobot.policies.smolvla.modeling_smolvla import make_att_2d_masks

from tools.teabag import policy as policies
from tools.teabag.forward import Forward, pixels
from tools.teabag.moments import CHUNK, PICTURES, TOKENS
from tools.teabag.vision import targets

COUNT, DRAWS = 3, 2


@torch.no_grad()  # type: ignore[untyped-decorator]
def main() -> None:
    vlm = Path(sys.argv[1])
    policies.write_backbone(vlm)
    policy = policies.new(vlm, 5).eval()
    for parameter in policy.parameters():  # norms of 1 and biases of 0 would hide what is left out
        parameter.add_(0.05 * torch.randn_like(parameter))
    model, ids = policy.model, policies.words(policy)
    forward = Forward(policy, ids.shape[1], TOKENS[0])

    pictures = torch.randint(256, (COUNT, *PICTURES), dtype=torch.uint8)
    given = {c: pictures[:, k].float() / 255 for k, c in enumerate(policy.config.image_features)}
    images, masks = policy.prepare_images(given)
    words = ids[torch.tensor([0, 1, 0])]
    state, noised, times = torch.randn(COUNT, 8), torch.randn(COUNT, DRAWS, CHUNK, 8), torch.rand(COUNT, DRAWS)

    embedded, pad, causal = model.embed_prefix(images, masks, words, torch.ones_like(words, dtype=torch.bool), state)
    _, cache = model.vlm_with_expert.forward(
        attention_mask=make_att_2d_masks(pad, causal), position_ids=torch.cumsum(pad, dim=1) - 1, past_key_values=None,
        inputs_embeds=[embedded, None], use_cache=True, fill_kv_cache=True,
    )  # fmt: skip
    wanted = torch.stack([model.denoise_step(pad, cache, noised[:, d], times[:, d]) for d in range(DRAWS)], 1)

    shown = pixels(pictures)
    seen = forward.see(shown).view(COUNT, *TOKENS)
    prefix = forward.prefix(seen, words, state)
    found = {
        "pixels": (torch.stack(images, 1).flatten(0, 1), shown),
        "tokens": (embedded[:, : TOKENS[0]] / TOKENS[1] ** 0.5, seen),
        "keys": (torch.stack([cache[i]["key_states"][:, :, 0] for i in cache]), torch.stack([k for k, _ in prefix])),
        "velocity": (wanted, forward.velocity(prefix, noised, times)),
    }
    report = {name: [float((a - b).abs().max()), float(a.abs().max())] for name, (a, b) in found.items()}
    scene = np.array([[0.2388353, 0.0, 0.05, 1, 0, 0.05, -0.275, 0.2088353, 0.0, 0.02, 1, 0]], np.float32)
    print("FOUND" + json.dumps({**report, "targets": targets(scene)[0].tolist()}))


if __name__ == "__main__":
    main()
