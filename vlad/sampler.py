"""From a prefix to a chunk: the policy's sampler, each chunk going on from the last where real-time
chunking is on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vlad.expert import Guidance
from vlad.rtc import Continuation, RealTimeChunking
from vlad.scheduler import Request

Actions = NDArray[np.float64]


class SamplingPolicy(Protocol):
    """Any policy: chunks in core units `[chunk, joints]`."""

    def sample(
        self, prefix: Any, *, generator: np.random.Generator, steps: int | None = None,
        guidance: Guidance | None = None,
    ) -> Actions: ...


class ActionSpace(Protocol):
    """Normalised actions to core units; vlad.observation.JointSpace is one."""

    def actions(self, normalised: NDArray[np.float32], /) -> Actions: ...


@runtime_checkable
class GuidablePolicy(Protocol):
    """One that samples by flow matching, which is what real-time chunking steers."""

    @property
    def joint_space(self) -> ActionSpace: ...
    def sample_normalised(
        self, prefix: Any, *, generator: np.random.Generator, steps: int | None = None,
        guidance: Guidance | None = None,
    ) -> NDArray[np.float32]: ...


class Sampler:
    """The chunks of one policy, one at a time: `sample`, then `judged` when the gate has spoken."""

    def __init__(
        self, policy: SamplingPolicy, generator: np.random.Generator, rtc: RealTimeChunking | None = None
    ) -> None:
        """rtc: needs a GuidablePolicy."""
        self._policy = policy
        self._generator = generator
        self.rtc = rtc
        self._context: object = None
        self._continuation: Continuation | None = None
        self._normalised: NDArray[np.float32] | None = None
        self._joints = 0

    def sample(self, prefix: Any, request: Request, *, task: object, t_obs_ns: int, now_ns: int) -> Actions:
        """A chunk in core units `[chunk, joints]`, observed at `t_obs_ns`, with the flow steps of the
        request's rung. now_ns: when sampling begins."""
        steps = request.rung.steps
        if self.rtc is None:
            return self._policy.sample(prefix, generator=self._generator, steps=steps)
        assert isinstance(self._policy, GuidablePolicy)
        self._context = (request.epoch, task)
        self._continuation = self.rtc.plan(
            self._context, t_obs_ns=t_obs_ns, cold=request.cold,
            arrival_ns=max(request.admitted_ns + request.predicted_ns, now_ns),
        )  # fmt: skip
        guidance = None if self._continuation is None else self._continuation.guidance
        self._normalised = self._policy.sample_normalised(
            prefix, generator=self._generator, steps=steps, guidance=guidance
        )
        actions = self._policy.joint_space.actions(self._normalised)
        self._joints = actions.shape[1]
        return actions

    def judged(self, report: Mapping[str, Any]) -> None:
        """What the servo loop's push said to the chunk that was sampled last."""
        if self.rtc is None or self._normalised is None:
            return
        accepted = report["verdict"] != "rejected"
        self.rtc.judged(
            self._context, self._continuation, self._normalised, joints=self._joints,
            arrival_ns=report["now_ns"], t0_ns=report["t0_ns"] if accepted else None,
        )  # fmt: skip
        self._normalised = None
