"""`vlad check`: what it says it verified, and its exit status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.daemons import config_without_devices
from tests.tiny_smolvla import build
from vlad import bundle as bundles
from vlad.main import main
from vlad.manifest import files
from vlad.sign import sign_bundle, write_new_key


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("bundle") / "tiny.vlad")


@pytest.fixture
def path(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy.vlad"))


def findings(capsys: pytest.CaptureFixture[str], status: int, *arguments: object) -> dict[str, Any]:
    assert main(["check", "--json", *map(str, arguments)]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_good_bundle_in_words(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(path)]) == 0
    out, bundle = capsys.readouterr().out, bundles.load(path)
    assert out.startswith(f"{path}: good\n")
    for words in (
        "  signature  none, and none was required", "  schema     format version 1",
        f"  integrity  {len(files(bundle.manifest))} files,",
        "  shapes     inputs and outputs of 4 graphs", "  golden     computed again here: max |difference|",
        "onnxruntime on CPUExecutionProvider", bundle.manifest_sha256,
    ):  # fmt: skip
        assert words in out


def test_the_same_as_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = findings(capsys, 0, path)
    assert found["ok"] is True
    assert set(found["verified"]) == {"signature", "schema", "integrity", "shapes", "golden"}
    assert {b["provider"] for b in found["blocks"].values()} == {"CPUExecutionProvider"}
    assert max(found["golden"]["differences"].values()) <= found["golden"]["tolerance"]


def test_signatures(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "a signature is required" in findings(capsys, 1, path, "--require-signature")["error"]
    for name in ("ours", "theirs"):
        write_new_key(tmp_path / name)
    signer = sign_bundle(path, tmp_path / "ours")
    for more in ((), ("--require-signature",)):
        said = findings(capsys, 0, path, *more)["verified"]["signature"]
        assert said == f"by {signer}, trusted or not: give --trust PUB"
    ours, theirs = (("--trust", tmp_path / f"{name}.pub") for name in ("ours", "theirs"))
    assert findings(capsys, 0, path, *ours)["verified"]["signature"] == f"by {signer}, a trusted key"
    assert findings(capsys, 0, path, *theirs, *ours)["ok"]
    assert "none of the 1 trusted keys" in findings(capsys, 1, path, *theirs)["error"]
    assert "No such file" in findings(capsys, 1, path, "--trust", tmp_path / "absent.pub")["error"]


def test_a_signature_that_cannot_be_verified_is_not_called_verified(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_new_key(tmp_path / "key")
    sign_bundle(path, tmp_path / "key")
    monkeypatch.setitem(__import__("sys").modules, "cryptography", None)
    assert findings(capsys, 0, path)["verified"]["signature"].startswith("NOT VERIFIED")
    assert "vlad[sign]" in findings(capsys, 1, path, "--require-signature")["error"]


def test_as_the_daemon_would(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cameras = [c.name for c in bundles.load(path).manifest.cameras]
    write_new_key(tmp_path / "key")

    def check(status: int, text: str = "", names: list[str] = cameras) -> dict[str, Any]:
        config = config_without_devices(tmp_path, names, lambda t: t + text)
        return findings(capsys, status, path, "--config", config.path)

    assert "fit" in check(0)["verified"]["robot"]
    assert "needs cameras" in check(1, names=["elsewhere"])["error"]
    elsewhere = '[block.vision]\nprovider = "CUDAExecutionProvider"'
    assert "CUDAExecutionProvider is not in this" in check(1, elsewhere)["error"]
    keys = f'[policy]\nrequire_signature = true\ntrusted_keys = ["{tmp_path}/key.pub"]'
    assert "a signature is required" in check(1, keys)["error"]
    sign_bundle(path, tmp_path / "key")
    assert check(0, keys)["verified"]["signature"].endswith("a trusted key")


def test_a_bad_bundle_fails_in_both_forms(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path / "tokens.npy").unlink()
    assert main(["check", str(path)]) == 1
    assert "incomplete" in capsys.readouterr().err
    found = findings(capsys, 1, path)
    assert (found.pop("ok"), found) == (False, {
        "error": f"{path}/tokens.npy: No such file or directory: the bundle is incomplete"})


def test_a_bundle_cannot_steer_the_terminal(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = json.loads((path / "manifest.json").read_text())
    text["tasks"][0]["text"] = "\x1b]0;owned\x07wave"
    (path / "manifest.json").write_text(json.dumps(text))
    assert main(["check", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "?]0;owned?wave" in out


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["check"])
    assert exit_.value.code == 2
    assert "give a BUNDLE" in capsys.readouterr().err


def test_the_schema_takes_what_vlad_takes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    smolvla = schema["$defs"]["SmolvlaManifest"]
    assert set(smolvla["properties"]) == set(json.loads((path / "manifest.json").read_text()))
    assert smolvla["additionalProperties"] is schema["$defs"]["ActManifest"]["additionalProperties"] is False
    assert msgspec.json.encode(schema)
