"""Tensors in other files are found wherever a graph can hold a tensor, and hostile bytes end the walk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.tiny_smolvla import build
from vlad import onnx_parts
from vlad.errors import BundleError
from vlad.onnx_parts import refuse_external_data


def external() -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def graph(**parts: list[object]) -> onnx.GraphProto:
    return helper.make_graph([], "g", [], [], **parts)


def holding(attribute: dict[str, object]) -> onnx.GraphProto:
    made = graph()
    made.node.append(helper.make_node("Constant", [], ["w"], **attribute))
    return made


def sparse() -> onnx.SparseTensorProto:
    made = onnx.SparseTensorProto(dims=[4])
    made.values.CopyFrom(external())
    return made


def in_function() -> onnx.ModelProto:
    model = helper.make_model(graph())
    function = model.functions.add(name="f", domain="d")
    function.node.append(holding({"value": external()}).node[0])
    return model


def in_training() -> onnx.ModelProto:
    model = helper.make_model(graph())
    model.training_info.add().algorithm.initializer.append(external())
    return model


def inner(levels: int) -> onnx.GraphProto:
    made = graph(initializer=[external()])
    for _ in range(levels):
        made = holding({"then_branch": made})
    return made


PLACES: dict[str, Callable[[], onnx.ModelProto]] = {
    "initializer": lambda: helper.make_model(graph(initializer=[external()])),
    "sparse initializer": lambda: helper.make_model(graph(sparse_initializer=[sparse()])),
    "attribute": lambda: helper.make_model(holding({"value": external()})),
    "attribute of several": lambda: helper.make_model(holding({"values": [external(), external()]})),
    "sparse attribute": lambda: helper.make_model(holding({"sparse_value": sparse()})),
    "graph in a graph": lambda: helper.make_model(inner(1)),
    "ten graphs deep": lambda: helper.make_model(inner(10)),
    "function": in_function,
    "training": in_training,
}


@pytest.mark.parametrize("place", PLACES)
def test_found_wherever_it_is(tmp_path: Path, place: str) -> None:
    file = tmp_path / "a.onnx"
    file.write_bytes(PLACES[place]().SerializeToString())
    with pytest.raises(BundleError, match="here: keeps a tensor in another file"):
        refuse_external_data(file, "here")


def test_a_location_alone_is_enough(tmp_path: Path) -> None:
    tensor = external()
    tensor.ClearField("external_data")
    file = tmp_path / "a.onnx"
    file.write_bytes(helper.make_model(graph(initializer=[tensor])).SerializeToString())
    with pytest.raises(BundleError, match="another file"):
        refuse_external_data(file, "here")


def test_the_blocks_of_a_bundle_pass_and_have_few_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = build(tmp_path / "tiny.vlad")
    monkeypatch.setattr(onnx_parts, "MAX_FIELDS", onnx_parts.MAX_FIELDS // 10)
    for file in (bundle / "blocks").iterdir():
        refuse_external_data(file, file.name)


BYTES = {
    "a number without an end": (b"\x08", "ends within a number"),
    "a number of eleven bytes": (b"\x08" + b"\xff" * 11, "over 10 bytes"),
    "a length beyond the end": (b"\x3a\x7f", "ends within a field"),
    "eight bytes beyond the end": (b"\x09\x00", "ends within a field"),
    "a group": (b"\x3b\x3c", "wire type 3"),
    "no wire type": (b"\x07", "wire type 7"),
    # 0x3a, the graph, with a bit that a reader of 32 bits does not see
    "a number that wraps": (b"\xba\x80\x80\x80\x10\x00", "out of bounds"),
    "a field of a part beyond that part": (b"\x3a\x02\x2a\x05\x00\x00\x00\x00\x00", "ends within a field"),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_protocol_buffer(tmp_path: Path, name: str) -> None:
    content, words = BYTES[name]
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=f"here: not an ONNX graph: .*{words}"):
        refuse_external_data(tmp_path / "a.onnx", "here")


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def test_depth_and_number_of_parts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b""
    for _ in range(200):  # graph > node > attribute > graph ...
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            content = tag + varint(len(content)) + content
    content = b"\x3a" + varint(len(content)) + content
    (tmp_path / "deep.onnx").write_bytes(content)
    with pytest.raises(BundleError, match="over 100 deep"):
        refuse_external_data(tmp_path / "deep.onnx", "here")
    monkeypatch.setattr(onnx_parts, "MAX_FIELDS", 1000)
    (tmp_path / "wide.onnx").write_bytes(b"\x08\x00" * 1001)
    with pytest.raises(BundleError, match="over 1000 parts"):
        refuse_external_data(tmp_path / "wide.onnx", "here")
