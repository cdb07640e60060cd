"""A policy as the quantiser sees it: blocks in order, and a chunk out of an observation with any of them exchanged.

An `Evaluation` is all that a kind of policy has to bring. It runs the runtime's own classes, so what is judged is
what will drive the arm.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from vlad.act import ActPolicy
from vlad.backend import CPU_PROVIDER, Arrays, Session, Threads, session_options
from vlad.bundle import Bundle
from vlad.errors import BlockFailed, BundleError
from vlad.expert import EVALUATIONS
from vlad.golden import whole_turn
from vlad.manifest import ActManifest, Flow, SmolvlaManifest
from vlad.onnx_parts import refuse_external_data
from vlad.policy import Policy
from vlad.quantize.observations import Observation

Array = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    """What one observation gave. outputs: of each block that ran, the results of its calls. chunk: normalised actions
    `[chunk, joints]`. velocities, states: of each flow step, the joints' part, `[chunk, joints]`; none without
    a flow. kept: what the evaluation needs to go on from a block in the middle.
    """

    outputs: dict[str, list[dict[str, Array]]]
    chunk: Array
    velocities: list[Array]
    states: list[Array]
    kept: Any = None


GoesOn = Callable[[list[dict[str, Array]]], bool]
"""Whether a block's results, those of all its calls for one chunk, are worth going on with."""


class Evaluation(Protocol):
    """One policy. `floating` are the blocks that stay floating point unless the user asks otherwise."""

    blocks: tuple[str, ...]
    floating: frozenset[str]

    def calls(self, block: str) -> int:
        """How often a block runs for one chunk."""

    def trace(
        self, sessions: Mapping[str, Session], observation: Observation, *, changed: str | None = None,
        reference: Trace | None = None,
    ) -> Trace:
        """With `changed` and `reference`, what comes before the block `changed` is taken from the reference, and
        `sessions` need not have it.
        """

    def tried(
        self, sessions: Mapping[str, Session], observation: Observation, changed: str, reference: Trace, goes_on: GoesOn
    ) -> Trace | None:
        """The same; None, and nothing after the block `changed` is run, where its results are not worth it."""


class Timed(Session, Protocol):
    """A session that knows the CPU seconds of its calls so far, and the inputs of the last one."""

    seconds: list[float]
    inputs: dict[str, Array]


class TimedSession:
    """Any session, timed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.seconds: list[float] = []
        self.inputs: dict[str, Array] = {}

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See vlad.backend.Session."""
        self.inputs = dict(inputs)
        before = time.process_time_ns()
        values = self._session.run(self.inputs)
        self.seconds.append((time.process_time_ns() - before) / 1e9)
        return values

    def close(self) -> None:
        """Release the session."""
        self._session.close()


class GraphSession:
    """An ONNX file in ONNX Runtime, with the options that the runtime gives a block (vlad/backend.py).

    `seconds` is the CPU time of the calls so far, one number each; `inputs` are those of the last one.
    """

    def __init__(
        self, path: Path, threads: Threads, optimised: Path | None = None, *, rewriting: bool = True
    ) -> None:
        """optimised: where to write the graph as the runtime has rewritten it. rewriting: whether it may."""
        import onnxruntime as ort

        options = session_options(path.stem, threads)
        if not rewriting:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if optimised is not None:
            options.optimized_model_filepath = str(optimised)
        try:
            self._session: Any = ort.InferenceSession(str(path), options, providers=[CPU_PROVIDER])
        except Exception as error:  # ONNX Runtime raises classes of its own, derived from Exception alone
            raise BundleError(f"{path.name}: ONNX Runtime cannot load it: {error}") from error
        self.names = [value.name for value in self._session.get_outputs()]
        self.seconds: list[float] = []
        self.inputs: dict[str, Array] = {}

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See vlad.backend.Session."""
        self.inputs = dict(inputs)
        before = time.process_time_ns()
        try:
            values = self._session.run(None, self.inputs)
        except Exception as error:  # see above
            raise BlockFailed("candidate", "error", f"failed: {error}") from error
        self.seconds.append((time.process_time_ns() - before) / 1e9)
        return dict(zip(self.names, values, strict=True))

    def close(self) -> None:
        """Release the session."""
        self._session = None


class CapturingSession:
    """A block whose inner values are handed to `take(name, value)` at every call; its own outputs go on."""

    def __init__(self, session: GraphSession, values: Sequence[str], take: Callable[[str, Array], None]) -> None:
        self._session, self._values, self._take = session, values, take

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See vlad.backend.Session."""
        out = self._session.run(inputs)
        for name in self._values:
            self._take(name, out[name] if name in out else inputs[name])
        return {name: value for name, value in out.items() if name not in self._values}

    def close(self) -> None:
        """Release the session."""
        self._session.close()


