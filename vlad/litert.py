"""Blocks in LiteRT, on the CPU or through an external delegate: `ai_edge_litert`, or `tflite_runtime` where a
board has that.

With a delegate, the runtime's own default delegate (XNNPACK) is left out: it would take nodes of the
accelerator's, and both show as "DELEGATE". Then every such node is the external one's, and what it replaced is
what leads from its outputs back to its inputs. There is one thread then: more were reported to reset a board with
a Neutron NPU, and the accelerator does the work.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad.backend import CPU, Arrays, Placed, Placement, Target, Threads, placed, refuse_cpu
from vlad.bundle import Bundle
from vlad.errors import BlockFailed, BundleError, ConfigError
from vlad.manifest import Block, Value
from vlad.neutron import CONVERTED, check_versions, left_on_cpu

PACKAGES = ("ai_edge_litert", "tflite_runtime")
ON_CPU, BORDER = "CPU", "CPU at inputs and outputs"
CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE", "TRANSPOSE", "RESHAPE", "CAST"})
"""Operators that only turn float32 inputs into what an accelerator takes, or its outputs back."""
DELEGATE = "DELEGATE"
IDENTIFIER = b"TFL3"  # of the format, at byte 4
EXTERNAL_BUFFERS = (8, 9)  # fields of the table Model, in the order of the schema, that refer to other files


class LiteRtSession:
    """A block in LiteRT, in this process.

    Raises BundleError when the file cannot be loaded, does not have the inputs and outputs that the
    manifest says, or is not on the delegate of `target` (see vlad.backend.refuse_cpu). ConfigError for a
    target that there is not, or without LiteRT.
    """

    def __init__(
        self, bundle: Bundle, block: Block, threads: Threads, target: Target = CPU, *, default_delegates: bool = True
    ) -> None:
        """default_delegates: let XNNPACK compute on the CPU, where there is no other delegate."""
        if target.provider != CPU.provider:
            raise ConfigError(
                f"block {block.name}: is a LiteRT block, and provider {target.provider} is ONNX Runtime's: "
                f"set block.{block.name}.delegate instead"
            )
        converter = None if block.tflite is None else block.tflite.converter
        if converter is not None:
            if target.delegate is None:
                raise ConfigError(f"block {block.name}: was converted for {converter.target}, which the CPU cannot "
                                  f"run: set block.{block.name}.delegate")  # fmt: skip
            check_versions(block.name, converter.version, {"driver": target.driver, "firmware": target.firmware})
        runtime = interpreter_module(block.name)
        where = bundle.path / block.file.path
        with bundle.opened(block.file) as path:
            content = path.read_bytes()  # a mapped file could be written to later
        refuse_external_buffers(content, str(where))
        self._name = block.name
        delegates = [] if target.delegate is None else [_delegate(runtime, block.name, target)]
        resolvers = runtime.OpResolverType
        try:
            with on_cores(threads.affinity):
                self._interpreter: Any = runtime.Interpreter(
                    model_content=content,
                    experimental_delegates=delegates,
                    num_threads=1 if delegates else threads.count,
                    experimental_op_resolver_type=(
                        resolvers.AUTO
                        if default_delegates and not delegates
                        else resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
                    ),
                )
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError, TypeError) as error:
            on = f" on {target.delegate}" if delegates else ""
            raise BundleError(f"{where}: LiteRT cannot load it{on}: {error}") from error
        self._inputs = _indices(block.name, "inputs", block.inputs, self._interpreter.get_input_details())
        self._outputs = _indices(block.name, "outputs", block.outputs, self._interpreter.get_output_details())
        self.placement: Placement = (Placed(provider=ON_CPU, operators={"*": 1}, partitions=1),)
        if target.delegate is not None:
            try:
                ops = self._interpreter._get_ops_details()  # no public interface says it, in either package
            except (AttributeError, RuntimeError) as error:
                raise BundleError(f"block {block.name}: where it runs cannot be read back: {error}") from error
            self.placement = placement_of(
                ops, set(self._inputs.values()), set(self._outputs.values()), target.delegate
            )
            claimed = Counter({} if block.tflite is None else block.tflite.cpu_operators)
            stays = claimed & self._left_on_cpu(ops, converted=converter is not None)
            refuse_cpu(block.name, self.placement, target.delegate, target, border=BORDER, expected=stays)

    def _left_on_cpu(self, ops: Sequence[Mapping[str, Any]], *, converted: bool) -> Counter[str]:
        """Operators of the file that may stay on the CPU, whatever the manifest says: those that Neutron is not known
        to take, or of a converted file all that was not compiled.
        """
        plain = [op for op in ops if op["op_name"] != DELEGATE]
        if converted:
            return Counter(str(op["op_name"]) for op in plain if op["op_name"] != CONVERTED)
        types = {int(d["index"]): np.dtype(d["dtype"]).name for d in self._interpreter.get_tensor_details()}
        reads = ((str(op["op_name"]), next(iter(op["inputs"]), -1)) for op in plain)
        return Counter(left_on_cpu((kind, types.get(int(first), "")) for kind, first in reads))

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """See vlad.backend.Session."""
        if set(inputs) != set(self._inputs):
            raise BlockFailed(self._name, "error", f"failed: inputs are {sorted(inputs)}, not {sorted(self._inputs)}")
        try:
            for name, index in self._inputs.items():
                self._interpreter.set_tensor(index, inputs[name])
            self._interpreter.invoke()
            values = {name: self._interpreter.get_tensor(index) for name, index in self._outputs.items()}
        except (RuntimeError, ValueError, TypeError) as error:
            raise BlockFailed(self._name, "error", f"failed: {error}") from error
        for value in values.values():
            value.flags.writeable = False
        return values

    def close(self) -> None:
        """Release the interpreter with its threads and its delegate."""
        self._interpreter = None


def interpreter_module(block: str) -> Any:
    """The interpreter of the LiteRT package that is installed. Raises ConfigError when none is."""
    for package in PACKAGES:
        try:
            return importlib.import_module(f"{package}.interpreter")
        except ImportError:
            if importlib.util.find_spec(package) is not None:  # it is there and broken: say how
                raise
    raise ConfigError(f"block {block}: is a LiteRT block, and there is no LiteRT: pip install 'vlad[litert]'")


def version() -> str:
    """Package and version of the LiteRT that is installed, "" when none is."""
    from importlib import metadata

    for package in ("ai-edge-litert", "tflite-runtime"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return f"{package} {metadata.version(package)}"
    return ""


def refuse_external_buffers(content: bytes, where: str) -> None:
    """Raises BundleError when a `.tflite` keeps tensors in another file, which nobody has hashed, or is none.

    A flatbuffer's tables begin with the (negative) offset to their vtable, which has its own length in bytes,
    the table's, and the 16-bit offset of each field or 0; after flatbuffers' own description of its format.
    """
    try:
        if content[4:8] != IDENTIFIER:
            raise ValueError("it does not begin as one")
        table = struct.unpack_from("<I", content)[0]
        vtable = table - struct.unpack_from("<i", content, table)[0]
        length = struct.unpack_from("<H", content, vtable)[0] if vtable >= 0 else 0
        for field in EXTERNAL_BUFFERS:
            at = 4 + 2 * field
            if at < length and struct.unpack_from("<H", content, vtable + at)[0]:
                raise BundleError(f"{where}: keeps tensors in another file, which the manifest does not hash")
    except (ValueError, struct.error) as error:
        raise BundleError(f"{where}: not a LiteRT model: {error}") from None


def placement_of(
    ops: Sequence[Mapping[str, Any]], inputs: set[int], outputs: set[int], delegate: str
) -> Placement:
    """Where nodes run, of the interpreter's own list of them: a delegate's node stands at its end and what it
    replaced still stands where it was. inputs, outputs: tensors of the whole graph.
    """
    plain = [op for op in ops if op["op_name"] != DELEGATE]
    producer = {int(tensor): i for i, op in enumerate(plain) for tensor in op["outputs"]}
    taken: set[int] = set()
    partitions = 0
    for op in ops:
        if op["op_name"] != DELEGATE:
            continue
        partitions += 1
        given, open_ends = {int(t) for t in op["inputs"]}, [int(t) for t in op["outputs"]]
        while open_ends:
            node = producer.get(open_ends.pop())
            if node is not None and node not in taken:
                taken.add(node)
                open_ends += [int(t) for t in plain[node]["inputs"] if int(t) not in given]
    border = _border(plain, inputs, outputs) - taken
    found = placed(
        (delegate if i in taken else BORDER if i in border else ON_CPU, str(op["op_name"]))
        for i, op in enumerate(plain)
    )
    return tuple(
        Placed(provider=p.provider, operators=p.operators, partitions=partitions) if p.provider == delegate else p
        for p in found
    )


def _border(ops: Sequence[Mapping[str, Any]], inputs: set[int], outputs: set[int]) -> set[int]:
    """Conversions that are reached from an input or an output of the graph through conversions alone."""
    border: set[int] = set()
    for ends, near, far in ((set(inputs), "inputs", "outputs"), (set(outputs), "outputs", "inputs")):
        found = True
        while found:
            found = False
            for i, op in enumerate(ops):
                if i not in border and op["op_name"] in CONVERSIONS and ends & {int(t) for t in op[near]}:
                    border.add(i)
                    ends |= {int(t) for t in op[far]}
                    found = True
    return border


@contextlib.contextmanager
def on_cores(cores: Sequence[int] | None) -> Iterator[None]:
    """Threads that are started in this context stay on `cores`; the caller goes back to where it was."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _delegate(runtime: Any, name: str, target: Target) -> Any:
    """The loaded delegate. Raises ConfigError with what it had to say."""
    assert target.delegate is not None
    if not Path(target.delegate).is_file():
        wrong = "is no file" if Path(target.delegate).exists() else "does not exist"
        raise ConfigError(f"block {name}: delegate {target.delegate} {wrong}: install the accelerator's library, or "
                          f"correct block.{name}.delegate")  # fmt: skip
    try:
        return runtime.load_delegate(target.delegate, dict(target.delegate_options))
    except (OSError, ValueError, AttributeError) as error:
        why = " ".join(str(error).split())  # it has the delegate's own words in another line
        raise ConfigError(
            f"block {name}: delegate {target.delegate} does not start with options {target.delegate_options}: {why}"
        ) from error


def _indices(block: str, what: str, expected: list[Value], found: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Tensor of each value. Raises BundleError for others than the manifest says, or dynamic ones."""
    wanted = {v.name: list(v.shape) for v in expected}
    actual = {str(d["name"]): [int(n) for n in d.get("shape_signature", d["shape"])] for d in found}
    if wanted != actual or any(d["dtype"] is not np.float32 for d in found):
        raise BundleError(f"block {block}: {what} of the file are {actual}, the manifest says float32 {wanted}")
    return {str(d["name"]): int(d["index"]) for d in found}
