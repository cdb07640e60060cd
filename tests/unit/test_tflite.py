"""`vlad tflite`: blocks as int8 files, against the ONNX blocks that they were made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests import tiny_act, tiny_litert, tiny_smolvla
from vlad import bundle as bundles
from vlad.backend import Threads, load_block
from vlad.bundle import Bundle
from vlad.check import main as check
from vlad.errors import BundleError, Refused
from vlad.fixed_prefill import FixedPrefill, rows_of
from vlad.golden import open_for_check
from vlad.main import main as vlad_main
from vlad.manifest import ActManifest, Block, SmolvlaManifest, Value
from vlad.neutron import OPERATORS, left_on_cpu
from vlad.policy import Policy
from vlad.tflite.command import main
from vlad.tflite.model import Model, activation, quantised_weight
from vlad.tflite.prefill import fixed
from vlad.tflite.ranges import Seen
from vlad.tflite.translate import inlined, translate
from vlad.tflite.writer import pixel_range

POLICIES = {"act": tiny_act, "smolvla": tiny_smolvla}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    root = tmp_path_factory.mktemp("source")
    return {name: bundles.load(policy.build(root / f"{name}.vlad")) for name, policy in POLICIES.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("data")
    sizes = {"act": (96, 96), "smolvla": (64, 48)}
    return {name: tiny_litert.dataset(policy.DATA / "dataset", root / name, sizes[name])
            for name, policy in POLICIES.items()}  # fmt: skip


@pytest.fixture(scope="module")
def written(
    sources: dict[str, Bundle], data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Bundle]:
    root = tmp_path_factory.mktemp("written")
    for name, source in sources.items():
        assert tiny_litert.convert(source.path, data[name], root / f"{name}.vlad") == 0
    return {name: bundles.load(root / f"{name}.vlad") for name in sources}


class Interpreted:
    """A model as a session. plain: without XNNPACK, as with a delegate."""

    def __init__(self, model: Model, *, plain: bool = False) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self._interpreter = Interpreter(
            model_content=model.bytes(),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            if plain else OpResolverType.AUTO,
        )  # fmt: skip
        self._interpreter.allocate_tensors()

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        for detail in self._interpreter.get_input_details():
            self._interpreter.set_tensor(detail["index"], inputs[detail["name"]])
        self._interpreter.invoke()
        return {d["name"]: self._interpreter.get_tensor(d["index"]) for d in self._interpreter.get_output_details()}

    def close(self) -> None:
        pass


def interpreted(
    model: Model, given: Mapping[str, NDArray[np.float32]], *, plain: bool = False
) -> NDArray[np.float32]:
    (found,) = Interpreted(model, plain=plain).run(given).values()
    return found


def graph_of(bundle: Bundle) -> onnx.ModelProto:
    return inlined(onnx.load(str(bundle.file(bundle.block("vision").file))))


def pictures(bundle: Bundle, count: int) -> list[dict[str, NDArray[np.float32]]]:
    shape = [int(d) for d in bundle.block("vision").inputs[0].shape]
    generator = np.random.default_rng(3)
    return [{"image": generator.standard_normal(shape, dtype=np.float32)} for _ in range(count)]


# --- the translation --------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("plain", [False, True])
def test_in_float32_it_computes_what_the_graph_computes(
    sources: dict[str, Bundle], name: str, plain: bool
) -> None:
    source = sources[name]
    here = load_block(source, "vision", Threads())
    model = translate(graph_of(source), None)
    for given in pictures(source, 2):
        expected = here.run(given)["tokens"]
        found = interpreted(model, given, plain=plain)
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", POLICIES)
def test_in_int8_it_is_near_where_the_ranges_hold(sources: dict[str, Bundle], name: str) -> None:
    source = sources[name]
    here, graph, given = load_block(source, "vision", Threads()), graph_of(source), pictures(source, 4)
    model = translate(graph, tiny_litert.extremes(graph, given))
    for one in given:
        expected = here.run(one)["tokens"]
        off = interpreted(model, one) - expected
        assert np.sqrt(np.mean(off**2)) < 0.05 * expected.std()
        assert np.abs(off).max() < 0.2 * expected.std() + 0.02 * np.abs(expected).max()
    assert {kind for kind, dtype in model.operators if dtype == "int8"} >= {"CONV_2D", "RESHAPE", "FULLY_CONNECTED"}


# --- prefill, whose shapes become fixed -------------------------------------------------------


def observation(bundle: Bundle, n: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Inputs of the ONNX block: `n` tokens, no past."""
    generator = np.random.default_rng(seed)
    shapes = {v.name: [{"n": n, "past": 0}.get(str(d), d) for d in v.shape] for v in bundle.block("prefill").inputs}
    return {name: generator.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def fixed_block(bundle: Bundle, graph: onnx.GraphProto) -> Block:
    inputs, outputs = (
        [Value(name=v.name, shape=[d.dim_value for d in v.type.tensor_type.shape.dim]) for v in values]
        for values in (graph.input, graph.output)
    )
    return msgspec.structs.replace(bundle.block("prefill"), inputs=inputs, outputs=outputs)


@pytest.mark.parametrize("plain", [False, True])
def test_a_prefill_of_fixed_shapes_is_exact_for_every_number_of_tokens(
    sources: dict[str, Bundle], plain: bool
) -> None:
    """Whatever is filled up, hidden or turned elsewhere: the same keys and values."""
    source = sources["smolvla"]
    manifest = source.manifest
    assert isinstance(manifest, SmolvlaManifest)
    rows = rows_of(manifest)
    graph = inlined(fixed(onnx.load(str(source.file(source.block("prefill").file))), rows))
    block = fixed_block(source, graph.graph)
    session = FixedPrefill(block, Interpreted(translate(graph, None), plain=plain), manifest)
    here = load_block(source, "prefill", Threads())
    for n in (rows, 1, 13, rows, 0):
        given = observation(source, n, n)
        expected, found = here.run(given), session.run(given)
        assert list(found) == list(expected)
        for name, value in expected.items():
            bound = 2e-5 * max(1.0, float(np.abs(value).max()))
            np.testing.assert_allclose(found[name], value, atol=bound, err_msg=name)
            assert not found[name].flags.writeable
    with pytest.raises(Refused, match=f"{rows + 1} image and task tokens: block prefill was written for {rows}"):
        session.run(observation(source, rows + 1))
    with pytest.raises(BundleError, match="takes no past"):
        session.run({name: np.ones((3, value.shape[1]), np.float32) if "past" in name else value
                     for name, value in observation(source, 5).items()})  # fmt: skip
    with pytest.raises(BundleError, match=r"prefill: in \.tflite it takes"):
        FixedPrefill(source.block("prefill"), session, manifest)


@pytest.mark.parametrize(("which", "name", "shape"), [
    ("inputs", "tokens", [43]), ("inputs", "tokens", []), ("inputs", "tokens", [43, 25]), ("inputs", "tokens", [5, 24]),
    ("inputs", "tokens", [44, 24]), ("inputs", "cos", [44]), ("inputs", "sin", [44, 2]), ("inputs", "mask", [44, 43]),
    ("inputs", "state", [32]), ("outputs", "key0", [44, 25]), ("outputs", "value0", [44]),
])  # fmt: skip
def test_a_prefill_of_other_shapes_is_refused_by_name(
    sources: dict[str, Bundle], which: str, name: str, shape: list[int]
) -> None:
    """File and manifest may agree on shapes that no policy has."""
    source = sources["smolvla"]
    manifest = source.manifest
    assert isinstance(manifest, SmolvlaManifest)
    rows = rows_of(manifest)
    assert (rows, manifest.prefix.hidden) == (43, 24)
    graph = fixed(onnx.load(str(source.file(source.block("prefill").file))), rows).graph
    good = fixed_block(source, graph)
    FixedPrefill(good, load_block(source, "prefill", Threads()), manifest).close()
    values = [msgspec.structs.replace(v, shape=shape) if v.name == name else v for v in getattr(good, which)]
    assert values != getattr(good, which)
    bad = msgspec.structs.replace(good, **{which: values})
    with pytest.raises(BundleError, match=rf"prefill: in \.tflite .*{name}"):
        FixedPrefill(bad, load_block(source, "prefill", Threads()), manifest)


def test_there_is_room_for_the_longest_task(sources: dict[str, Bundle]) -> None:
    manifest = sources["smolvla"].manifest
    assert isinstance(manifest, SmolvlaManifest)
    longest = max(len(task.token_ids) for task in manifest.tasks)
    assert rows_of(manifest) == len(manifest.cameras) * manifest.prefix.image_tokens + longest
    free = msgspec.structs.replace(manifest, tokenizer=manifest.token_table.file)
    before = msgspec.structs.replace(manifest, token_table=msgspec.structs.replace(manifest.token_table, before=[1, 2]))
    assert rows_of(before) == rows_of(manifest) + 2
    assert rows_of(free) == len(manifest.cameras) * manifest.prefix.image_tokens + manifest.max_task_tokens


def test_another_prefill_is_refused(sources: dict[str, Bundle]) -> None:
    source = sources["smolvla"]
    with pytest.raises(BundleError, match="angles and its mask are not where"):
        fixed(onnx.load(str(source.file(source.block("context").file))), 20)


def test_a_policy_with_both_blocks_runs_and_refreshes_its_state(
    sources: dict[str, Bundle], data: dict[str, Path], tmp_path: Path
) -> None:
    source = sources["smolvla"]
    assert tiny_litert.convert(source.path, data["smolvla"], tmp_path / "both.vlad", "--blocks", "vision,prefill") == 0
    assert check([str(tmp_path / "both.vlad")]) == 0
    made = bundles.load(tmp_path / "both.vlad")
    with open_for_check(made) as policy, open_for_check(source) as before:
        assert isinstance(policy, Policy) and isinstance(before, Policy)
        policy.warm_up()
        image = np.full((48, 64, 3), 90, np.uint8)
        tokens = [policy.encode_image(i, image) for i in range(2)]
        one, two = (np.full(6, v) for v in (0.1, 0.4))
        for task in (0, 1):
            prefix = policy.prefill(tokens, task, one)
            fresh = policy.refresh_state(prefix, two)
            again = policy.prefill(tokens, task, two)
            for name, value in again.context.items():
                np.testing.assert_array_equal(fresh.context[name], value)
            exact = before.prefill(tokens, task, one)
            assert prefix.length == exact.length
            for name, value in exact.context.items():
                off = np.sqrt(np.mean((prefix.context[name] - value) ** 2))
                assert off < 0.5 * value.std() + 1e-3, name  # random weights, held-out brightness


# --- what is refused, and the pieces ----------------------------------------------------------


def test_an_act_has_nothing_for_the_cpu_but_its_border(sources: dict[str, Bundle]) -> None:
    graph = graph_of(sources["act"])
    model = translate(graph, tiny_litert.extremes(graph, pictures(sources["act"], 1)))
    assert left_on_cpu(model.operators) == {"DEQUANTIZE": 1, "QUANTIZE": 1, "TRANSPOSE": 1}
    assert {kind for kind, _ in model.operators} - {"DEQUANTIZE", "QUANTIZE", "TRANSPOSE"} <= OPERATORS


def small(nodes: list[onnx.NodeProto], constants: dict[str, NDArray[np.float32]], shape: list[int | str],
          out: list[int]) -> onnx.ModelProto:  # fmt: skip
    return helper.make_model(helper.make_graph(
        nodes, "vision", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
    ), opset_imports=[helper.make_opsetid("", 20)], ir_version=9)  # fmt: skip


@pytest.mark.parametrize(("height", "kernel", "stride", "pads"), [
    (8, 3, 1, 1), (8, 3, 2, 1), (9, 3, 2, 1), (9, 7, 2, 3), (8, 1, 2, 0), (10, 4, 2, 0)])  # fmt: skip
def test_pads_and_strides_are_those_of_onnx(height: int, kernel: int, stride: int, pads: int) -> None:
    """TensorFlow's own padding shifts an even picture by a pixel where the stride is 2."""
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((5, 3, kernel, kernel)).astype(np.float32)
    side = (height + 2 * pads - kernel) // stride + 1
    model = inlined(small(
        [helper.make_node("Conv", ["x", "w"], ["c"], strides=[stride] * 2, pads=[pads] * 4),
         helper.make_node("Identity", ["c"], ["y"])],
        {"w": weight}, [1, 3, height, height], [1, 5, side, side],
    ))  # fmt: skip
    x = generator.standard_normal((1, 3, height, height)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})[0]
    np.testing.assert_allclose(interpreted(translate(model, None), {"x": x}), expected, atol=1e-4)


