"""Stage 1: vision encoder and connector learn to say where things are. Then, once: the tokens of every picture.

A SmolVLA begins with a vision encoder that has seen the web. This one begins with random numbers, and the error of
actions alone teaches it too slowly what a tea bag is. So it is first trained to name what the simulator knows: where
the tea bag, the mug and the jaws are. What reads that off the tokens is thrown away afterwards.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.teabag import policy as policies
from tools.teabag.forward import Forward, pixels
from tools.teabag.moments import PICTURES, TOKENS, Floats, Moments
from tools.teabag.peers import Peers
from tools.teabag.places import Places
from tools.teabag.run import report
from vlad.build.progress import Progress
from vlad.sim.start import MUG_M, PAN_AXIS_M

WEIGHTS = np.array([1] * 9 + [0.5] * 2 + [0.1] * 2, np.float32)
"""Of targets() in the loss: the mug hardly moves, and whether the jaws hold something is easier than where it is."""
BRIGHTNESS = 0.1
WARM_UP = 100
WATCHED_EVERY, WATCHED = 400, 384
_NEAR_M, _FAR_M = 0.03, 0.1
_AT_ONCE = 128


def targets(scene: Floats) -> Floats:
    """What is learnt of scenes (n, 12): (n, 13), each about as large as 1.

    Bearing (sine, cosine) and distance of the tea bag from the pan axis, its height, its heading against the bearing;
    where it is from the point between the jaws, along the bearing, across it and upwards, as far as _FAR_M; held,
    inside; the mug's place.
    """
    bag, side, mug, jaws, states = np.split(scene, [3, 5, 7, 10], axis=1)
    away = bag[:, :2] - np.array(PAN_AXIS_M)
    bearing, distance = np.arctan2(away[:, 1], away[:, 0]), np.hypot(*away.T)
    heading = np.arctan2(side[:, 1], side[:, 0]) - bearing
    cosine, sine = np.cos(bearing), np.sin(bearing)
    x, y, z = (bag - jaws).T
    near = np.clip([x * cosine + y * sine, y * cosine - x * sine, z], -_FAR_M, _FAR_M) / _NEAR_M
    columns = [
        *(1.5 * sine, 1.5 * cosine, (distance - 0.2) / 0.07, bag[:, 2] / 0.05),
        *(np.sin(2 * heading), np.cos(2 * heading), *near, *states.T),
        *((mug - np.array(MUG_M)) / 0.02).T,
    ]
    return np.stack(columns, 1).astype(np.float32)


def reader() -> nn.Sequential:
    """What says targets() from the tokens of all cameras; only this stage needs it."""
    return nn.Sequential(nn.Linear(math.prod(TOKENS), 256), nn.GELU(), nn.Linear(256, len(WEIGHTS)))


def train(peers: Peers, places: Places) -> None:
    """Weights of a new policy with a trained vision encoder."""
    settings = places.settings
    policy = policies.new(places.vlm, settings.seed)
    forward, read = _forward(policy), reader()
    moments = Moments(places.expert)
    pictures, wanted = moments.mapped("pictures", np.uint8, PICTURES), torch.from_numpy(targets(moments.rows["scene"]))
    training, validation = moments.training(), moments.validation()
    torch.manual_seed(settings.seed + 1 + peers.rank)
    rng = np.random.default_rng((settings.seed, peers.rank))
    weights = torch.from_numpy(WEIGHTS)
    vision = [p for name, p in policy.named_parameters() if policies.is_vision(name)]
    parameters = [*vision, *read.parameters()]
    optimizer = torch.optim.AdamW(parameters, settings.vision_rate, betas=(0.9, 0.98), weight_decay=0.02, fused=True)

    def say(seen: Tensor, gain: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            said: Tensor = read(forward.see(pixels((seen * gain).clamp(max=255))).view(-1, math.prod(TOKENS)))
        return said.float()

    quick = torch.compile(say) if settings.compiled else say
    mean = 0.0
    with Progress("vision", settings.vision_steps, quiet=not peers.first) as progress:
        for step in range(settings.vision_steps):
            picked = np.sort(rng.choice(training, settings.vision_batch))
            gain = 1 + BRIGHTNESS * (2 * torch.rand(settings.vision_batch, PICTURES[0], 1, 1, 1) - 1)
            said = quick(torch.from_numpy(pictures[picked]), gain)
            loss = (weights * F.smooth_l1_loss(said, wanted[picked], reduction="none", beta=0.2)).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            peers.average([p.grad for p in parameters])
            nn.utils.clip_grad_norm_(parameters, 0.5)
            set_rate(optimizer, settings.vision_rate, step, settings.vision_steps, WARM_UP)
            optimizer.step()
            mean = loss.item() if step == 0 else 0.99 * mean + 0.01 * loss.item()
            progress.advance(f"loss {mean:.3f}")
            last = step + 1 == settings.vision_steps
            if peers.first and (last or (step + 1) % WATCHED_EVERY == 0):
                some = np.sort(rng.choice(validation, WATCHED))
                with torch.no_grad():
                    said = say(torch.from_numpy(pictures[some]), torch.ones(()))
                report(places.out, "vision", step + 1, loss=mean, **_distances((said - wanted[some]).abs().mean(0)))
    if peers.first:
        policies.save(policy, places.vision)
    peers.wait()


def _distances(error: Tensor) -> dict[str, float]:
    """Mean errors of targets() (13,), those that are lengths in mm."""
    e = error.numpy()
    return {"distance_mm": 70 * e[2], "height_mm": 50 * e[3], "along_mm": 30 * e[6], "across_mm": 30 * e[7],
            "above_mm": 30 * e[8], "held": e[9], "mug_mm": 20 * (e[11] + e[12]) / 2}  # fmt: skip


def _forward(policy: Any) -> Forward:
    return Forward(policy, policies.words(policy).shape[1], TOKENS[0])


def set_rate(optimizer: Any, most: float, step: int, steps: int, warm_up: int) -> None:
    """Learning rate of a step: up in a straight line, then down along a cosine to a hundredth."""
    rising, falling = min(1.0, (step + 1) / min(warm_up, steps)), 0.5 * (1 + math.cos(math.pi * step / steps))
    rate = most * rising * (0.01 + 0.99 * falling)
    for group in optimizer.param_groups:
        group["lr"] = rate


def keep_tokens(peers: Peers, places: Places, shards: Sequence[Path]) -> None:
    """The tokens of every picture into its shard, in float16. Frozen from here on, the encoder never makes others."""
    policy = policies.new(places.vlm, places.settings.seed)
    policies.load(policy, places.vision)
    forward, name = _forward(policy), places.tokens
    todo = [shard for shard in peers.share(shards) if not (shard / f"{name}.npy").exists()]
    with Progress("tokens", len(todo), quiet=not peers.first) as progress, torch.no_grad():
        for shard in todo:
            progress.advance(shard.name)
            pictures = np.load(shard / "pictures.npy", mmap_mode=None, allow_pickle=False)
            made = np.zeros((len(pictures), *TOKENS), np.float16)
            for at in range(0, len(pictures), _AT_ONCE):
                some = torch.from_numpy(pictures[at : at + _AT_ONCE])
                made[at : at + len(some)] = forward.see(pixels(some)).view(-1, *TOKENS).numpy()
            if not np.isfinite(made).all():
                raise ValueError(f"{shard}: tokens are beyond float16")
            partial = shard / f"{name}.new.npy"
            np.save(partial, made, allow_pickle=False)
            os.replace(partial, shard / f"{name}.npy")
