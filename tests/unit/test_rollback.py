"""`rollback` at the daemon's door: back to the bundle that ran before, if it is still that one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.daemons import config_without_devices
from tests.tiny_smolvla import build
from vlad import bundle as bundles
from vlad import cli
from vlad.cli_text import status_text
from vlad.control import Control
from vlad.daemon import Daemon
from vlad.errors import BundleError, Refused
from vlad.sign import sign_bundle, write_new_key


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("bundle") / "tiny.vlad")


def variant(built: Path, directory: Path, name: str) -> Path:
    """The same policy as another bundle: its notes say which."""
    path = Path(shutil.copytree(built, directory / f"{name}.vlad"))
    edit(path, notes=[name])
    return path


def edit(path: Path, **fields: Any) -> None:
    text = json.loads((path / "manifest.json").read_text()) | fields
    (path / "manifest.json").write_text(json.dumps(text))


@pytest.fixture
def a(built: Path, tmp_path: Path) -> Path:
    return variant(built, tmp_path, "a")


@pytest.fixture
def b(built: Path, tmp_path: Path) -> Path:
    return variant(built, tmp_path, "b")


@pytest.fixture
def daemon(built: Path, tmp_path: Path) -> Iterator[Daemon]:
    cameras = [c.name for c in bundles.load(built).manifest.cameras]
    daemon = Daemon(config_without_devices(tmp_path, cameras))
    yield daemon
    if daemon.inference.loaded is not None:
        daemon.inference.loaded.policy.close()


def runs(daemon: Daemon) -> str:
    assert daemon.inference.loaded is not None
    return daemon.inference.loaded.name


def test_there_and_back_again(daemon: Daemon, a: Path, b: Path) -> None:
    with pytest.raises(Refused, match="no other bundle has run"):
        daemon.rollback()
    daemon.load(str(a))
    with pytest.raises(Refused, match="no other bundle has run"):
        daemon.rollback()
    assert daemon.status()["previous_policy"] is None
    daemon.load(str(b))
    sha256 = bundles.load(a).manifest_sha256
    assert daemon.status()["previous_policy"] == {"name": "a.vlad", "path": str(a), "manifest_sha256": sha256}
    assert daemon.rollback()["name"] == "a.vlad" == runs(daemon)
    status = daemon.status()
    assert status["policy"]["manifest_sha256"] == sha256
    assert status["previous_policy"]["path"] == str(b)
    assert "rollback to b.vlad" in status_text(status, 0, False)
    event = [e for e in daemon.events.since(0) if e["event"] == "loaded"][-1]
    assert (event["bundle"], event["previous"], event["manifest_sha256"]) == (str(a), str(b), sha256)
    daemon.rollback()
    assert runs(daemon) == "b.vlad"


def test_the_same_bundle_again_is_no_previous_one(daemon: Daemon, a: Path, b: Path) -> None:
    for path in (a, b, b):
        daemon.load(str(path))
    daemon.rollback()
    assert runs(daemon) == "a.vlad"


def test_a_refused_bundle_is_no_previous_one(daemon: Daemon, a: Path, b: Path, built: Path, tmp_path: Path) -> None:
    bad = variant(built, tmp_path, "bad")
    (bad / "tokens.npy").unlink()
    daemon.load(str(a))
    daemon.load(str(b))
    with pytest.raises(BundleError):
        daemon.load(str(bad))
    daemon.rollback()
    assert runs(daemon) == "a.vlad"


def damaged(path: Path) -> None:
    file = path / "blocks/expert.onnx"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(("change", "words"), [
    (lambda p: edit(p, notes=["other"]), r"rollback to .*a\.vlad: .*another one than that with sha256"),
    (shutil.rmtree, r"rollback to .*a\.vlad: .*no such directory"),
    (lambda p: (p / "manifest.json").unlink(), r"rollback to .*a\.vlad: .*manifest\.json: No such file"),
    (damaged, r"rollback to .*a\.vlad: .*expert\.onnx: sha256 differs"),
], ids=["another", "gone", "no manifest", "damaged"])  # fmt: skip
def test_a_previous_bundle_that_is_not_what_it_was_is_refused(
    daemon: Daemon, a: Path, b: Path, change: Any, words: str
) -> None:
    daemon.load(str(a))
    daemon.load(str(b))
    loaded, previous = daemon.inference.loaded, daemon.previous
    change(a)
    with pytest.raises(Refused, match=words):
        daemon.rollback()
    assert daemon.inference.loaded is loaded
    assert daemon.previous is previous


def test_not_while_the_arm_moves(daemon: Daemon, a: Path, b: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.load(str(a))
    daemon.load(str(b))
    monkeypatch.setattr(daemon, "servo", SimpleNamespace(queue_view=lambda: (0, "engaged", 1, False, 0, 0, 0, 0)))
    with pytest.raises(Refused, match="the arm is moving: `vladctl hold` first"):
        daemon.rollback()
    assert runs(daemon) == "b.vlad"


class Servo:
    """The daemon's, with a heap that cannot be locked again."""

    def __init__(self, servo: Any) -> None:
        self._servo, self.trims = servo, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._servo, name)

    def trim_heap(self) -> str:
        self.trims += 1
        return "mlockall: Cannot allocate memory"


def test_the_heap_is_trimmed_after_a_load_and_after_a_refused_one(
    daemon: Daemon, a: Path, b: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servo = Servo(daemon.servo)
    monkeypatch.setattr(daemon, "servo", servo)
    daemon.load(str(a))
    assert servo.trims == 1
    damaged(b)
    with pytest.raises(BundleError):
        daemon.load(str(b))
    assert servo.trims == 2
    assert daemon._details["realtime"] == "not real time: mlockall: Cannot allocate memory"


def test_signatures_are_required_of_what_is_loaded_and_of_what_is_rolled_back_to(
    daemon: Daemon, a: Path, b: Path, built: Path, tmp_path: Path
) -> None:
    write_new_key(tmp_path / "key")
    policy = msgspec.structs.replace(
        daemon.config.policy, require_signature=True, trusted_keys=(str(tmp_path / "key.pub"),))
    daemon.load(str(a))  # not yet required
    object.__setattr__(daemon.config, "policy", policy)
    with pytest.raises(BundleError, match=r"manifest\.sig: missing, and a signature is required"):
        daemon.load(str(b))
    signer = sign_bundle(b, tmp_path / "key")
    daemon.load(str(b))
    assert daemon.status()["policy"]["signer"] == signer
    with pytest.raises(Refused, match=r"rollback to .*a\.vlad: .*manifest\.sig: missing"):
        daemon.rollback()
    assert runs(daemon) == "b.vlad"
    write_new_key(tmp_path / "stranger")
    sign_bundle(a, tmp_path / "stranger")
    with pytest.raises(Refused, match="none of the 1 trusted keys"):
        daemon.rollback()


def test_vladctl_rollback(
    daemon: Daemon, a: Path, b: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    control = Control(daemon.config.control, daemon, daemon.servo, path=tmp_path / "socket")
    control.start()
    try:
        for path in (a, b):
            daemon.load(str(path))
        assert cli.main(["--socket", str(tmp_path / "socket"), "rollback"]) == 0
        assert "rollback: name a.vlad" in capsys.readouterr().out
        shutil.rmtree(b)
        assert cli.main(["--socket", str(tmp_path / "socket"), "rollback"]) == 1
        assert "no such directory" in capsys.readouterr().err
        operator = [(e["verb"], e["outcome"][:7]) for e in daemon.events.since(0) if e["event"] == "operator"]
    finally:
        control.stop()
    assert operator[:1] == [("rollback", "ok")]
