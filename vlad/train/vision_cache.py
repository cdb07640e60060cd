"""The tokens that a frozen vision encoder makes of each picture: computed once, since they never change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlad.errors import ConfigError
from vlad.train.frame_cache import entry

_AT_ONCE = 64


def tokens(
    policy: Any, pictures: Mapping[str, NDArray[Any]], name: str, cache: Path
) -> dict[str, NDArray[Any]]:
    """Of each camera float16 [rows, tokens, width]: what the policy's `embed_image` makes of `pictures`.

    name: of the pictures' entry. Raises ConfigError where the vision encoder or the connector is trained.
    """
    inner = policy.model.vlm_with_expert
    vision, connector = inner.get_vlm_model().vision_model, inner.get_vlm_model().connector
    parts = [*vision.named_parameters(), *connector.named_parameters()]
    if any(p.requires_grad for _, p in parts):
        raise ConfigError("--vision-cache: the vision encoder is trained here, so its tokens change; freeze it")
    digest = hashlib.sha256()
    for key, parameter in parts:
        digest.update(key.encode() + parameter.detach().float().cpu().numpy().tobytes())
    device = next(vision.parameters()).device

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def make(directory: Path) -> dict[str, str]:
        vision.eval()
        for camera, held in pictures.items():
            made: np.memmap[Any, Any] | None = None
            for start in range(0, len(held), _AT_ONCE):
                some = torch.from_numpy(np.array(held[start : start + _AT_ONCE])).to(device).float() / 255
                prepared, _ = policy.prepare_images({camera: some})
                found = inner.embed_image(prepared[0]).float().cpu().numpy().astype(np.float16)
                if not np.isfinite(found).all():
                    raise ConfigError("--vision-cache: tokens are beyond float16; train without it")
                if made is None:
                    shape = (len(held), *found.shape[1:])
                    made = np.lib.format.open_memmap(directory / f"{camera}.npy", "w+", np.float16, shape)
                made[start : start + len(found)] = found
            assert made is not None
            made.flush()
            print(f"{camera}: {made.shape[1]} vision tokens of {len(held)} pictures cached", flush=True)
        return {camera: f"{camera}.npy" for camera in pictures}

    return entry(cache, f"tokens-{name}-{digest.hexdigest()[:16]}", make, tuple(pictures))


def accept_tokens(policy: Any) -> None:
    """From now on a camera's entry of a batch may be its tokens instead of pictures.

    They come as [n, 1, tokens, width], a picture of one channel: to LeRobot's pre-processor what has three dimensions
    is a picture without a batch.
    """
    inner = policy.model.vlm_with_expert
    of_pictures, embed = policy.prepare_images, inner.embed_image
    dtype = next(inner.get_vlm_model().connector.parameters()).dtype

    def prepare_images(batch: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        cameras = [key for key in policy.config.image_features if key in batch]
        if not cameras or batch[cameras[0]].shape[1] != 1:
            images: tuple[list[Any], list[Any]] = of_pictures(batch)
            return images
        held = [batch[key].squeeze(1) for key in cameras]
        return held, [torch.ones(len(x), dtype=torch.bool, device=x.device) for x in held]

    def embed_image(image: Any) -> Any:
        return image.to(dtype) if image.ndim == 3 else embed(image)

    policy.prepare_images = prepare_images
    inner.embed_image = embed_image
