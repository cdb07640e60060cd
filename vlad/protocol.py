"""Schemas of the control protocol's requests (docs/protocol.md). Unknown members are refused."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

VERSION = 1


class Args(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of verbs without arguments."""


class LoadArgs(Args, frozen=True):
    """path: of a bundle on the daemon's machine, absolute."""

    path: Annotated[str, msgspec.Meta(pattern=r"^/[^\x00]*\Z")]


class TaskArgs(Args, frozen=True):
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class EventsArgs(Args, frozen=True):
    """since: the number after which events are wanted."""

    since: Annotated[int, msgspec.Meta(ge=0)] = 0


class MetricsArgs(Args, frozen=True):
    format: Literal["json", "prometheus"] = "json"


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line. args: an object, decoded by the verb's own schema."""

    v: Literal[1]
    id: int | str
    verb: str
    args: msgspec.Raw = msgspec.Raw(b"{}")


class AnyRequest(msgspec.Struct, frozen=True):
    """What is left to answer to when the line is no Request."""

    id: int | str
