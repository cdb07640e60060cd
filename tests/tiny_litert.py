"""Bundles with int8 `.tflite` blocks, and the delegate that stands for an accelerator's driver (tests/delegate)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from tests import small_dataset
from vlad.build.writer import file_entry
from vlad.bundle import Bundle
from vlad.main import main
from vlad.manifest import Block, Errors, Tflite, Value
from vlad.tflite.model import Model, Scale, activation, quantised_weight
from vlad.tflite.translate import integer_values

ROOT = Path(__file__).resolve().parents[1]
Arrays = Mapping[str, NDArray[np.float32]]
DIGEST = "0" * 64


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
                 "--budget", "0.9", *more])  # fmt: skip


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
        tflite=Tflite(source="none", manifest_sha256=DIGEST, dataset="none", observations=0, operators={},
                      errors=Errors(chunk_mae=0, chunk_max=0, cosine=1), cpu_operators={}),
    )  # fmt: skip
    return Bundle(root, None), block, {"image": generator.standard_normal((4, width), dtype=np.float32)}  # type: ignore[arg-type]