@pytest.mark.parametrize(("nodes", "constants", "shape", "text"), [
    ([helper.make_node("Erf", ["x"], ["y"])], {}, [1, 4], "no translation of operator Erf"),
    ([helper.make_node("Identity", ["x"], ["y"])], {}, [1, 4], "output y is an input"),
    ([helper.make_node("Relu", ["x"], ["y"])], {}, ["n", 4], "x has a dimension that is not fixed, n"),
    ([helper.make_node("MatMul", ["w", "x"], ["y"])], {"w": np.ones((1, 1), np.float32)}, [1, 4], "only a matrix"),
    ([helper.make_node("Conv", ["x", "w"], ["y"], group=4)], {"w": np.ones((4, 1, 1, 1), np.float32)}, [1, 4, 1, 1],
     "groups and dilations"),
    ([helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1] * 4)], {}, [1, 4, 3, 3],
     "only behind a ReLU"),
])  # fmt: skip
def test_what_is_not_translated_is_named(
    nodes: list[onnx.NodeProto], constants: dict[str, NDArray[np.float32]], shape: list[int | str], text: str
) -> None:
    with pytest.raises(BundleError, match=text):
        translate(inlined(small(nodes, constants, shape, [d if isinstance(d, int) else 1 for d in shape])), None)


