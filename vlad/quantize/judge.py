"""What a choice of schemes does to the policy, against float32 on the same observations and the same noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vlad.backend import Session
from vlad.manifest import Errors, Manifest
from vlad.quantize.evaluation import Array, Evaluation, Floats, Timed, Trace
from vlad.quantize.observations import Observation

MAX_PAIRS = 30


@dataclasses.dataclass(frozen=True, slots=True)
class Gate:
    """What one group of layers may do to the policy: least cosine, greatest mean error of a chunk."""

    cosine: float = 0.999
    chunk_mae: float = 0.002

    def passes(self, errors: Errors) -> bool:
        return errors.cosine > self.cosine and errors.chunk_mae <= self.chunk_mae


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """One group of one block in one scheme, everything else in float32.

    output_cosine, output_error: of the block's own outputs, the least and the relative root mean square.
    errors: None where the block's outputs were so far off already that the chunk was not looked at.
    latency: CPU time of the whole block over its time in float32.
    saved_bytes: of the block's file. saved: of the policy's cost, a share (schemes.py).
    """

    block: str
    group: str
    scheme: str
    output_cosine: float
    output_error: float
    errors: Errors | None
    passes: bool
    latency: float
    saved_bytes: int
    saved: float


class Judge:
    """Measures with the traces of a float32 policy, which it makes first."""

    def __init__(
        self, evaluation: Evaluation, floats: Floats, observations: Sequence[Observation],
        scale: NDArray[np.float64],
    ) -> None:  # fmt: skip
        """scale: `[joints]`, a normalised action to a share of the joint's range."""
        self._evaluation, self._floats, self._scale = evaluation, floats, scale
        self._observations = observations
        self.references = [evaluation.trace(floats.onwards(), o) for o in observations]

    def traces(self, changed: Mapping[str, Session], count: int | None = None) -> list[Trace]:
        """Of the policy with these blocks in place of its own, on the first `count` observations."""
        first = next((b for b in self._evaluation.blocks if b in changed), None)
        if first is None:
            return self.references[:count]
        sessions = self._floats.onwards(first, changed)
        return [
            self._evaluation.trace(sessions, o, changed=first, reference=reference)
            for o, reference in list(zip(self._observations, self.references, strict=True))[:count]
        ]

    def tried(self, name: str, session: Session, worth: float) -> tuple[list[Trace] | None, float, float]:
        """The traces with another session for the block `name`, or None where the relative error of its outputs
        was more than `worth` on one observation; their least cosine and relative error, as of `block`.
        """
        sessions = self._floats.onwards(name, {name: session})
        traces: list[Trace] = []
        for observation, reference in zip(self._observations, self.references, strict=True):
            seen: list[tuple[float, float]] = []

            def goes_on(calls: list[dict[str, Array]]) -> bool:
                seen.append(_difference([(reference.outputs[name], calls)]))  # noqa: B023
                return seen[0][1] <= worth  # noqa: B023

            trace = self._evaluation.tried(sessions, observation, name, reference, goes_on)
            if trace is None:
                return None, *seen[0]
            traces.append(trace)
        return traces, *self.block(name, traces)

    def errors(self, traces: Sequence[Trace]) -> Errors:
        """Of these traces against the float32 ones."""
        return compare(self.references, traces, self._scale)

    def steps(self, traces: Sequence[Trace]) -> list[float]:
        """The mean error of the state after each flow step, as a share of the joints' range; empty without a flow."""
        pairs = list(zip(self.references, traces, strict=True))
        count = len(pairs[0][0].states)
        return [float(np.mean([np.abs(a.states[k] - b.states[k]) * self._scale for a, b in pairs]))
                for k in range(count)]  # fmt: skip

    def block(self, name: str, traces: Sequence[Trace]) -> tuple[float, float]:
        """Least cosine and relative error of a block's own outputs."""
        return _difference([(r.outputs[name], t.outputs[name]) for r, t in zip(self.references, traces, strict=True)])

    def latency(self, name: str, candidate: Timed, seconds: float = 0.1) -> float:
        """CPU time of the candidate over that of the float32 block, the least of each: of the candidate's last
        inputs, in turn, for about so long; of the calls so far where one takes longer.
        """
        exact, inputs = self._floats[name], candidate.inputs
        if not exact.seconds:
            exact.run(inputs)
        pairs = int(min(seconds / max(min(exact.seconds), 1e-6), MAX_PAIRS))
        if pairs < 1:
            return min(candidate.seconds) / min(exact.seconds)
        exact.run(inputs)
        times: dict[Timed, list[float]] = {candidate: [], exact: []}
        for _ in range(pairs):
            for session, taken in times.items():
                session.run(inputs)
                taken.append(session.seconds[-1])
        return min(times[candidate]) / max(min(times[exact]), 1e-9)


def compare(references: Sequence[Trace], traces: Sequence[Trace], scale: NDArray[np.float64]) -> Errors:
    """Errors of chunks and the least cosine of velocities, along each one's own path."""
    off = np.array([np.abs(r.chunk - t.chunk) * scale for r, t in zip(references, traces, strict=True)])
    pairs: Iterable[tuple[Array, Array]] = [
        pair
        for r, t in zip(references, traces, strict=True)
        for pair in zip(r.velocities or [r.chunk], t.velocities or [t.chunk], strict=True)
    ]
    if not np.isfinite(off).all():
        return Errors(chunk_mae=1e9, chunk_max=1e9, cosine=-1.0)
    return Errors(
        chunk_mae=float(off.mean()), chunk_max=float(off.max()),
        cosine=min(_cosine(a.ravel(), b.ravel()) for a, b in pairs),
    )  # fmt: skip


def chunk_scale(manifest: Manifest, joint_range: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[joints]`: a normalised action times this is a share of the joint's range."""
    return np.array(manifest.action.std) / joint_range


Calls = list[dict[str, Array]]


def _difference(pairs: Iterable[tuple[Calls, Calls]]) -> tuple[float, float]:
    """Least cosine and relative error of results, of those of float32 (first) and others; of each observation all
    calls. What is not finite is infinitely far off.
    """
    flat = [(_flat(a), _flat(b)) for a, b in pairs]
    if not all(np.isfinite(b).all() for _, b in flat):
        return -1.0, float("inf")
    power = sum(float(np.vdot(a, a)) for a, _ in flat)
    off = sum(float(np.vdot(a - b, a - b)) for a, b in flat)
    return min(_cosine(a, b) for a, b in flat), float(np.sqrt(off / max(power, 1e-30)))


def _flat(calls: Calls) -> NDArray[np.float64]:
    return np.concatenate([a.ravel() for out in calls for a in out.values()]).astype(np.float64)


def _cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    if lengths == 0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return float(np.clip(np.vdot(a, b) / lengths, -1.0, 1.0))
