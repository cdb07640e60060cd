"""What is minimised, in the form that LeRobot's `update_policy` drives: a module with forward() and update()."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from lerobot.policies.smolvla.modeling_smolvla import make_att_2d_masks
from torch import Tensor, nn

from vlad.train.recipe import Settings


class Objective(nn.Module):  # type: ignore[misc]
    """A policy's own loss; of a flow-matching policy, where asked for, that of several noises an observation.

    `update` is called by LeRobot after each step: it averages the weights, which `averaged` puts into the policy for a
    while. steps: that were taken.
    """

    def __init__(self, policy: Any, settings: Settings) -> None:
        super().__init__()
        self.policy = policy
        self._settings = settings
        self._own = policy.config.type == "smolvla" and (
            settings.draws > 1 or settings.flow_times == "sampler" or settings.difference_weight > 0
        )
        self.steps = 0
        self._mean = {n: p.detach().clone() for n, p in self._trained()} if settings.ema_decay else {}

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((n, p) for n, p in self.policy.named_parameters() if p.requires_grad)

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """The loss of a pre-processed batch, and what LeRobot logs of it."""
        if not self._own:
            loss, logged = self.policy.forward(batch)
            return loss, logged
        device, count = batch["observation.state"].device, len(batch["observation.state"]) * self._settings.draws
        if self._settings.flow_times == "sampler":
            steps = self.policy.config.num_steps
            visited = torch.arange(1, steps + 1, device=device) / steps
            times = visited[torch.multinomial(1 / (visited + 0.15), count, replacement=True)]
        else:
            times = self.policy.model.sample_time(count, device)
        shape = (count, self.policy.config.chunk_size, self.policy.config.max_action_dim)
        error = flow_error(self.policy, batch, self.policy.model.sample_noise(shape, device), times)
        loss = error.square().mean()
        logged = {"loss": float(loss.detach())}
        if self._settings.difference_weight:
            joints = self.policy.config.action_feature.shape[0]
            rough = error[..., :joints].diff(dim=1).square().mean()
            loss = loss + self._settings.difference_weight * rough
        return loss, logged

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def update(self) -> None:
        self.steps += 1
        if not self._mean:
            return
        # At first the average is of what there is: 0.998 of random weights would last for 2000 steps.
        decay = min(self._settings.ema_decay, (1 + self.steps) / (10 + self.steps))
        for name, parameter in self._trained():
            self._mean[name].lerp_(parameter, 1 - decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The policy has the weights that are saved: the averaged ones where there are any."""
        kept = {n: p.detach().clone() for n, p in self._trained()} if self._mean else {}
        self._put(self._mean)
        try:
            yield
        finally:
            self._put(kept)

    @property
    def averages(self) -> bool:
        """Whether other weights are saved than are trained."""
        return bool(self._mean)

    def set_average(self, weights: dict[str, Tensor]) -> None:
        """Of a resumed run: the weights that were saved."""
        for name, mean in self._mean.items():
            mean.copy_(weights[name])

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self._trained():
            if name in weights:
                parameter.copy_(weights[name])


def flow_error(policy: Any, batch: dict[str, Any], noise: Tensor, times: Tensor) -> Tensor:
    """SmolVLA's error of velocity, whose square is LeRobot's loss, of a whole number of noises each observation.

    noise: [n * draws, chunk, max_action_dim], times: [n * draws], an observation's draws following one another. The
    prefix (pictures, instruction, state) is computed once for them, as the sampler does it.
    """
    model = policy.model
    draws = len(noise) // len(batch["observation.state"])
    images, masks = policy.prepare_images(batch)
    prefix, pad, causal = model.embed_prefix(
        images, masks, batch["observation.language.tokens"], batch["observation.language.attention_mask"],
        state=policy.prepare_state(batch),
    )  # fmt: skip
    _, cache = model.vlm_with_expert.forward(
        attention_mask=make_att_2d_masks(pad, causal), position_ids=torch.cumsum(pad, dim=1) - 1,
        past_key_values=None, inputs_embeds=[prefix, None], use_cache=True, fill_kv_cache=True,
    )  # fmt: skip
    cache = {k: {n: x.repeat_interleave(draws, 0) for n, x in layer.items()} for k, layer in cache.items()}
    actions = policy.prepare_action(batch).repeat_interleave(draws, 0)
    t = times[:, None, None]
    velocity = model.denoise_step(pad.repeat_interleave(draws, 0), cache, t * noise + (1 - t) * actions, times)
    return velocity - (noise - actions)
