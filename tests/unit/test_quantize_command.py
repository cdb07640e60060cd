"""`vlad quantize` from end to end on the small policy, with a dataset of real tables and videos."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from tests import small_dataset, tiny_act, tiny_smolvla
from vlad import backend
from vlad import bundle as bundles
from vlad.build.safetensors import sha256
from vlad.check import main as check
from vlad.dataset.reader import decode
from vlad.errors import BundleError
from vlad.golden import check_golden, open_for_check
from vlad.main import main
from vlad.manifest import File, parse_manifest
from vlad.quantize.observations import read_moments
from vlad.quantize.schemes import SCHEMES

QUIET = ("--observations", "2")
WIDE = ("--prefer", "size", "--gate", "0.2", "--budget", "0.5", "--cosine", "0.9")
EXTERNAL = re.compile(r"""(?:src|href)\s*=\s*["'](?!#)""")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_smolvla.build(tmp_path_factory.mktemp("source") / "tiny.vlad")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset.write_dataset(tiny_smolvla.DATA / "dataset", tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def made(source: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with integers, a page and its JSON. The gate is wide: these weights are random."""
    out = tmp_path_factory.mktemp("made")
    assert run(source, dataset, out / "q.vlad", *WIDE, "--steps", "10", "--report", str(out / "q.html")) == 0
    return out


def run(source: Path, dataset: Path, out: Path, *more: str) -> int:
    return main(["quantize", str(source), "--calibrate", str(dataset), "-o", str(out), *QUIET, *more])


def test_the_bundle_is_valid_smaller_and_computes_integers(source: Path, made: Path) -> None:
    before, after = bundles.load(source), bundles.load(made / "q.vlad")
    assert check([str(made / "q.vlad"), "--json"]) == 0
    quantisation = after.manifest.quantisation
    assert quantisation is not None
    assert quantisation.source == "tiny.vlad"
    schemes = {s for groups in quantisation.groups.values() for s in groups.values()}
    assert schemes & {"static8", "dynamic8", "token8", "weights4"}
    for block in after.manifest.blocks:
        changed = quantisation.groups.get(block.name)
        assert (block.dtype != "float32") == bool(changed)
        if changed:
            assert block.file.bytes < before.block(block.name).file.bytes
    vision = onnx.load(str(after.file(after.block("vision").file)))
    kinds = {t.data_type for t in vision.graph.initializer}
    assert onnx.TensorProto.INT8 in kinds or onnx.TensorProto.UINT8 in kinds


def test_the_expert_stays_floating_point_unless_asked(made: Path) -> None:
    quantisation = bundles.load(made / "q.vlad").manifest.quantisation
    assert quantisation is not None
    assert set(quantisation.groups.get("expert", {}).values()) <= {"float16", "bfloat16"}


def test_the_report_holds_what_was_measured_and_nothing_from_outside(made: Path) -> None:
    page, found = (made / "q.html").read_text(), json.loads((made / "q.json").read_text())
    assert not EXTERNAL.findall(page)
    assert "<script" not in page
    assert page.count("<svg") == 4
    assert "default-src 'none'" in page
    assert {w["scheme"] for w in found["wholes"]} == set(SCHEMES)
    assert all(len(w["steps"]) == 10 for w in found["wholes"])
    assert {g["block"] for g in found["groups"]} == {"vision", "prefill", "context", "expert"}
    chosen = {(g["block"], g["group"]): g["scheme"] for g in found["groups"] if g["chosen"]}
    manifest = bundles.load(made / "q.vlad").manifest
    assert manifest.quantisation is not None
    assert chosen == {(b, g): s for b, each in manifest.quantisation.groups.items() for g, s in each.items()}
    assert found["errors"] == msgspec.to_builtins(manifest.quantisation.errors)
    assert found["observations"]["calibrate"].keys().isdisjoint(found["observations"]["held_out"])


def test_evaluations_are_counted_and_what_was_not_tried_is_said(source: Path, dataset: Path, tmp_path: Path) -> None:
    words = *WIDE, "--schemes", "float16,weights4", "--evaluations", "5", "--json"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert run(source, dataset, tmp_path / "q.vlad", *words) == 0
    found = json.loads(printed.getvalue())
    assert len(found["groups"]) == 5
    assert {g["block"] for g in found["groups"]} > {"vision"}, "each block has its part"
    assert not {(g["block"], g["group"], g["scheme"]) for g in found["groups"]} & {
        tuple(u.values()) for u in found["untried"]
    }
    assert any("were not tried" in note for note in found["notes"])
    for name, least in Counter((g["block"], g["group"]) for g in found["groups"]).items():
        assert least <= 1, f"{name} came twice before others came at all"


def test_no_time_left_judges_nothing_and_writes_nothing(
    source: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = *WIDE, "--schemes", "float16", "--minutes", "1e-6"
    assert run(source, dataset, tmp_path / "q.vlad", *words) == 1
    assert "nothing is written" in capsys.readouterr().err


def test_a_group_whose_outputs_are_hopeless_costs_no_chunk(source: Path, dataset: Path, tmp_path: Path) -> None:
    """With a gate that nothing passes, the blocks after the one that is judged are not run."""
    words = "--schemes", "weights4", "--blocks", "prefill", "--gate", "1e-9", "--prefer", "size"
    report = tmp_path / "q.html"
    assert run(source, dataset, tmp_path / "q.vlad", *words, "--report", str(report)) == 1
    groups = json.loads(report.with_suffix(".json").read_text())["groups"]
    assert groups
    assert all(g["errors"] is None and not g["passes"] and g["output_error"] > 0 for g in groups)
    assert report.read_text().count("<td>-</td>") >= 3 * len(groups)


def test_some_blocks_in_bfloat16_beside_float32(
    source: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "q.vlad"
    monkeypatch.setitem(SCHEMES, "bfloat16", dataclasses.replace(SCHEMES["bfloat16"], call=0.0))  # so small a policy
    assert run(source, dataset, out, *WIDE, "--schemes", "bfloat16", "--blocks", "vision,expert") == 0
    made = bundles.load(out)
    assert {b.name: b.dtype for b in made.manifest.blocks}["prefill"] == "float32"
    assert made.manifest.quantisation is not None
    assert set(made.manifest.quantisation.groups) <= {"vision", "expert"}
    assert {s for g in made.manifest.quantisation.groups.values() for s in g.values()} == {"bfloat16"}
    assert check([str(out), "--json"]) == 0


def test_a_processor_without_the_kernels_is_said_and_priced(
    source: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "FUSED", tmp_path / "none.so")
    words = "--schemes", "float16,bfloat16", "--blocks", "prefill", "--prefer", "size", "--json"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert run(source, dataset, tmp_path / "q.vlad", *words, "--budget", "0.1") == 0
    found = json.loads(printed.getvalue())
    assert found["bfloat16_kernels"] is False
    assert any("slower than float32" in note for note in found["notes"])
    assert {g["scheme"] for g in found["groups"] if g["chosen"]} == {"float16"}


def test_the_choice_does_not_depend_on_the_clock(source: Path, dataset: Path, made: Path, tmp_path: Path) -> None:
    assert run(source, dataset, tmp_path / "again.vlad", *WIDE) == 0
    one, two = bundles.load(made / "q.vlad").manifest, bundles.load(tmp_path / "again.vlad").manifest
    assert one.quantisation == two.quantisation
    assert one.blocks == two.blocks  # byte for byte, by their sums


def test_golden_catches_a_runtime_that_computes_the_file_wrongly(made: Path, tmp_path: Path) -> None:
    bundle = bundles.load(made / "q.vlad")
    entry = bundle.block("prefill")
    model = onnx.load(str(bundle.file(entry.file)))
    for tensor in model.graph.initializer:
        if tensor.name.endswith("/scale"):
            values = onnx.numpy_helper.to_array(tensor) * np.float32(1.5)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
            break
    copy = tmp_path / "wrong.vlad"
    shutil.copytree(bundle.path, copy)
    path = copy / entry.file.path
    path.write_bytes(model.SerializeToString())
    file = File(path=entry.file.path, bytes=path.stat().st_size, sha256=sha256(path))
    blocks = [msgspec.structs.replace(b, file=file) if b.name == "prefill" else b for b in bundle.manifest.blocks]
    (copy / "manifest.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(bundle.manifest, blocks=blocks)))
    with open_for_check(bundles.load(copy)) as policy, pytest.raises(BundleError, match="differs by"):
        check_golden(policy)


def test_a_planted_bad_group_stays_float32(source: Path, dataset: Path, tmp_path: Path) -> None:
    """Channels of very different size in what one layer reads: one range for all of them loses the small ones."""
    planted = tmp_path / "planted.vlad"
    shutil.copytree(source, planted)
    manifest = bundles.load(planted).manifest
    entry = next(b for b in manifest.blocks if b.name == "prefill")
    path = planted / entry.file.path
    model = onnx.load(str(path))
    up, down = "layer0/mlp.up_proj.weight", "layer0/mlp.down_proj.weight"
    size = np.geomspace(1, 1e5, 32).astype(np.float32)
    for tensor in model.graph.initializer:
        if tensor.name in (up, down):  # the same function in float32
            values = onnx.numpy_helper.to_array(tensor)
            scaled = values * size if tensor.name == up else values / size[:, None]
            tensor.CopyFrom(onnx.numpy_helper.from_array(scaled.astype(np.float32), tensor.name))
    path.write_bytes(model.SerializeToString())
    file = File(path=entry.file.path, bytes=path.stat().st_size, sha256=sha256(path))
    blocks = [msgspec.structs.replace(b, file=file) if b.name == "prefill" else b for b in manifest.blocks]
    (planted / "manifest.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, blocks=blocks)))
    out = tmp_path / "q.vlad"
    words = "--schemes", "static8,dynamic8", "--blocks", "prefill", "--prefer", "size"
    assert run(planted, dataset, out, *words, "--gate", "0.01", "--cosine", "0.9", "--budget", "0.02") == 0
    quantisation = bundles.load(out).manifest.quantisation
    assert quantisation is not None
    assert "layer0/mlp" not in quantisation.groups["prefill"]
    assert "layer1/mlp" in quantisation.groups["prefill"]


def test_fewer_steps_of_another_solver_go_into_the_manifest(source: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "q.vlad"
    words = "--schemes", "float16", "--blocks", "context", "--steps", "3", "--solver", "ab2"
    assert run(source, dataset, out, *words) == 0
    flow = bundles.load(out).manifest.flow
    assert (flow.solver, flow.steps) == ("ab2", 3)
    assert check([str(out), "--json"]) == 0


def test_nothing_within_the_gate_writes_nothing(
    source: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--schemes", "weights4", "--blocks", "prefill", "--gate", "1e-9", "--cosine", "1"
    assert run(source, dataset, tmp_path / "q.vlad", *words) == 1
    assert "nothing is written" in capsys.readouterr().err
    assert not any(p.name.startswith((".", "q")) for p in tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    ["--schemes int3: no scheme 'int3'", "--blocks nothing: no block 'nothing'", "--solver heun: heun needs --steps"],
)
def test_wrong_words_are_refused(
    source: Path, dataset: Path, tmp_path: Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more, message = words.split(": ", 1)
    assert run(source, dataset, tmp_path / "q.vlad", *more.split()) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_the_bundle_does_not_know_is_refused(source: Path, dataset: Path) -> None:
    manifest = bundles.load(source).manifest
    other = msgspec.structs.replace(manifest, tasks=manifest.tasks[:1])
    with pytest.raises(BundleError, match="none of the bundle's"):
        read_moments(dataset, other, 2, 0, lambda _: None)


def test_what_exists_or_is_quantised_already_is_refused(
    source: Path, dataset: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(source, dataset, made / "q.vlad") == 1
    assert "exists already" in capsys.readouterr().err
    assert run(made / "q.vlad", dataset, tmp_path / "q.vlad") == 1
    assert "quantised already" in capsys.readouterr().err


def test_frames_are_those_of_the_moment(source: Path, dataset: Path) -> None:
    moments = read_moments(dataset, bundles.load(source).manifest, 3, 0, lambda _: None)
    assert {o.episode % 2 for o in moments.calibrate} == {0}
    assert {o.episode % 2 for o in moments.verify} == {1}
    assert [len(moments.calibrate), len(moments.judge), len(moments.verify)] == [3, 3, 6]
    for seen in [*moments.calibrate, *moments.verify]:
        for camera, image in enumerate(seen.images):
            expected = small_dataset.picture(camera, seen.episode, seen.frame)
            assert abs(float(image.mean()) - float(expected.mean())) < 1.5, (camera, seen.episode, seen.frame)


def test_a_dataset_without_its_videos_is_refused(source: Path, dataset: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(dataset, bare)
    video = next((bare / "videos").glob("*/chunk-000/file-000.mp4"))
    manifest = bundles.load(source).manifest
    video.write_bytes(b"not a video")
    with pytest.raises(BundleError, match="cannot be decoded"):
        read_moments(bare, manifest, 2, 0, lambda _: None)
    video.unlink()
    with pytest.raises(BundleError, match="cannot be decoded"):
        read_moments(bare, manifest, 2, 0, lambda _: None)
    with pytest.raises(BundleError, match="no data"):
        read_moments(tiny_smolvla.DATA / "dataset", manifest, 2, 0, lambda _: None)
    with pytest.raises(BundleError, match=r"no frame at 9\.000 s"):
        decode(next((dataset / "videos").glob("*/chunk-000/file-000.mp4")), {(0, 270): 9.0}, 30)


def test_one_episode_cannot_both_calibrate_and_judge(source: Path, tmp_path: Path) -> None:
    one = small_dataset.write_dataset(tiny_smolvla.DATA / "dataset", tmp_path / "set", episodes=1)
    with pytest.raises(BundleError, match="1 episode"):
        read_moments(one, bundles.load(source).manifest, 2, 0, lambda _: None)


def test_a_manifest_whose_dtype_and_groups_disagree_is_refused(made: Path) -> None:
    text = json.loads((made / "q.vlad/manifest.json").read_text())
    text["quantisation"]["groups"].pop("vision")
    with pytest.raises(BundleError, match="block vision is"):
        parse_manifest(json.dumps(text).encode())
    text["quantisation"]["groups"]["nowhere"] = {"a": "static8"}
    with pytest.raises(BundleError, match="a block that there is not"):
        parse_manifest(json.dumps(text).encode())


def test_an_act_too(tmp_path: Path) -> None:
    """Its convolutions stay as they are; its linears are groups as any others."""
    source = tiny_act.build(tmp_path / "act.vlad")
    dataset = small_dataset.write_dataset(tiny_act.DATA / "dataset", tmp_path / "set", size=(96, 96))
    out = tmp_path / "q.vlad"
    words = "--schemes", "dynamic8,float16", "--blocks", "policy", "--prefer", "size", "--gate", "0.05"
    assert run(source, dataset, out, *words, "--budget", "0.1") == 0
    manifest = bundles.load(out).manifest
    assert manifest.quantisation is not None
    assert "dynamic8" in manifest.quantisation.groups["policy"].values()
    assert check([str(out), "--json"]) == 0
    assert run(source, dataset, out, "--force", "--steps", "3") == 1  # it has no flow
