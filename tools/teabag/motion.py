"""Stage 2: language model and action expert learn what the expert does, from the tokens of frozen vision.

The loss is LeRobot's flow matching, with the changes that `vlad train` has for small policies (docs/train.md): several
noises an observation, flow times that the sampler visits, weight on the difference of consecutive actions, averaged
weights. The processes train apart and average their weights every few steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn

from tools.teabag import policy as policies
from tools.teabag.forward import Forward
from tools.teabag.moments import TOKENS, Floats, Index, Mapped, Moments
from tools.teabag.peers import Peers
from tools.teabag.places import Places
from tools.teabag.run import report
from tools.teabag.sampler import Sampler
from tools.teabag.settings import Settings
from tools.teabag.vision import set_rate
from vlad.build.progress import Progress

JITTER_DEG = (0.5, 0.5, 0.5, 0.5, 0.8, 0.5)
"""Standard deviation of what is added to a state."""
NEAR_M = 0.07
DIFFERENCE_WEIGHT, PADDING_WEIGHT = 0.5, 0.05
EMA_DECAY = 0.999
AVERAGE_EVERY = 8
WARM_UP = 150
FLOW_STEPS = 10
"""Of LeRobot's sampler."""
WATCHED_EVERY, WATCHED, FIRST_ACTIONS = 500, 192, 10


Batch = tuple[Tensor, ...]
"""Pictures' tokens, word ids, state, actions (n, chunk, 8), noise (n, draws, chunk, 8), flow times (n, draws)."""


class Batches:
    """Moments to train on, drawn at random: those near the grasp and those of roll-ins more often."""

    def __init__(self, moments: Moments, seen: Mapped, sampler: Sampler, settings: Settings, rng: Generator) -> None:
        self._moments, self._seen, self._sampler, self._rng = moments, seen, sampler, rng
        self._size = (settings.motion_batch, settings.draws)
        self._training = moments.training()
        self._often = np.cumsum(_often(moments, settings)[self._training])
        visited = np.arange(1, FLOW_STEPS + 1) / FLOW_STEPS
        self._times, weights = visited, 1 / (visited + 0.15)
        self._shares = weights / weights.sum()

    def draw(self) -> Batch:
        rng, sampler = self._rng, self._sampler
        places = np.searchsorted(self._often, rng.random(self._size[0]) * self._often[-1], "right")
        picked = np.sort(self._training[places])
        rows = self._moments.rows[picked]
        states = rows["state"] + rng.normal(0, JITTER_DEG, rows["state"].shape)
        actions = sampler.actions(torch.from_numpy(np.ascontiguousarray(rows["chunk"])))
        return (
            torch.from_numpy(self._seen[picked]).float(),
            sampler.words(rows["task"]),
            sampler.state(torch.from_numpy(states).float()),
            actions,
            torch.randn(*self._size, *actions.shape[1:]),
            torch.from_numpy(rng.choice(self._times, size=self._size, p=self._shares)).float(),
        )


