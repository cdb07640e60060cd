"""Signatures of bundles: what is accepted, what is refused and why, and that openssl agrees."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_smolvla import build
from vlad import bundle as bundles
from vlad import main as vlad_main
from vlad.errors import BundleError
from vlad.sign import sign_bundle, write_new_key
from vlad.signature import Trust, read_private_key, read_public_key


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("bundle") / "tiny.vlad")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `ours`, `ours.pub`, `theirs`, `theirs.pub`."""
    directory = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        write_new_key(directory / name)
    return directory


@pytest.fixture
def signed(built: Path, keys: Path, tmp_path: Path) -> Path:
    path = Path(shutil.copytree(built, tmp_path / "copy.vlad"))
    sign_bundle(path, keys / "ours")
    return path


@pytest.fixture
def ours(keys: Path) -> Trust:
    return Trust((read_public_key(keys / "ours.pub"),), required=True)


def test_a_signed_bundle_says_who_signed(signed: Path, ours: Trust) -> None:
    assert bundles.load(signed, trust=ours).signer == ours.keys[0].hex()
    assert bundles.load(signed, trust=Trust()).signer == ours.keys[0].hex()
    assert bundles.load(signed).signer is None  # nobody looked


def test_one_of_several_keys_is_enough(signed: Path, keys: Path, ours: Trust) -> None:
    both = Trust((read_public_key(keys / "theirs.pub"), *ours.keys), required=True)
    assert bundles.load(signed, trust=both).signer == ours.keys[0].hex()


def test_openssl_finds_the_same(signed: Path, keys: Path, tmp_path: Path) -> None:
    """An outside witness: keys and signature are what the format's name says."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")
    (tmp_path / "sig").write_bytes((signed / "manifest.sig").read_bytes()[32:])
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(keys / "ours.pub"), "-rawin",
               "-in", str(signed / "manifest.json"), "-sigfile", str(tmp_path / "sig")]  # fmt: skip
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    (signed / "manifest.json").write_bytes((signed / "manifest.json").read_bytes() + b" ")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_a_key_of_openssl_signs(built: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")
    key, public = tmp_path / "key", tmp_path / "key.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    key.chmod(0o600)
    path = Path(shutil.copytree(built, tmp_path / "copy.vlad"))
    signer = sign_bundle(path, key)
    assert bundles.load(path, trust=Trust((read_public_key(public),), required=True)).signer == signer


def change(name: str, how: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: (path / name).write_bytes(how((path / name).read_bytes()))


def foreign(path: Path) -> None:
    """Good in itself, by somebody's own key."""
    write_new_key(path / "key")
    sign_bundle(path, path / "key")


def stolen(path: Path) -> None:
    """The signature of another manifest by the right key."""
    sig = (path / "manifest.sig").read_bytes()
    text = (path / "manifest.json").read_bytes()
    (path / "manifest.json").write_bytes(text.replace(b'"wave"', b'"nod!"'))
    (path / "manifest.sig").write_bytes(sig)


def as_link(path: Path) -> None:
    (path / "manifest.sig").rename(path / "elsewhere")
    (path / "manifest.sig").symlink_to("elsewhere")


