"""Backends: what runs a block. A small protocol, and ONNX Runtime behind it; LiteRT is in vlad/litert.py.

Sizes of thread pools, their cores and what a block is to run on are explicit; where it landed is read back,
not assumed.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from vlad.bundle import Bundle
from vlad.errors import BlockFailed, BundleError, ConfigError
from vlad.manifest import Block, Value
from vlad.onnx_parts import refuse_external_data

CPU_PROVIDER = "CPUExecutionProvider"
NEUTRON_DRIVER, NEUTRON_FIRMWARE = "/usr/lib/libNeutronDriver.so", "/usr/lib/firmware/NeutronFirmware.elf"
FUSED = Path(__file__).with_name("_native") / "vlad-fused.so"
"""Operators of our own for ONNX Runtime (csrc/fused): those of them that this processor can run take
the place of the functions of the same name in a block, which compute the same without it.
"""
Arrays = Mapping[str, NDArray[np.float32]]


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a block is to run on: an execution provider of ONNX Runtime, or a LiteRT delegate by the path of its
    library, with its options. allow_cpu_fallback: the CPU may run what that does not take. driver, firmware:
    files that hold the versions of a Neutron NPU's, for a block that was converted for one.
    """

    provider: str = CPU_PROVIDER
    provider_options: dict[str, str] = {}
    delegate: str | None = None
    delegate_options: dict[str, str] = {}
    allow_cpu_fallback: bool = False
    driver: str = NEUTRON_DRIVER
    firmware: str = NEUTRON_FIRMWARE

    @property
    def accelerated(self) -> bool:
        """Whether it is anything but the CPU."""
        return self.provider != CPU_PROVIDER or self.delegate is not None


CPU = Target()


class Placed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of a block `provider` runs: nodes by operator, and in how many partitions, which are nodes that are
    run one after the other with nothing of another provider between them. An operator by the name "*" is all
    that there is, not counted: a block that was to be on the CPU.
    """

    provider: str
    operators: dict[str, int]
    partitions: int

    @property
    def words(self) -> str:
        """For a person."""
        if "*" in self.operators:
            return self.provider
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(self.operators.items(), key=lambda kv: (-kv[1], kv[0])))
        return f"{self.provider}: {sum(self.operators.values())} nodes in {self.partitions} partitions ({kinds})"


Placement = tuple[Placed, ...]


class Session(Protocol):
    """A loaded block. Not shared between threads."""

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """Compute all outputs by name from float32 inputs by name.

        Outputs are the caller's, and read-only: what is handed on unchanged need not be copied again.
        Raises BundleError for inputs that the block does not take, BlockFailed when it does not compute.
        """

    def close(self) -> None:
        """Release the block's memory and threads."""


class PlacedSession(Session, Protocol):
    """A session that says where its block landed."""

    @property
    def placement(self) -> Placement:
        """What the runtime says of itself, asked after the block was loaded."""


class Threads(msgspec.Struct, frozen=True, kw_only=True):
    """The thread pool of one block.

    `count` includes the calling thread, which pins itself. `affinity` lists the cores (0-based) of
    the other `count - 1` threads; None leaves them to the kernel. `spinning` burns a core between
    operators for lower latency.
    """

    count: int = 1
    affinity: tuple[int, ...] | None = None
    spinning: bool = False

    @classmethod
    def on(cls, cores: Sequence[int]) -> Threads:
        """One thread for each of a stage's cores, the calling one on the first; one anywhere for none."""
        return cls(count=max(1, len(cores)), affinity=tuple(cores[1:]) if len(cores) > 1 else None)


def session_options(name: str, threads: Threads) -> Any:
    """ONNX Runtime's options for the block `name`. Raises ConfigError for threads that cannot be, or operators
    of our own that cannot be loaded.
    """
    import onnxruntime as ort

    if threads.count < 1:
        raise ConfigError(f"block {name}: {threads.count} threads; at least one is needed")
    options = ort.SessionOptions()
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads.count
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads.spinning else "0")
    if threads.affinity is not None and threads.count > 1:
        options.add_session_config_entry("session.intra_op_thread_affinities", _affinities(name, threads))
    if FUSED.exists():
        try:
            options.register_custom_ops_library(str(FUSED))
        except Exception as error:  # ONNX Runtime raises classes of its own, derived from Exception alone
            raise ConfigError(f"{FUSED}: ONNX Runtime cannot load it: {error}; install vlad anew") from error
    return options