def flow_loss(forward: Forward, batch: Batch) -> Tensor:
    """LeRobot's loss, and that of the difference between consecutive actions."""
    seen, words, state, actions, noise, times = batch
    t, wanted = times[..., None, None], noise - actions[:, None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prefix = forward.prefix(seen, words, state)
        velocity = forward.velocity(prefix, t * noise + (1 - t) * actions[:, None], times)
    error = velocity.float() - wanted
    moved, padding = error[..., : len(JITTER_DEG)], error[..., len(JITTER_DEG) :]
    loss: Tensor = moved.square().mean() + DIFFERENCE_WEIGHT * moved.diff(dim=2).square().mean()
    return loss + PADDING_WEIGHT * padding.square().mean()


class Average:
    """Averaged weights, which are what is watched and saved."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = parameters
        self._mean = [p.detach().clone() for p in parameters]

    def update(self, step: int) -> None:
        # At first the average is of what there is: 0.999 of random weights would last for thousands of steps.
        decay = min(EMA_DECAY, (2 + step) / (11 + step))
        torch._foreach_lerp_(self._mean, [p.detach() for p in self._parameters], 1 - decay)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The parameters are the averages for a while."""
        kept = [p.detach().clone() for p in self._parameters]
        self._put(self._mean)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _put(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)


def train(peers: Peers, places: Places, stage: int) -> None:
    """Go on from the weights of the stage before, with the expert's episodes and `stage` rounds of roll-ins."""
    settings = places.settings
    steps, rate = (
        (settings.rollin_steps, settings.rollin_rate) if stage else (settings.motion_steps, settings.motion_rate)
    )
    policy = policies.new(places.vlm, settings.seed)
    policies.load(policy, places.motion(stage - 1) if stage else places.vision)
    rollins = [shard for round_ in range(1, stage + 1) for shard in places.rollin(round_)]
    moments, sampler = Moments([*places.expert, *rollins]), Sampler(policy, Moments(places.expert).statistics())
    seen, forward = moments.mapped(places.tokens, np.float16, TOKENS), sampler.forward
    torch.manual_seed(1000 * (stage + 1) + 10 * settings.seed + peers.rank)
    rng = np.random.default_rng((settings.seed, stage + 1, peers.rank))
    batches = Batches(moments, seen, sampler, settings, rng)
    parameters = [p for name, p in policy.named_parameters() if not policies.is_vision(name)]
    average = Average(parameters)
    optimizer = torch.optim.AdamW(parameters, rate, betas=(0.9, 0.95), weight_decay=1e-3, fused=True)

    def loss_of(batch: Batch) -> Tensor:
        return flow_loss(forward, batch)

    quick = torch.compile(loss_of) if settings.compiled else loss_of
    mean = 0.0
    with Progress(f"motion {stage}", steps, quiet=not peers.first) as progress:
        for step in range(steps):
            loss = quick(batches.draw())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            set_rate(optimizer, rate, step, steps, WARM_UP)
            optimizer.step()
            last = step + 1 == steps
            if last or (step + 1) % AVERAGE_EVERY == 0:
                peers.average(parameters)
            average.update(step)
            mean = loss.item() if step == 0 else 0.99 * mean + 0.01 * loss.item()
            progress.advance(f"loss {mean:.3f}")
            if peers.first and (last or (step + 1) % WATCHED_EVERY == 0):
                with average.inside():
                    error = _error(sampler, moments, seen, np.sort(rng.choice(moments.validation(), WATCHED)))
                report(places.out, f"motion-{stage}", step + 1, loss=mean, all_deg=error.mean((0, 1)),
                       first_deg=error[:, :FIRST_ACTIONS].mean((0, 1)))  # fmt: skip
    if peers.first:
        with average.inside():
            policies.save(policy, places.motion(stage))
    peers.wait()


def _often(moments: Moments, settings: Settings) -> NDArray[np.float64]:
    """How often each moment is drawn, relatively: what goes wrong goes wrong within centimetres of the tea bag."""
    scene = moments.rows["scene"]
    near = (np.linalg.norm(scene[:, :3] - scene[:, 7:10], axis=1) < NEAR_M) & (scene[:, 10] < 0.5)
    often: NDArray[np.float64] = 1 + settings.near_weight * near
    often *= np.where(moments.rows["episode"] >= settings.rollin_seed, settings.rollin_weight, 1.0)
    return often


def _error(sampler: Sampler, moments: Moments, seen: Mapped, some: Index) -> Floats:
    """How far sampled chunks are from the expert's (n, chunk, 6), degrees."""
    rows = moments.rows[some]
    states = torch.from_numpy(np.ascontiguousarray(rows["state"]))
    found = sampler.chunks(torch.from_numpy(seen[some]).float(), states, rows["task"])
    error: Floats = np.abs(found - rows["chunk"])
    return error
