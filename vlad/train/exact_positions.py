"""A fault of transformers, undone where it is run: it numbers the patches of a picture wrongly in float32."""

from __future__ import annotations

from typing import Any

import transformers
from torch import Tensor
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMVisionEmbeddings


def use_exact_positions() -> None:
    """Vision position ids 0..n-1, as bfloat16 and other versions have them. transformers 4.55 to 4.57 in float32 have
    them one too low on each axis (huggingface/transformers issue 41190), and a checkpoint would only fit that fault.
    Other versions stay as they are.
    """
    if not transformers.__version__.startswith(("4.55.", "4.56.", "4.57.")):
        return

    def forward(self: Any, pixel_values: Tensor, patch_attention_mask: Tensor | None = None) -> Tensor:
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        return patches.flatten(2).transpose(1, 2) + self.position_embedding.weight[None]

    SmolVLMVisionEmbeddings.forward = forward
