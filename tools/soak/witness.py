"""The C witness for Python: built when needed, and the few words exchanged with it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlad.servo import MemoryArm, Servo, ServoConfig

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("witness.c")
JOINTS = 8


class Bounds(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int64) for n in
                ("n_joints", "period_ns", "lookahead_ns", "rest_ns", "max_age_ns")] + [
        (n, ctypes.c_int64 * JOINTS) for n in ("min_nu", "max_nu", "step_nu")]


class Times(ctypes.Structure):
    """0 = not yet; `raised`: the fault's number."""

    _fields_ = [(n, ctypes.c_int64) for n in ("injected_ns", "raised_ns", "left_ns", "rest_ns", "raised")]


class _Witness(ctypes.Structure):
    _fields_ = [("bound", Bounds), ("times", Times)] + [
        (n, ctypes.c_int64) for n in
        ("violations", "ticks", "covered", "starved", "engaged", "stops", "engagements", "uninvited",
         "goals", "moved")] + [("text", ctypes.c_char * 4096)]


def build(out: Path) -> Path:
    """witness.so, compiled anew when a source is newer. CalledProcessError when it does not compile."""
    target = out / "witness.so"
    sources = [SOURCE, *(ROOT / "csrc").glob("*.h")]
    if not target.exists() or target.stat().st_mtime < max(s.stat().st_mtime for s in sources):
        out.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
        new = target.with_suffix(f".{os.getpid()}")
        subprocess.run(
            [*compiler.split(), "-std=gnu11", "-O2", "-g", "-fPIC", "-shared", "-Wall", "-Wextra",
             "-Wshadow", "-Werror", f"-I{ROOT / 'csrc'}", str(SOURCE), "-o", str(new)], check=True)
        new.replace(target)
    return target


class Witness:
    """Watches one servo loop on a MemoryArm, every tick. Limits come from the configuration."""

    def __init__(self, library: Path, servo: Servo, arm: MemoryArm, config: ServoConfig, *,
                 rest_ns: int, max_age_ns: int) -> None:
        self._c = ctypes.CDLL(str(library))
        self._c.soak_new.restype = ctypes.c_void_p
        bounds = Bounds(len(config.joints), config.period_ns, servo.lookahead_ns, rest_ns, max_age_ns)
        for j, joint in enumerate(config.joints):
            bounds.min_nu[j], bounds.max_nu[j] = round(joint.min * 1e9), round(joint.max * 1e9)
            bounds.step_nu[j] = round(joint.v_max * config.period_ns)
        # What the control socket's thread gets as its context is the loop itself.
        self._at = self._c.soak_new(ctypes.c_void_p(servo.lower_context_address()),
                                    ctypes.c_void_p(arm.address()), ctypes.byref(bounds))
        self._view = _Witness.from_address(self._at)
        self._keep = (servo, arm)
        tick = ctypes.cast(self._c.soak_tick, ctypes.c_void_p).value
        assert tick is not None
        arm.watch(tick, self._at)

    def close(self) -> None:
        self._keep[1].watch(0, 0)
        self._c.soak_free(ctypes.c_void_p(self._at))

    def asked(self, requests: int) -> None:
        self._c.soak_asked(ctypes.c_void_p(self._at), ctypes.c_uint32(requests))

    def allow(self, faults: Sequence[int]) -> None:
        self._c.soak_allow(ctypes.c_void_p(self._at), ctypes.c_uint64(sum(1 << f for f in set(faults))))

    def injected(self, now_ns: int, expected: Sequence[int]) -> None:
        self._c.soak_inject(ctypes.c_void_p(self._at), ctypes.c_int64(now_ns),
                            ctypes.c_uint64(sum(1 << f for f in set(expected))))

    def touched(self) -> None:
        self._c.soak_touched(ctypes.c_void_p(self._at))

    @property
    def violations(self) -> int:
        return int(self._view.violations)

    @property
    def text(self) -> str:
        return bytes(self._view.text).decode(errors="replace")

    @property
    def times(self) -> Any:
        return self._view.times

    def totals(self) -> dict[str, int]:
        return {n: int(getattr(self._view, n)) for n in
                ("ticks", "covered", "starved", "engaged", "stops", "engagements", "goals", "moved")}
