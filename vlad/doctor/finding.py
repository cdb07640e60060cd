"""One thing that was looked at."""

from __future__ import annotations

from typing import Literal

import msgspec

# ok: as it should be. note: worth knowing, nothing to do. warn: works, and some day will not.
# fail: the daemon does not start, does not engage, or the arm is not safe. unknown: could not be told.
Verdict = Literal["ok", "note", "warn", "fail", "unknown"]


class Finding(msgspec.Struct, frozen=True):
    """area: the heading it is printed under. found: what is there. remedy: what to do, "" where nothing is."""

    area: str
    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def unknown(area: str, name: str, why: object) -> Finding:
    return Finding(area, name, "unknown", str(why))
