"""The signature of a bundle: ed25519 over the bytes of manifest.json, which holds the sha256 of every file.

`manifest.sig` has 96 bytes: the 32 of the public key, then the 64 of the signature. The key in it says
who signed, so that a stranger's signature can be told from a wrong one; it is believed only where it is
one of the trusted keys. Keys are PEM files, as openssl writes and reads them.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlad.errors import BundleError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE = "manifest.sig"
KEY_BYTES = 32
SIGNATURE_BYTES = KEY_BYTES + 64
PEM_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Trust:
    """keys: public keys, 32 bytes each; empty: whose key it is, is not judged. required: a bundle
    without a signature is refused. A signature that is there must be good in any case.
    """

    keys: tuple[bytes, ...] = ()
    required: bool = False


def check_signature(text: bytes, signature: bytes | None, trust: Trust, where: Path) -> str | None:
    """The key, in hex, that signed `text`; None where there is no signature and none is required.

    Raises BundleError: missing, of another size, by a key that is not trusted, or not of this text.
    """
    if signature is None:
        if trust.required:
            raise BundleError(f"{where}: missing, and a signature is required: `vlad sign BUNDLE --key FILE`")
        return None
    if len(signature) < SIGNATURE_BYTES:
        raise BundleError(f"{where}: truncated: {len(signature)} bytes, a signature has {SIGNATURE_BYTES}")
    if len(signature) > SIGNATURE_BYTES:
        raise BundleError(f"{where}: oversized: a signature has {SIGNATURE_BYTES} bytes")
    key = signature[:KEY_BYTES]
    if trust.keys and key not in trust.keys:
        raise BundleError(f"{where}: signed by {key.hex()}, which is none of the {len(trust.keys)} trusted keys")
    require_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature[KEY_BYTES:], text)
    except (InvalidSignature, ValueError):
        raise BundleError(
            f"{where}: wrong: key {key.hex()} did not sign this manifest; it was changed, or it is another's signature"
        ) from None
    return key.hex()


def require_cryptography() -> None:
    """Raises BundleError where signatures can be neither made nor verified."""
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise BundleError("signatures need the package `cryptography`: pip install 'vlad[sign]'") from None


def read_public_key(path: Path) -> bytes:
    """The 32 bytes of an ed25519 public key in PEM. Raises BundleError."""
    require_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    text = _read_pem(path)
    if b"PRIVATE KEY" in text:
        raise BundleError(f"{path}: a private key: give the public one, and keep this one off the robot")
    try:
        key = serialization.load_pem_public_key(text)
    except Exception as error:  # ValueError, UnsupportedAlgorithm, and what else OpenSSL has to say
        raise BundleError(f"{path}: not a public key in PEM: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BundleError(f"{path}: not an ed25519 key: `vlad sign --new-key FILE` makes one")
    return key.public_bytes_raw()


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """An ed25519 private key in PEM, not encrypted. Raises BundleError, also where others may read it."""
    require_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    text = _read_pem(path, secret=True)
    try:
        key = serialization.load_pem_private_key(text, password=None)
    except TypeError:
        raise BundleError(f"{path}: encrypted: `openssl pkey -in {path} -out NEW` takes the passphrase off") from None
    except Exception as error:  # see above
        raise BundleError(f"{path}: not a private key in PEM: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(f"{path}: not an ed25519 key: `vlad sign --new-key FILE` makes one")
    return key


def sign(text: bytes, key: Ed25519PrivateKey) -> bytes:
    """What manifest.sig holds for a manifest of these bytes."""
    return key.public_key().public_bytes_raw() + key.sign(text)


def _read_pem(path: Path, *, secret: bool = False) -> bytes:
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BundleError(f"{path}: a key is a regular file")
            if secret and status.st_mode & 0o077:
                raise BundleError(f"{path}: others may read this private key: `chmod 600 {path}`, or make a new one")
            text = file.read(PEM_LIMIT + 1)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}: no key can be read") from None
    if len(text) > PEM_LIMIT:
        raise BundleError(f"{path}: over {PEM_LIMIT} bytes is no key")
    return text