class _Stopped(Exception):
    """A block's results are not worth going on with."""


class _Slot:
    """A session that stands for whichever is plugged in for its block.

    replayed: results that are answered instead, one call after the other. goes_on: asked after the last of
    `calls`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.session: Session | None = None
        self.outputs: list[dict[str, Array]] = []
        self.replayed: Sequence[dict[str, Array]] | None = None
        self.goes_on: GoesOn | None = None
        self.calls = 1

    def run(self, inputs: Arrays) -> dict[str, Array]:
        if self.replayed is not None:
            self.outputs.append(self.replayed[len(self.outputs)])
            return self.outputs[-1]
        assert self.session is not None, self._name
        self.outputs.append(self.session.run(inputs))
        if self.goes_on is not None and len(self.outputs) == self.calls and not self.goes_on(self.outputs):
            raise _Stopped
        return self.outputs[-1]

    def close(self) -> None:
        pass


class _PolicyEvaluation:
    """The runtime's own policy over sessions that can be exchanged."""

    blocks: tuple[str, ...] = ()
    floating: frozenset[str] = frozenset()

    def __init__(self, bundle: Bundle) -> None:
        self._slots = {name: _Slot(name) for name in self.blocks}
        self._state_width = bundle.manifest.state_width
        self._joints = len(bundle.manifest.joints)
        statistics = bundle.manifest.state
        self._mean, self._std = (np.array(v, np.float32) for v in (statistics.mean, statistics.std))
        self._eps = np.float32(statistics.eps)

    def _load(self, bundle: Bundle, name: str, threads: Threads) -> Session:
        return self._slots[name]

    def trace(
        self, sessions: Mapping[str, Session], observation: Observation, *, changed: str | None = None,
        reference: Trace | None = None,
    ) -> Trace:  # fmt: skip
        """See Evaluation."""
        start = 0 if changed is None or reference is None else self.blocks.index(changed)
        self._plug(sessions, start, reference)
        return self._traced(observation, start, reference)

    def tried(
        self, sessions: Mapping[str, Session], observation: Observation, changed: str, reference: Trace, goes_on: GoesOn
    ) -> Trace | None:
        """See Evaluation."""
        start = self.blocks.index(changed)
        self._plug(sessions, start, reference)
        self._slots[changed].goes_on, self._slots[changed].calls = goes_on, self.calls(changed)
        try:
            return self._traced(observation, start, reference)
        except _Stopped:
            return None

    def calls(self, block: str) -> int:
        """See Evaluation."""
        raise NotImplementedError

    def _plug(self, sessions: Mapping[str, Session], start: int, reference: Trace | None) -> None:
        for at, (name, slot) in enumerate(self._slots.items()):
            slot.session, slot.outputs, slot.goes_on = sessions.get(name), [], None
            slot.replayed = reference.outputs.get(name) if at < start and reference is not None else None

    def _traced(self, observation: Observation, start: int, reference: Trace | None) -> Trace:
        trace = self._chunk(observation, start, None if reference is None else reference.kept)
        outputs = {name: slot.outputs for name, slot in self._slots.items() if slot.outputs}
        return dataclasses.replace(trace, outputs=outputs)

    def _chunk(self, observation: Observation, start: int, kept: Any) -> Trace:
        """From block number `start` on; what comes before is in `kept`, of a trace of the same observation."""
        raise NotImplementedError

    def _state(self, observation: Observation) -> Array:
        """Normalised and padded, `[1, state_width]`."""
        padded = np.zeros((1, self._state_width), np.float32)
        padded[0, : self._joints] = (observation.state - self._mean) / (self._std + self._eps)
        return padded


