"""What a choice of schemes does to the policy, against float32 on the same observations and the same noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vlad.backend import Session
from vlad.manifest import Errors, Manifest
from vlad.quantize.evaluation import Array, Evaluation, GraphSession, Timed, Trace
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
    latency: CPU time of the whole block over its time in float32, measured in turn; None: not measured.
    saved_bytes: of the block's file. saved: of the policy's cost, a share (schemes.py).
    """

    block: str
    group: str
    scheme: str
    output_cosine: float
    output_error: float
    errors: Errors
    passes: bool
    latency: float | None
    saved_bytes: int
    saved: float


class Judge:
    """Measures with the traces of a float32 policy, which it makes first."""

    def __init__(
        self, evaluation: Evaluation, floats: Mapping[str, GraphSession], observations: Sequence[Observation],
        scale: NDArray[np.float64],
    ) -> None:  # fmt: skip
        """scale: `[joints]`, a normalised action to a share of the joint's range."""
        self._evaluation, self._floats, self._scale = evaluation, floats, scale
        self._observations = observations
        self.references = [evaluation.trace(floats, o) for o in observations]

    def traces(self, changed: Mapping[str, Session]) -> list[Trace]:
        """Of the policy with these blocks in place of its own."""
        first = next((b for b in self._evaluation.blocks if b in changed), None)
        if first is None:
            return self.references
        sessions: dict[str, Session] = {**self._floats, **changed}
        return [
            self._evaluation.trace(sessions, o, changed=first, reference=reference)
            for o, reference in zip(self._observations, self.references, strict=True)
        ]

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
        pairs = [(_flat(r.outputs[name]), _flat(t.outputs[name]))
                 for r, t in zip(self.references, traces, strict=True)]  # fmt: skip
        power = sum(float(np.vdot(a, a)) for a, _ in pairs)
        off = sum(float(np.vdot(a - b, a - b)) for a, b in pairs)
        return min(_cosine(a, b) for a, b in pairs), float(np.sqrt(off / max(power, 1e-30)))

    def latency(self, name: str, candidate: Timed, seconds: float = 0.1) -> float:
        """CPU time of the candidate over that of the float32 block, on the candidate's last inputs, in turn, for
        about so long: the least of each.
        """
        exact, inputs = self._floats[name], candidate.inputs
        exact.run(inputs)
        pairs = int(np.clip(seconds / max(exact.seconds[-1], 1e-6), 1, MAX_PAIRS))
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


def _flat(arrays: Sequence[Array]) -> NDArray[np.float64]:
    return np.concatenate([a.ravel() for a in arrays]).astype(np.float64)


def _cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    if lengths == 0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return float(np.clip(np.vdot(a, b) / lengths, -1.0, 1.0))
