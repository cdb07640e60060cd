"""One setting of a config.json: of its type, nothing converted to it, and within what the runtime supports.

Bounds of what a bundle states are the manifest's; here the message has the name that LeRobot has for it.
"""

from __future__ import annotations

import reprlib
from collections.abc import Set
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vlad.errors import BundleError

Size = Annotated[int, Meta(ge=1, le=65_536)]
Count = Annotated[int, Meta(ge=1, le=1024)]
Chunk = Annotated[int, Meta(ge=1, le=4096)]


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of an observation or an action."""

    type: Literal["STATE", "VISUAL", "ENV", "ACTION", "REWARD", "LANGUAGE"]
    shape: Annotated[tuple[Size, ...], Meta(min_length=1, max_length=8)]


def read_setting(where: Path | str, config: dict[str, Any], key: str, kind: Any) -> Any:
    """`config[key]` as `kind`, a type that msgspec knows. Raises BundleError, with `where` in it, for a key that
    is missing and for a value of another type or out of bounds.
    """
    if key not in config:
        raise BundleError(f"{where}: {key} is missing")
    try:
        return msgspec.convert(config[key], kind)
    except msgspec.ValidationError as error:
        raise BundleError(f"{where}: {key} = {reprlib.repr(config[key])} is not supported: {error}") from None


def read_features(file: Path, config: dict[str, Any], key: str) -> dict[str, Feature]:
    """The features of `config[key]` by name, in their order. Raises BundleError."""
    features = read_setting(file, config, key, dict[str, Any])
    return {name: read_setting(f"{file}: {key}", features, name, Feature) for name in features}


def read_width(file: Path, config: dict[str, Any], key: str, name: str, kind: str) -> int:
    """Numbers of the vector `name` of type `kind` among the features of `config[key]`. Raises BundleError."""
    found = read_features(file, config, key).get(name)
    if found is None:
        raise BundleError(f"{file}: {key} has no {name}, which is needed")
    if found.type != kind or len(found.shape) != 1:
        raise BundleError(
            f"{file}: {key}: {name} of type {found.type} and shape {list(found.shape)}; type {kind} and shape [N] are "
            "supported"
        )
    return found.shape[0]


def refuse_unknown(file: Path, config: dict[str, Any], known: Set[str]) -> None:
    """Raises BundleError for a key of `config` that is not `known`."""
    unknown = sorted(config.keys() - known)
    if unknown:
        raise BundleError(
            f"{file}: settings {unknown} are not known: of a LeRobot newer than this vlad? Whether they change what "
            "the policy computes is unknown"
        )