def test_buffers_are_aligned() -> None:
    """The schema demands it, and an unaligned bias is a trap on some processors."""
    from ai_edge_litert import schema_py_generated as schema

    model = Model("m")
    x = model.input(model.tensor("x", (1, 3)))
    for n in (3, 5, 7):
        model.constant(f"c{n}", np.arange(n * 20, dtype=np.int8))
    weight = model.constant("w", np.ones((2, 3), np.float32))
    bias = model.constant("b", np.ones(2, np.float32))
    model.output(model.op("FULLY_CONNECTED", [x, weight, bias], model.tensor("y", (1, 2))))
    content = model.bytes()
    read = schema.Model.GetRootAs(content, 0)
    found = 0
    for i in range(read.BuffersLength()):
        values = read.Buffers(i).DataAsNumpy()
        if isinstance(values, np.ndarray):
            start = content.find(values.tobytes())
            assert start % 16 == 0, i
            found += 1
    assert found == 5


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 6.0), (-5.0, -1.0), (2.0, 9.0), (0.0, 0.0)])
def test_zero_is_exact_and_the_ends_are_there(low: float, high: float) -> None:
    scale = activation(low, high)
    real = (np.arange(-128, 128) - scale.zero) * scale.scale[0]
    assert 0.0 in real
    assert real[0] <= min(low, 0) + scale.scale[0]
    assert real[-1] >= max(high, 0) - scale.scale[0]


