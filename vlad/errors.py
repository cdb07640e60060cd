"""The one exception tree of vlad: every expected failure is one of these, with a message that says what to do."""

from __future__ import annotations

from typing import Literal


class VladError(Exception):
    """Base of every error that vlad raises on purpose."""


class ConfigError(VladError):
    """A configuration that cannot be used: the message names the file, the key and the accepted values."""


class BundleError(VladError):
    """A checkpoint or policy bundle that cannot be used: the message names the file and what to supply."""


class DatasetError(VladError):
    """A data set that cannot be written or continued: the message names the file or directory and the way out."""


class DiskShort(DatasetError):
    """The disk is too full to go on recording: the episode that was under way is not kept."""


class DeviceError(VladError):
    """A servo bus, camera or accelerator that did not do what was asked of it."""


class AbiMismatch(VladError):
    """Compiled modules and Python of different builds: nothing may start."""


class Refused(VladError):
    """A request that is understood and not granted: the message gives the reason and the way out."""


BlockFailure = Literal["error", "garbage", "crash", "hang", "absent"]
"""How a block failed: its runtime reported an error; its worker answered nonsense, ended, or did not answer in
time; or it has no worker, because that is being restarted."""


class BlockFailed(DeviceError):
    """A block of the policy did not compute.

    All kinds but "error" say that its worker is gone, which has raised a fault of its own.
    """

    def __init__(self, block: str, kind: BlockFailure, why: str) -> None:
        super().__init__(f"block {block}: {why}")
        self.block = block
        self.kind: BlockFailure = kind
        self.why = why
