"""Bundles with int8 `.tflite` blocks, and the delegate that stands for an accelerator's driver (tests/delegate)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from tests import small_dataset, tiny_smolvla
from vlad import bundle as bundles
from vlad.build.bundle_directory import file_entry, write_manifest
from vlad.build.writer import golden
from vlad.bundle import Bundle
from vlad.main import main
from vlad.manifest import Block, Errors, Tflite, Value
from vlad.tflite.model import Model, Scale, activation, quantised_weight
from vlad.tflite.translate import integer_values

ROOT = Path(__file__).resolve().parents[1]
Arrays = Mapping[str, NDArray[np.float32]]
RECORD = Tflite(source="none", manifest_sha256="0" * 64, dataset="none", observations=0, operators={},
                errors=Errors(chunk_mae=0, chunk_max=0, cosine=1), cpu_operators={})  # fmt: skip


def delegate() -> Path:
    """The library, built where it is not up to date. `make` is not run twice at a time."""
    out = ROOT / "build/delegate"
    out.mkdir(parents=True, exist_ok=True)
    subprocess.run(["flock", out / "lock", "make", "-s", "-C", ROOT / "tests/delegate"], check=True)
    return out / "libtest_delegate.so"


def order(path: Path, word: str) -> None:
    """Tells a delegate with this file as its `orders` what to do at its next call; whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(word)
    os.rename(partial, path)


def dataset(meta: Path, root: Path, size: tuple[int, int] = (64, 48)) -> Path:
    """Whatever the small policies calibrate with."""
    return small_dataset.write_dataset(meta, root, size=size)


def convert(source: Path, data: Path, out: Path, *more: str) -> int:
    """`vlad tflite`. The budget is wide: these weights are random, and held-out pictures of another brightness."""
    return main(["tflite", str(source), "--calibrate", str(data), "-o", str(out), "--observations", "2",
                 "--budget", "0.9", "--cosine", "-1", *more])  # fmt: skip


def tiny8(root: Path) -> Bundle:
    """A SmolVLA whose vision is a `.tflite`, as `vlad build` and `vlad tflite` write it."""
    source = tiny_smolvla.build(root / "tiny.vlad")
    assert convert(source, dataset(tiny_smolvla.DATA / "dataset", root / "data"), root / "tiny8.vlad") == 0
    return bundles.load(root / "tiny8.vlad")


def extremes(model: onnx.ModelProto, inputs: list[Arrays]) -> dict[str, tuple[float, float]]:
    """The range of each value that is to be integer, over these inputs."""
    wanted = integer_values(model)
    outside = {v.name for v in (*model.graph.input, *model.graph.output)}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.output.extend(onnx.helper.make_tensor_value_info(v, onnx.TensorProto.FLOAT, None)
                             for v in wanted if v not in outside)  # fmt: skip
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    seen = [dict(zip(names, session.run(None, dict(given)), strict=True)) | dict(given) for given in inputs]
    return {v: (min(float(s[v].min()) for s in seen), max(float(s[v].max()) for s in seen)) for v in wanted}