def test_weights_have_a_scale_for_each_output() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 3, 3, 4)).astype(np.float32) * np.float32(
        10.0) ** np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1)  # fmt: skip
    stored, scale = quantised_weight(weight)
    off = stored * np.array(scale.scale, np.float32).reshape(6, 1, 1, 1) - weight
    assert (np.abs(off).reshape(6, -1).max(axis=1) <= np.array(scale.scale) * 0.501).all()
    assert scale.zero == 0 and stored.min() >= -127


def test_a_range_leaves_out_what_is_alone_out_there() -> None:
    seen = Seen()
    values = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    seen.add(values)
    low, high = seen.range()
    assert -5 < low < -2.5 and 2.5 < high < 5
    for call in range(100):
        seen.add(values if call else np.append(values, np.float32(20)))
    assert seen.high == 20
    assert seen.range()[1] < 10


def test_a_range_holds_the_few_channels_that_are_large() -> None:
    """Every 96th value of 768 channels is of the same eight."""
    generator = np.random.default_rng(0)
    values = generator.standard_normal((256, 768)).astype(np.float32)
    values[:, 5::96] *= 6
    seen = Seen()
    seen.add(values)
    low, high = seen.range()
    assert low < -8 and high > 8


# --- the bundle -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_the_bundle_is_valid_smaller_and_proved(
    sources: dict[str, Bundle], written: dict[str, Bundle], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, made = sources[name], written[name]
    assert check([str(made.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["blocks"]["vision"]["backend"] == "litert"
    assert found["golden"]["tolerances"].keys() == {"tokens", "chunk"}
    block = made.block("vision")
    assert block.tflite is not None and block.dtype == "int8"
    assert block.file.bytes < source.block("vision").file.bytes
    assert (block.inputs, block.outputs) == (source.block("vision").inputs, source.block("vision").outputs)
    assert block.tflite.manifest_sha256 == source.manifest_sha256
    assert block.tflite.errors.chunk_mae > 0
    assert set(block.tflite.cpu_operators) <= set(block.tflite.operators)
    assert made.manifest.tools["litert"].startswith("ai-edge-litert ")
    for other in source.manifest.blocks:
        if other.name != "vision":
            assert made.block(other.name) == other
    assert not list(made.path.glob("**/*.onnx.*")) and not (made.path / "blocks/vision.onnx").exists()


def test_the_same_observations_make_the_same_file(
    sources: dict[str, Bundle], data: dict[str, Path], written: dict[str, Bundle], tmp_path: Path
) -> None:
    assert tiny_litert.convert(sources["act"].path, data["act"], tmp_path / "again.vlad") == 0
    assert bundles.load(tmp_path / "again.vlad").block("vision").file == written["act"].block("vision").file


def test_every_pixel_is_in_the_range_of_the_image(sources: dict[str, Bundle]) -> None:
    assert pixel_range(sources["smolvla"].manifest) == (-1.0, 1.0)
    manifest = sources["act"].manifest
    assert isinstance(manifest, ActManifest)
    low, high = pixel_range(manifest)
    for camera in manifest.cameras:
        for mean, std in zip(camera.mean, camera.std, strict=True):
            assert low <= (0 - mean) / (std + camera.eps) and (1 - mean) / (std + camera.eps) <= high


def test_what_cannot_be_is_refused_and_leaves_nothing(
    sources: dict[str, Bundle], data: dict[str, Path], written: dict[str, Bundle], tmp_path: Path
) -> None:
    source, dataset, out = sources["smolvla"].path, data["smolvla"], tmp_path / "out.vlad"
    for more, text in (
        (("--budget", "1e-9", "--cosine", "-1"), "not written: with vision in int8 a chunk is off by"),
        (("--budget", "1", "--cosine", "0.999999"), "least cosine is 0.*more than 0.999999 is needed"),
        (("--blocks", "expert"), "expert: .* has a dimension that is not fixed"),
        (("--blocks", "nose"), "no block 'nose'"),
    ):
        with pytest.raises(BundleError, match=text):
            main([str(source), "--calibrate", str(dataset), "-o", str(out), "--observations", "1", *more])
    common = "--calibrate", str(dataset), "-o"
    (tmp_path / "file").write_text("precious")
    for at, text in (("file/x.vlad", "x.vlad: not written: "), ("file", "is no bundle, so --force does not")):
        with pytest.raises(BundleError, match=text):
            main([str(source), *common, str(tmp_path / at), "--force"])
    (tmp_path / "file").unlink()
    with pytest.raises(BundleError, match=r"none/meta/info\.json: missing; is .*none the directory of a LeRobot"):
        main([str(source), "--calibrate", str(tmp_path / "none"), "-o", str(out)])
    with pytest.raises(BundleError, match="block vision is int8 for litert"):
        main([str(written["smolvla"].path), *common, str(out)])
    with pytest.raises(BundleError, match="exists already"):
        main([str(source), *common, str(written["smolvla"].path)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("words", "wrong"), [
    (words, wrong) for words in (["tflite", "--calibrate", "data"], ["quantize", "--calibrate", "data"],
                                 ["convert", "--converter", "x"])
    for wrong in (("--blocks", ","), ("--blocks", ""), ("--cosine", "nan"), ("--cosine", "1.5"))
    if (words[0], wrong[0]) != ("convert", "--cosine")
])  # fmt: skip
def test_what_means_nothing_is_wrong_usage(
    words: list[str], wrong: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        vlad_main([*words, "in.vlad", "-o", str(tmp_path / "out.vlad"), *wrong])
    assert f"argument {wrong[0]}" in capsys.readouterr().err


def test_in_words_it_says_what_stays_on_the_cpu(
    sources: dict[str, Bundle], data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_litert.convert(sources["act"].path, data["act"], tmp_path / "act.vlad", "--force") == 0
    out = capsys.readouterr().out
    assert "49 of 52 operators are known to be taken by a Neutron NPU; on the CPU stay 1 DEQUANTIZE" in out
    assert "of each joint's range" in out
    assert tiny_litert.convert(sources["act"].path, data["act"], tmp_path / "act.vlad", "--force", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["blocks"][0]["cpu_operators"] == {"DEQUANTIZE": 1, "QUANTIZE": 1, "TRANSPOSE": 1}
    assert found["blocks"][0]["latency"] > 0