def as_pipe(path: Path) -> None:
    (path / "manifest.sig").unlink()
    os.mkfifo(path / "manifest.sig")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: (p / "manifest.sig").unlink(), "manifest.sig: missing, and a signature is required"),
    "empty": (change("manifest.sig", lambda s: b""), "truncated: 0 bytes, a signature has 96"),
    "truncated": (change("manifest.sig", lambda s: s[:-1]), "truncated: 95 bytes, a signature has 96"),
    "oversized": (change("manifest.sig", lambda s: s + b"\n"), "oversized: a signature has 96 bytes"),
    "a gigabyte": (lambda p: os.truncate(p / "manifest.sig", 1 << 30), "oversized"),
    "foreign": (foreign, "which is none of the 1 trusted keys"),
    "a bit of the signature": (change("manifest.sig", lambda s: s[:-1] + bytes([s[-1] ^ 1])), "wrong: key .* did not"),
    "all zero": (change("manifest.sig", lambda s: s[:32] + bytes(64)), "wrong: key .* did not sign this manifest"),
    "a bit of the key": (change("manifest.sig", lambda s: bytes([s[0] ^ 1]) + s[1:]), "none of the 1 trusted keys"),
    "no point of the curve": (change("manifest.sig", lambda s: b"\xff" * 32 + s[32:]), "none of the 1 trusted keys"),
    "of another manifest": (stolen, "wrong: key .* did not sign this manifest"),
    "a space more": (change("manifest.json", lambda t: t + b" "), "wrong: key .* did not sign this manifest"),
    "not even a manifest": (change("manifest.json", lambda t: b"{"), "wrong: key .* did not sign this manifest"),
    "a link": (as_link, "symbolic links are not allowed"),
    "a pipe": (as_pipe, "manifest.sig: not a regular file"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused_by_name(signed: Path, ours: Trust, name: str) -> None:
    damage, words = BAD[name]
    damage(signed)
    with pytest.raises(BundleError, match=words):
        bundles.load(signed, trust=ours)
    if name != "missing":  # a bad one is refused even where none is required
        with pytest.raises(BundleError, match=words):
            bundles.load(signed, trust=Trust(ours.keys))


def test_a_key_that_is_no_point_is_refused_where_none_is_trusted(signed: Path) -> None:
    change("manifest.sig", lambda s: b"\xff" * 32 + s[32:])(signed)
    with pytest.raises(BundleError, match="wrong: key ff"):
        bundles.load(signed, trust=Trust())


def test_none_is_required_unless_said_so(built: Path, ours: Trust) -> None:
    assert bundles.load(built, trust=Trust(ours.keys)).signer is None


def test_a_damaged_bundle_is_not_signed(built: Path, keys: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(built, tmp_path / "copy.vlad"))
    change("tokens.npy", lambda d: d[:-1] + bytes([d[-1] ^ 1]))(path)
    with pytest.raises(BundleError, match="sha256 differs"):
        sign_bundle(path, keys / "ours")
    assert not (path / "manifest.sig").exists()


def test_a_new_key_is_private_and_replaces_nothing(tmp_path: Path) -> None:
    os.umask(0o022)
    public = write_new_key(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert read_public_key(tmp_path / "key.pub") == public
    assert read_private_key(tmp_path / "key").public_key().public_bytes_raw() == public
    (tmp_path / "other.pub").touch()
    for name in ("key", "other"):
        with pytest.raises(BundleError, match="exists already"):
            write_new_key(tmp_path / name)
    assert not (tmp_path / "other").exists()


def test_keys_that_cannot_be_used_are_named(keys: Path, tmp_path: Path) -> None:
    path = tmp_path / "key"
    cases: dict[str, tuple[Callable[[], object], bool]] = {
        "No such file": (lambda: None, False),
        "over 4096 bytes": (lambda: path.write_bytes(b"x" * 5000), False),
        "not a public key in PEM": (lambda: path.write_bytes(b"x" * 50), False),
        "a private key: give the public one": (lambda: shutil.copy(keys / "ours", path), False),
        "not a private key in PEM": (lambda: (path.write_bytes(b"x"), path.chmod(0o600)), True),
        "others may read this private key": (lambda: (shutil.copy(keys / "ours", path), path.chmod(0o640)), True),
        "a key is a regular file": (lambda: (path.unlink(), os.mkfifo(path)), True),
    }
    for words, (make, private) in cases.items():
        make()
        with pytest.raises(BundleError, match=words):
            read_private_key(path) if private else read_public_key(path)


def test_other_kinds_of_keys_are_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ed448, ed25519

    key = ed448.Ed448PrivateKey.generate()
    path = tmp_path / "key"
    path.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(BundleError, match="not an ed25519 key"):
        read_private_key(path)
    path.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(BundleError, match="not an ed25519 key"):
        read_public_key(path)
    path.write_bytes(ed25519.Ed25519PrivateKey.generate().private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"secret")))
    with pytest.raises(BundleError, match="encrypted"):
        read_private_key(path)


def test_without_cryptography_it_says_what_to_install(
    signed: Path, ours: Trust, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cryptography", None)
    for use in (lambda: bundles.load(signed, trust=ours), lambda: read_public_key(keys / "ours.pub")):
        with pytest.raises(BundleError, match=r"pip install 'vlad\[sign\]'"):
            use()
    bundles.load(signed)  # needs none


def test_command_line(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(shutil.copytree(built, tmp_path / "copy.vlad"))
    key = str(tmp_path / "key")
    assert vlad_main.main(["sign", "--new-key", key]) == 0
    assert vlad_main.main(["sign", str(path), "--key", key]) == 0
    assert vlad_main.main(["sign", str(path), "--key", key]) == 0  # again: the same bytes
    public = read_public_key(Path(key + ".pub")).hex()
    assert public in capsys.readouterr().out
    assert sorted(p.name for p in path.iterdir() if p.name.startswith(("manifest", "."))) == [
        "manifest.json", "manifest.sig"]
    assert vlad_main.main(["sign", "--new-key", key]) == 1
    assert "exists already" in capsys.readouterr().err
    for usage in (["sign"], ["sign", str(path)], ["sign", "--key", key], ["sign", str(path), "--new-key", "x"]):
        with pytest.raises(SystemExit) as exit_:
            vlad_main.main(usage)
        assert exit_.value.code == 2