def aliased(source: Path, root: Path) -> Path:
    """The bundle of the small ACT with a `vision` that loads and runs everywhere, and that some runtimes compute
    wrongly without a word: a sum (made in the place of what it adds to) is reshaped, the reshaped one is added to in
    its place, and only then the first sum is read again. Golden values are those of this LiteRT with XNNPACK.
    """
    generator = np.random.default_rng(0)
    shutil.copytree(source, root)
    model = Model("vision")
    x = model.input(model.tensor("image", (1, 3, 96, 96)))
    x = model.op("QUANTIZE", [x], model.tensor("q", (1, 3, 96, 96), "int8", activation(-3, 3)))

    def product(x: int, width: int, reach: float) -> int:
        rows, inputs = model.shapes[x]
        weight = generator.standard_normal((width, inputs)).astype(np.float32) / np.float32(np.sqrt(inputs))
        stored, steps = quantised_weight(weight)
        scale = model.scales[x]
        assert scale is not None
        bias = Scale(tuple(s * scale.scale[0] for s in steps.scale))
        constants = model.constant("w", stored, steps), model.constant("b", np.zeros(width, np.int32), bias)
        y = model.tensor("y", (rows, width), "int8", activation(-reach, reach))
        return model.op("FULLY_CONNECTED", [x, *constants], y)

    def reshaped(x: int, shape: tuple[int, ...]) -> int:
        sizes = np.array(shape, np.int32)
        y = model.tensor("r", shape, "int8", model.scales[x])
        return model.op("RESHAPE", [x, model.constant("shape", sizes)], y, newShape=sizes)

    def plus(x: int) -> int:
        shape = model.shapes[x]
        other = model.constant("c", generator.integers(-100, 100, shape).astype(np.int8), activation(-4, 4))
        return model.op("ADD", [x, other], model.tensor("s", shape, "int8", activation(-9, 9)))

    first = plus(product(reshaped(x, (9, 3072)), 64, 4.0))
    second = plus(reshaped(first, (1, 9, 64)))
    a, b = product(reshaped(second, (9, 64)), 32, 9.0), product(first, 32, 9.0)
    total = model.op("ADD", [a, b], model.tensor("t", (9, 32), "int8", activation(-15, 15)))
    model.output(model.op("DEQUANTIZE", [total], model.tensor("tokens", (9, 32))))

    (root / "blocks/vision.onnx").unlink()
    (root / "blocks/vision.tflite").write_bytes(model.bytes())
    manifest = bundles.load(source).manifest
    blocks = [msgspec.structs.replace(
        b, backend="litert", dtype="int8", file=file_entry(root, "blocks/vision.tflite"), tflite=RECORD,
    ) if b.name == "vision" else b for b in manifest.blocks]  # fmt: skip
    made = msgspec.structs.replace(manifest, blocks=blocks, golden=None)
    write_manifest(root, made)
    proof = golden(bundles.load(root, verify=False), 0.25)  # four steps of the last sum are 0.5
    proof = msgspec.structs.replace(proof, tolerances={"tokens": 0.5})
    write_manifest(root, msgspec.structs.replace(made, golden=proof))
    return root


def products(root: Path, layers: int = 3, width: int = 24, *, softmax: bool = False) -> tuple[Bundle, Block, Arrays]:
    """A block of matrix products in int8, with a SOFTMAX in their midst if asked for; and an input of it."""
    generator = np.random.default_rng(0)
    model = Model("vision")
    x = model.input(model.tensor("image", (4, width)))
    x = model.op("QUANTIZE", [x], model.tensor("q", (4, width), "int8", activation(-3, 3)))
    for i in range(layers):
        weight = generator.standard_normal((width, width)).astype(np.float32) * np.exp(
            generator.uniform(-2, 0.5, (width, 1))).astype(np.float32) / np.float32(np.sqrt(width))  # fmt: skip
        stored, steps = quantised_weight(weight)
        scale = model.scales[x]
        assert scale is not None
        units = tuple(s * scale.scale[0] for s in steps.scale)
        bias = model.constant(f"b{i}", generator.integers(-500, 500, width).astype(np.int32), Scale(units))
        x = model.op("FULLY_CONNECTED", [x, model.constant(f"w{i}", stored, steps), bias],
                     model.tensor(f"y{i}", (4, width), "int8", activation(-4, 4)),
                     fusedActivationFunction=int(i == 0))  # fmt: skip
        if softmax and i == 0:
            real = model.op("DEQUANTIZE", [x], model.tensor("real", (4, width)))
            real = model.op("SOFTMAX", [real], model.tensor("soft", (4, width)), beta=1.0)
            x = model.op("QUANTIZE", [real], model.tensor("again", (4, width), "int8", activation(0, 1)))
    model.output(model.op("DEQUANTIZE", [x], model.tensor("tokens", (4, width))))
    root.mkdir(parents=True, exist_ok=True)
    (root / "vision.tflite").write_bytes(model.bytes())
    block = Block(
        name="vision", file=file_entry(root, "vision.tflite"), backend="litert", dtype="int8", parameters=0, flops=0,
        inputs=[Value(name="image", shape=[4, width])], outputs=[Value(name="tokens", shape=[4, width])],
        tflite=RECORD,
    )  # fmt: skip
    return Bundle(root, None), block, {"image": generator.standard_normal((4, width), dtype=np.float32)}  # type: ignore[arg-type]


