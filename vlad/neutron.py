"""What is known in public of the converter of NXP's Neutron NPU, and how versions are read off a board.

Sources: the operators that NXP's delegate hands to the converter (NEUTRON_OP and supported_dtypes in
nxp-imx/tflite-neutron-delegate, neutron_delegate_utils.cc, branch lf-6.6.52_2.2.0): an operator that is not in that
list may be taken by a newer converter. Versions: `neutron-converter --version` prints "eIQ neutron-converter version
3.0.0+0X6d41ac8b", the firmware holds "Neutron Firmware ver:3.0.0-0X6d41ac8b started"; number and hash must both be
the same, or the firmware says "Microcode version mismatch!".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from vlad.errors import BundleError, ConfigError

OPERATORS = frozenset({"ADD", "AVERAGE_POOL_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MAX_POOL_2D",
                       "PAD", "RESHAPE"})  # fmt: skip
CONVERTED = "NeutronGraph"  # the operator that stands for what was compiled
NAME = "neutron-converter"
MAX_BYTES = 64 << 20
_VERSION = re.compile(rb"(\d+\.\d+\.\d+)[+-](0[xX][0-9a-fA-F]{6,16})")


def left_on_cpu(operators: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Of operators (kind, type), those that the converter is not known to take, counted."""
    return dict(sorted(Counter(kind for kind, dtype in operators if dtype != "int8" or kind not in OPERATORS).items()))


def versions_in(text: bytes) -> set[str]:
    """Every version in a text or a binary, in one spelling: `3.0.0+0x6d41ac8b`."""
    return {f"{number.decode()}+{tag.decode().lower()}" for number, tag in _VERSION.findall(text)}


def check_versions(block: str, version: str, places: Mapping[str, str]) -> None:
    """Raises BundleError unless driver and firmware hold the version that converted the block; ConfigError where one
    cannot be read. places: "driver", "firmware" -> its file.
    """
    for what, path in places.items():
        try:
            with open(path, "rb") as file:
                found = versions_in(file.read(MAX_BYTES))
        except OSError as error:
            raise ConfigError(f"block {block}: the NPU's {what} {path} cannot be read: {error.strerror}: its version "
                              "must be that of the converter") from error  # fmt: skip
        if version not in found:
            has = ", ".join(sorted(found)) or "no version that could be read"
            raise BundleError(
                f"block {block}: was converted by {NAME} {version}, and the NPU's {what} {path} is of {has}: "
                "convert it again with the converter of this board's release, or name another file that holds the "
                f"version, block.{block}.{what}"
            )
