"""`vlad sign`: makes a key, and signs a bundle with it (docs/bundle.md)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from vlad import bundle as bundles
from vlad.errors import BundleError
from vlad.signature import SIGNATURE, Trust, check_signature, read_private_key, require_cryptography, sign


def main(argv: Sequence[str]) -> int:
    """0 when it is signed or the key is made, 1 when not, 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="vlad sign",
        description="Sign a bundle: an ed25519 signature over its manifest, which holds the sha256 of every file.",
    )
    parser.add_argument("bundle", type=Path, nargs="?", metavar="BUNDLE", help="verified, then signed")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--key", type=Path, metavar="FILE", help="private key in PEM, readable by its owner alone")
    which.add_argument("--new-key", type=Path, metavar="FILE", help="make a private key, and FILE.pub for the robots")
    options = parser.parse_args(argv)
    if (options.bundle is None) == (options.new_key is None):
        parser.error("give BUNDLE with --key, and none with --new-key")
    if options.new_key is not None:
        public = write_new_key(options.new_key)
        print(f"{options.new_key}: private key, for `vlad sign BUNDLE --key {options.new_key}`")
        print(f"{options.new_key}.pub: public key {public.hex()}, for policy.trusted_keys")
        return 0
    signer = sign_bundle(options.bundle, options.key)
    print(f"{options.bundle / SIGNATURE}: signed by {signer}")
    return 0


def write_new_key(path: Path) -> bytes:
    """Write a private key (mode 0600) to `path` and its public one to `path`.pub; the latter's bytes.

    Raises BundleError; no file is ever replaced.
    """
    require_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    public = path.with_name(path.name + ".pub")
    if os.path.lexists(public):
        raise BundleError(f"{public}: exists already: a key is not replaced")
    _write_once(path, 0o600, key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))  # fmt: skip
    _write_once(public, 0o644, key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))  # fmt: skip
    return key.public_key().public_bytes_raw()


def sign_bundle(path: Path, key_file: Path) -> str:
    """Verify a bundle and sign what was verified; the public key in hex. Raises BundleError."""
    key = read_private_key(key_file)
    bundle = bundles.load(path)
    signature = sign(bundle.text, key)
    target = path / SIGNATURE
    new = path / f".{SIGNATURE}.partial-{os.getpid()}"
    try:
        _write_once(new, 0o644, signature)
        os.replace(new, target)
    except OSError as error:
        raise BundleError(f"{target}: {error.strerror}") from None
    finally:
        new.unlink(missing_ok=True)
    return str(check_signature(bundle.text, signature, Trust(), target))


def _write_once(path: Path, mode: int, content: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise BundleError(f"{path}: exists already: a key is not replaced") from None
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from None