class OnnxRuntimeSession:
    """A block in ONNX Runtime, in this process.

    Raises BundleError when the graph cannot be loaded, does not have the inputs and outputs that
    the manifest says, or does not run on the provider of `target` (parts of it on the CPU count, unless
    it allows for that). ConfigError for a target that there is not.
    """

    def __init__(self, bundle: Bundle, block: Block, threads: Threads, target: Target = CPU) -> None:
        import onnxruntime as ort

        provider = target.provider
        options = session_options(block.name, threads)
        if target.delegate is not None:
            raise ConfigError(
                f"block {block.name}: is an ONNX graph, and a delegate is for LiteRT: `vlad tflite` writes such a "
                "block, or take the key away"
            )
        if provider not in ort.get_available_providers():
            raise ConfigError(
                f"block {block.name}: execution provider {provider} is not in this ONNX Runtime "
                f"(it has {ort.get_available_providers()})"
            )
        providers: list[Any] = [(provider, dict(target.provider_options))]
        if target.accelerated:
            if target.allow_cpu_fallback:
                providers.append(CPU_PROVIDER)
            else:
                options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        where = bundle.path / block.file.path
        with contextlib.ExitStack() as stack:
            if target.accelerated:
                scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="vlad-"))
                options.enable_profiling, options.profile_file_prefix = True, str(Path(scratch, block.name))
            with bundle.opened(block.file) as path:
                refuse_external_data(path, str(where))
                try:
                    self._session: Any = ort.InferenceSession(str(path), options, providers=providers)
                except Exception as error:  # ONNX Runtime raises classes of its own, derived from Exception alone
                    why = str(error).replace(str(path), str(where))
                    raise BundleError(f"{where}: ONNX Runtime cannot load it on {provider}: {why}") from error
            if self._session.get_providers()[0] != provider:
                self.close()
                raise BundleError(f"block {block.name} was to run on {provider} and did not")
            self._name = block.name
            _compare(block.name, "inputs", block.inputs, self._session.get_inputs())
            _compare(block.name, "outputs", block.outputs, self._session.get_outputs())
            self._outputs = [value.name for value in block.outputs]
            self.placement: Placement = (Placed(provider=provider, operators={"*": 1}, partitions=1),)
            if target.accelerated:
                self.placement = self._profiled(block)
        try:
            refuse_cpu(block.name, self.placement, provider, target)
        except BundleError:
            self.close()
            raise

    def _profiled(self, block: Block) -> Placement:
        """Where the nodes of one run were, as the runtime's own profile says: of zeros, in the least shape.

        Newer releases have an interface for it, the board's have not. Raises BundleError.
        """
        least = {v.name: np.zeros([d if isinstance(d, int) else 1 for d in v.shape], np.float32) for v in block.inputs}
        try:
            self.run(least)
            events = json.loads(Path(self._session.end_profiling()).read_bytes())
            nodes = [(e["args"]["provider"], e["args"]["op_name"]) for e in events
                     if e.get("cat") == "Node" and "provider" in e["args"]]  # fmt: skip
        except (BlockFailed, OSError, ValueError, KeyError, TypeError) as error:
            raise BundleError(f"block {block.name}: where it runs cannot be read back: {error}") from error
        return placed(nodes)

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """See Session."""
        try:
            values = self._session.run(self._outputs, dict(inputs))
        except Exception as error:  # see above
            raise BlockFailed(self._name, "error", f"failed: {error}") from error
        for value in values:
            value.flags.writeable = False
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        """Release the session with its threads."""
        self._session = None


def placed(nodes: Iterable[tuple[str, str]]) -> Placement:
    """The placement of nodes (provider, operator) in the order in which they run."""
    operators: dict[str, Counter[str]] = {}
    partitions: Counter[str] = Counter()
    for provider, run in groupby(nodes, key=lambda node: node[0]):
        partitions[provider] += 1
        operators.setdefault(provider, Counter()).update(kind for _, kind in run)
    return tuple(
        Placed(provider=provider, operators=dict(kinds), partitions=partitions[provider])
        for provider, kinds in operators.items()
    )


def refuse_cpu(
    name: str, placement: Placement, provider: str, target: Target, *, border: str = "",
    expected: Mapping[str, int] | None = None,
) -> None:  # fmt: skip
    """Raises BundleError for a block that was to be on the accelerator `provider` and is not, whole or in part.

    border: a provider that stands for the conversion of inputs and outputs, which may be on the CPU. expected: how
    many nodes of each operator may be there besides, because what made the block said so.
    """
    if not target.accelerated or target.allow_cpu_fallback:
        return
    elsewhere = [p for p in placement if p.provider not in (provider, border)]
    found = sum((Counter(p.operators) for p in elsewhere), Counter[str]())
    if any(p.provider == provider for p in placement) and not found - Counter(expected or {}):
        return
    but = f" (of which {dict(sorted(expected.items()))} were to stay there)" if expected else ""
    raise BundleError(
        f"block {name} was to run on {provider}: " + "; ".join(p.words for p in elsewhere or placement) + but
        + f"; convert it for this board, or set block.{name}.allow_cpu_fallback = true"
    )


def load_block(bundle: Bundle, name: str, threads: Threads, target: Target = CPU) -> PlacedSession:
    """Load one block of a bundle into this process, on the backend that its manifest names.

    Raises BundleError or ConfigError.
    """
    block = bundle.block(name)
    if block.backend == "litert":
        from vlad.litert import LiteRtSession

        return LiteRtSession(bundle, block, threads, target)
    return OnnxRuntimeSession(bundle, block, threads, target)


def _affinities(name: str, threads: Threads) -> str:
    cores: Sequence[int] = threads.affinity or ()
    if len(cores) != threads.count - 1:
        raise ConfigError(
            f"block {name}: {threads.count} threads need the cores of {threads.count - 1} (the "
            "caller pins itself), "
            f"got {list(cores)}"
        )
    return ";".join(str(core + 1) for core in cores)


def _compare(block: str, what: str, expected: list[Value], found: list[Any]) -> None:
    wanted = {v.name: [d if isinstance(d, int) else None for d in v.shape] for v in expected}
    actual = {v.name: [d if isinstance(d, int) else None for d in v.shape] for v in found}
    if wanted != actual or any(v.type != "tensor(float)" for v in found):
        raise BundleError(f"block {block}: {what} of the graph are {actual}, the manifest says {wanted}")
