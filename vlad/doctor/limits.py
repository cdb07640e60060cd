"""What the daemon may ask of the kernel: the one that runs, else the installed unit, else this shell."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from vlad.doctor.finding import Finding, Verdict, unknown
from vlad.doctor.root import Root
from vlad.small_file import Unreadable

AREA = "limits"
UNITS = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
UNLIMITED = 1 << 62


def daemon_pid(root: Root) -> int | None:
    """A `vlad run` that is there; its own command line says so."""
    for path in root.glob("/proc/[0-9]*/cmdline"):
        try:
            words = path.read_bytes()[:4096].split(b"\0")
        except OSError:  # it has ended
            continue
        for program, verb in itertools.pairwise(words):
            if verb == b"run" and program.rpartition(b"/")[2] in (b"vlad", b"vlad.main"):
                return int(path.parent.name)
    return None


def of_process(root: Root, pid: int | str) -> tuple[int, int]:
    """(real-time priority, lockable bytes) of /proc/PID/limits. Raises Unreadable."""
    text = root.text(f"/proc/{pid}/limits")

    def soft(name: str) -> int:
        if not (found := re.search(rf"^{name}\s+(\S+)", text, re.MULTILINE)):
            raise Unreadable(f"/proc/{pid}/limits: no line {name!r}")
        return UNLIMITED if found[1] == "unlimited" else int(found[1])

    return soft("Max realtime priority"), soft("Max locked memory")


def _of_unit(root: Root) -> tuple[str, int, int] | None:
    """(path, real-time priority, lockable bytes) of the vlad.service that counts."""
    for directory in UNITS:
        try:
            text = root.text(f"{directory}/vlad.service")
        except Unreadable:
            continue
        values = dict(re.findall(r"^(Limit\w+)=(\S+)$", text, re.MULTILINE))

        def limit(name: str, values: dict[str, str] = values) -> int:
            value = values.get(name, "0")
            return UNLIMITED if value == "infinity" else int(value) if value.isdigit() else 0

        return f"{directory}/vlad.service", limit("LimitRTPRIO"), limit("LimitMEMLOCK")
    return None


def examine(root: Root, priority: int, bad: Verdict) -> Iterator[Finding]:
    """priority: `servo.priority`. bad: what it is to grant less."""
    try:
        if (pid := daemon_pid(root)) is not None:
            where, (rtprio, memlock) = f"of the running daemon (process {pid})", of_process(root, pid)
        elif (unit := _of_unit(root)) is not None:
            where, rtprio, memlock = f"by {unit[0]}", unit[1], unit[2]
        else:
            where, (rtprio, memlock) = "of this shell", of_process(root, "self")
    except Unreadable as error:
        yield unknown(AREA, "real time", error)
        return
    if rtprio < priority:
        yield Finding(AREA, "real time", bad, f"priority {rtprio} at most {where}, servo.priority is {priority}",
                      f"LimitRTPRIO={priority} in the unit; for a shell: rtprio in /etc/security/limits.d")
    else:
        yield Finding(AREA, "real time", "ok", f"priority up to {rtprio} {where}")
    if memlock < UNLIMITED:
        yield Finding(AREA, "locked memory", bad, f"{memlock} bytes at most {where}",
                      "LimitMEMLOCK=infinity in the unit; for a shell: memlock in /etc/security/limits.d")
    else:
        yield Finding(AREA, "locked memory", "ok", f"without limit {where}")
