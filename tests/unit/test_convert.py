"""`vlad convert` around a stand-in for NXP's converter, and the versions that a load checks."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests import fake_converter, tiny_litert, tiny_smolvla
from tests.daemons import wait_for
from vlad import bundle as bundles
from vlad.backend import Target, Threads, load_block
from vlad.bundle import Bundle
from vlad.errors import BundleError, ConfigError
from vlad.litert import LiteRtSession
from vlad.manifest import Converter
from vlad.neutron import check_versions, versions_in
from vlad.tflite.convert import compile_block, main

VERSION = "3.0.0+0x6d41ac8b"


@pytest.fixture(scope="module")
def library() -> str:
    return str(tiny_litert.delegate())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_litert.tiny8(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def converted(source: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    root = tmp_path_factory.mktemp("converted")
    program = fake_converter.program(root)
    assert main([str(source.path), "--converter", str(program), "--option=--optimization_level", "--option", "OFast",
                 "-o", str(root / "out.vlad")]) == 0  # fmt: skip
    return bundles.load(root / "out.vlad")


def board(directory: Path, driver: str = "3.0.0-0X6d41ac8b", firmware: str = "3.0.0-0X6d41ac8b") -> dict[str, str]:
    """Files as a board has them."""
    made = {"driver": directory / "libNeutronDriver.so", "firmware": directory / "NeutronFirmware.elf"}
    made["driver"].write_bytes(b"\x7fELF\0\0driver " + driver.encode() + b"\0\xff")
    made["firmware"].write_bytes(b"\x7fELF\0Neutron Firmware ver:" + firmware.encode() + b" started\n\0")
    return {what: str(path) for what, path in made.items()}


def test_the_manifest_says_what_compiled_the_block(source: Bundle, converted: Bundle) -> None:
    before, after = source.block("vision"), converted.block("vision")
    assert before.tflite is not None and after.tflite is not None
    assert after.tflite.converter == Converter(name="neutron-converter", version=VERSION, target="imx95")
    assert after.tflite.operators["NeutronGraph"] == 13
    assert "FULLY_CONNECTED" not in after.tflite.operators
    assert "NeutronGraph" not in after.tflite.cpu_operators and after.tflite.cpu_operators["SOFTMAX"] == 2
    assert (after.tflite.errors, after.tflite.dataset) == (before.tflite.errors, before.tflite.dataset)
    assert after.file.sha256 != before.file.sha256
    assert converted.manifest.golden == source.manifest.golden
    assert [b for b in converted.manifest.blocks if b.name != "vision"] == [
        b for b in source.manifest.blocks if b.name != "vision"]  # fmt: skip


def test_on_its_accelerator_it_computes_what_it_did(
    source: Bundle, converted: Bundle, library: str, tmp_path: Path
) -> None:
    image = {"image": np.random.default_rng(1).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)}
    target = Target(delegate=library, allow_cpu_fallback=True, **board(tmp_path))
    session = load_block(converted, "vision", Threads(), target)
    placement = {p.provider: p.operators for p in session.placement}
    assert placement[library] == {"NeutronGraph": 13}
    expected = load_block(source, "vision", Threads(), msgspec.structs.replace(target)).run(image)["tokens"]
    np.testing.assert_array_equal(session.run(image)["tokens"], expected)


def test_what_the_converter_left_to_the_cpu_may_be_there_and_no_more(
    converted: Bundle, library: str, tmp_path: Path
) -> None:
    """The manifest says what stays: that needs no `allow_cpu_fallback`, and one node more is an error."""
    files = board(tmp_path)
    load_block(converted, "vision", Threads(), Target(delegate=library, **files)).close()
    with pytest.raises(BundleError, match=r"CPU: .*SOFTMAX.* were to stay there"):
        block = converted.block("vision")
        assert block.tflite is not None
        fewer = {kind: n - (kind == "SOFTMAX") for kind, n in block.tflite.cpu_operators.items()}
        block = msgspec.structs.replace(block, tflite=msgspec.structs.replace(block.tflite, cpu_operators=fewer))
        LiteRtSession(converted, block, Threads(), Target(delegate=library, **files))


def test_without_an_accelerator_it_is_refused_by_name(converted: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"for imx95, which the CPU cannot run: set block\.vision\.delegate"):
        load_block(converted, "vision", Threads())


@pytest.mark.fault(38)
@pytest.mark.parametrize(("versions", "text"), [
    ({"driver": "3.1.2-0X6d41ac8b"}, r"by neutron-converter 3\.0\.0\+0x6d41ac8b, and the NPU's driver .* 3\.1\.2"),
    ({"firmware": "3.0.0-0X11111111"}, r"firmware .*NeutronFirmware\.elf is of 3\.0\.0\+0x11111111: convert it again"),
    ({"firmware": "unknown"}, r"NPU's firmware .* is of no version that could be read.*block\.vision\.firmware"),
])  # fmt: skip
def test_a_board_of_another_release_refuses_the_block(
    converted: Bundle, library: str, tmp_path: Path, versions: dict[str, str], text: str
) -> None:
    target = Target(delegate=library, allow_cpu_fallback=True, **board(tmp_path, **versions))
    with pytest.raises(BundleError, match=text):
        load_block(converted, "vision", Threads(), target)


def test_a_board_without_them_says_what_is_missing(converted: Bundle, library: str, tmp_path: Path) -> None:
    target = Target(delegate=library, driver=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"the NPU's driver .*none cannot be read: No such file"):
        load_block(converted, "vision", Threads(), target)


def test_versions_of_one_release_are_the_same_in_every_spelling(tmp_path: Path) -> None:
    spellings = b"eIQ converter version 3.0.0+0X6d41ac8b", b"ver:3.0.0-0X6d41ac8b started", b"3.0.0+0x6D41AC8B"
    assert {v for text in spellings for v in versions_in(text)} == {VERSION}
    assert versions_in(b"glibc 2.34, 1.2.3-rc1, 3.0.0") == set()
    check_versions("vision", VERSION, board(tmp_path))


@pytest.mark.parametrize(("how", "more", "text"), [
    ("failing", (), "ended with status 3: New shape should not change"),
    ("silent", (), "ended well and wrote nothing"),
    ("nothing", (), "compiled nothing of vision.tflite.*Number of operators converted"),
    ("rubbish", (), "not a LiteRT model"),
    ("renamed", (), "changed the outputs of vision.tflite"),
    ("retyped", (), r"changed the inputs of vision\.tflite from \{'image': 'float32 .* to \{'image': 'int8 "),
    ("huge", (), "made 274877906944 bytes of vision.tflite"),
    ("nameless", (), "says no version"),
    ("slow", ("--timeout", "0.5"), "did not end within 0.5 s"),
    ("good", ("--target", "imx93"), "ended with status 2.*unknown target imx93"),
    ("good", ("--blocks", "expert"), "block expert is no .tflite"),
    ("good", ("--option=--fast",), "unrecognized arguments: --fast"),
])  # fmt: skip
def test_a_conversion_that_fails_leaves_nothing(
    source: Bundle, tmp_path: Path, how: str, more: tuple[str, ...], text: str
) -> None:
    program, out = fake_converter.program(tmp_path, how), tmp_path / "out.vlad"
    with pytest.raises(BundleError, match=f"(?s){text}"):
        main([str(source.path), "--converter", str(program), "-o", str(out), *more])
    assert list(tmp_path.iterdir()) == [program]


def test_the_time_limit_ends_what_the_converter_started(
    source: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLAD_TEST_CONVERTER", mark := str(tmp_path))

    def running() -> int:
        found = 0
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                found += f"VLAD_TEST_CONVERTER={mark}".encode() in environment.read_bytes()
        return found

    words = str(fake_converter.program(tmp_path, "slow")), str(source.file(source.block("vision").file))
    with ThreadPoolExecutor(1) as aside:
        compiling = aside.submit(compile_block, Path(words[0]), Path(words[1]), "imx95", (), 8.0)
        wait_for(lambda: running() == 2, 8)  # the program, and what it has started
        with pytest.raises(BundleError, match="did not end within 8 s"):
            compiling.result(30)
    wait_for(lambda: running() == 0)


@pytest.mark.parametrize("timeout", ["nan", "inf", "1e300", "-1", "0", "soon"])
def test_a_time_limit_is_a_number_of_seconds(timeout: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["in.vlad", "--converter", "c", "-o", "out.vlad", "--timeout", timeout])
    assert "--timeout" in capsys.readouterr().err


def test_a_converter_is_found_as_a_shell_finds_it(
    source: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake_converter.program(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main([str(source.path), "--converter", f"./{program.name}", "-o", "here.vlad"]) == 0
    monkeypatch.chdir("/")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert main([str(source.path), "--converter", program.name, "-o", str(tmp_path / "path.vlad")]) == 0


def test_what_cannot_be_written_is_told_and_nothing_is_left(source: Bundle, tmp_path: Path) -> None:
    program = str(fake_converter.program(tmp_path))
    (tmp_path / "file").write_text("precious")
    (tmp_path / "home").mkdir()
    before = sorted(tmp_path.iterdir())
    for out, text in (("file/x.vlad", "x.vlad: not written: "), ("file", "file: is no bundle, so --force does"),
                      ("home", "home: is no bundle")):  # fmt: skip
        with pytest.raises(BundleError, match=text):
            main([str(source.path), "--converter", program, "-o", str(tmp_path / out), "--force"])
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "file").read_text() == "precious"


def test_what_cannot_be_converted_is_refused(source: Bundle, converted: Bundle, tmp_path: Path) -> None:
    program, out = str(fake_converter.program(tmp_path)), str(tmp_path / "out.vlad")
    with pytest.raises(BundleError, match=r"was compiled already, by 3\.0\.0"):
        main([str(converted.path), "--converter", program, "-o", out])
    with pytest.raises(BundleError, match="exists already"):
        main([str(source.path), "--converter", program, "-o", str(converted.path)])
    with pytest.raises(BundleError, match="no-such-program: cannot be run: No such file"):
        main([str(source.path), "--converter", str(tmp_path / "no-such-program"), "-o", out])
    plain = tiny_smolvla.build(tmp_path / "plain.vlad")
    with pytest.raises(BundleError, match=r"has no block in \.tflite"):
        main([str(plain), "--converter", program, "-o", out])
