"""Backends: what runs a block. A small protocol, and ONNX Runtime as its first implementation.

Sizes of thread pools, their cores and the execution provider are explicit; where a block landed is
proved, not assumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
FUSED = Path(__file__).with_name("_native") / "vlad-fused.so"
"""Operators of our own for ONNX Runtime (csrc/fused): those of them that this processor can run take
the place of the functions of the same name in a block, which compute the same without it.
"""
Arrays = Mapping[str, NDArray[np.float32]]


class Session(Protocol):
    """A loaded block. Not shared between threads."""

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """Compute all outputs by name from float32 inputs by name.

        Outputs are the caller's, and read-only: what is handed on unchanged need not be copied again.
        Raises BundleError for inputs that the block does not take, BlockFailed when it does not compute.
        """

    def close(self) -> None:
        """Release the block's memory and threads."""


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
    the manifest says, or does not run on `provider` (parts of it on the CPU count, unless
    `allow_cpu_fallback`).
    """

    def __init__(
        self,
        bundle: Bundle,
        block: Block,
        threads: Threads,
        *,
        provider: str = CPU_PROVIDER,
        allow_cpu_fallback: bool = False,
    ) -> None:
        import onnxruntime as ort

        options = session_options(block.name, threads)
        if provider not in ort.get_available_providers():
            raise ConfigError(
                f"block {block.name}: execution provider {provider} is not in this ONNX Runtime "
                f"(it has {ort.get_available_providers()})"
            )
        providers = [provider]
        if provider != CPU_PROVIDER:
            if allow_cpu_fallback:
                providers.append(CPU_PROVIDER)
            else:
                options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        where = bundle.path / block.file.path
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


def load_block(
    bundle: Bundle,
    name: str,
    threads: Threads,
    *,
    provider: str = CPU_PROVIDER,
    allow_cpu_fallback: bool = False,
) -> Session:
    """Load one block of a bundle into this process, on the backend that its manifest names.

    Raises BundleError or ConfigError.
    """
    return OnnxRuntimeSession(
        bundle, bundle.block(name), threads, provider=provider, allow_cpu_fallback=allow_cpu_fallback
    )


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