class SmolvlaEvaluation(_PolicyEvaluation):
    """Vision of each camera, prefill, context, and the expert once an evaluation of the flow."""

    blocks: tuple[str, ...] = ("vision", "prefill", "context", "expert")
    floating = frozenset({"expert"})

    def __init__(self, bundle: Bundle, flow: Flow | None = None) -> None:
        super().__init__(bundle)
        manifest = bundle.manifest
        assert isinstance(manifest, SmolvlaManifest)
        if flow is not None:
            manifest = msgspec.structs.replace(manifest, flow=flow)
        self._manifest = manifest
        self._policy = Policy(Bundle(bundle.path, manifest), calibration=whole_turn(manifest), load=self._load)

    def calls(self, block: str) -> int:
        """See Evaluation."""
        flow = self._manifest.flow
        return {"vision": len(self._manifest.cameras), "expert": flow.steps * EVALUATIONS[flow.solver]}.get(block, 1)

    def _chunk(self, observation: Observation, start: int, kept: Any) -> Trace:
        policy = self._policy
        tokens: list[Array]
        prefix: Any
        tokens, prefix = kept or ([], None)
        if start == 0:
            tokens = [policy.encode_image(i, image) for i, image in enumerate(observation.images)]
        if start <= 2:  # the language model runs context too
            task = policy.token_ids(observation.task)
            prefix = policy.language.prefill(tokens, task, self._state(observation))
        velocities: list[Array] = []
        states: list[Array] = []

        def watch(x: Array, velocity: Array) -> None:
            states.append(x[:, : self._joints])
            velocities.append(velocity[:, : self._joints])

        noise = policy.expert.noise(np.random.default_rng(observation.seed))
        chunk = policy.expert.sample(prefix, noise, watch=watch)[:, : self._joints]
        return Trace({}, chunk, velocities, states, (tokens, prefix))


class ActEvaluation(_PolicyEvaluation):
    """Vision of each camera and the policy, once."""

    blocks: tuple[str, ...] = ("vision", "policy")

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self._policy = ActPolicy(bundle, calibration=whole_turn(bundle.manifest), load=self._load)
        self._cameras = len(bundle.manifest.cameras)

    def calls(self, block: str) -> int:
        """See Evaluation."""
        return self._cameras if block == "vision" else 1

    def _chunk(self, observation: Observation, start: int, kept: Any) -> Trace:
        tokens = kept
        if start == 0:
            tokens = [self._policy.encode_image(i, image) for i, image in enumerate(observation.images)]
        return Trace({}, self._policy.decode(self._policy.see(tokens, self._state(observation))), [], [], tokens)


def evaluation_of(bundle: Bundle, flow: Flow | None = None) -> Evaluation:
    """The evaluation of a bundle's policy; `flow` in place of its own, for one that has a flow."""
    if isinstance(bundle.manifest, ActManifest):
        return ActEvaluation(bundle)
    return SmolvlaEvaluation(bundle, flow)


class Floats:
    """The blocks as they are in the bundle, each loaded when it is asked for and there until it is dropped.

    Raises BundleError for one that refers to another file.
    """

    def __init__(self, bundle: Bundle, blocks: Sequence[str], threads: Threads) -> None:
        self._paths = {name: bundle.file(bundle.block(name).file) for name in blocks}
        self._threads = threads
        self._sessions: dict[str, GraphSession] = {}
        for path in self._paths.values():
            refuse_external_data(path, str(path))

    def __getitem__(self, name: str) -> GraphSession:
        if name not in self._sessions:
            self._sessions[name] = GraphSession(self._paths[name], self._threads)
        return self._sessions[name]

    def onwards(self, first: str | None = None, changed: Mapping[str, Session] | None = None) -> dict[str, Session]:
        """Of the block `first` and all after it, with those of `changed` in place of their own."""
        names = list(self._paths)
        changed = changed or {}
        return {n: changed[n] if n in changed else self[n] for n in names[names.index(first) if first else 0 :]}

    def drop(self, name: str) -> None:
        """Release one, if it is there."""
        if name in self._sessions:
            self._sessions.pop(name).close()
