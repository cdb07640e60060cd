"""Programs for aarch64 on this machine: `make aarch64` has made what is needed in build/aarch64."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
MADE = ROOT / "build/aarch64"
EMULATOR = "qemu-aarch64"

if not shutil.which(EMULATOR) or not MADE.exists():
    pytest.skip("make aarch64 sets up what these need", allow_module_level=True)

_known = subprocess.run([EMULATOR, "-cpu", "help"], capture_output=True, text=True, check=False).stdout.split()
A55 = "cortex-a55" if "cortex-a55" in _known else "cortex-a76"
"""The board's core, or the one that QEMU before 8.0 has instead: ARMv8.2 with dot products and half precision too."""
A53 = "cortex-a53"
"""One without either: ARMv8.0."""


def make(*targets: str, core: str = A55) -> str:
    """Output of make -C csrc TARGETS, which must succeed; programs run as `core`."""
    done = subprocess.run(
        ["flock", "../build/csrc.lock", "make", "--no-print-directory", *targets],
        cwd=CSRC, env={**os.environ, "QEMU_CPU": core}, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout


def python(*words: str, core: str, cwd: Path, timeout_s: float = 3000) -> subprocess.CompletedProcess[str]:
    """Python for aarch64 with the wheel of vlad and its dependencies; no package of this machine is seen."""
    sysroot = MADE / "sysroot"
    _tell_core(sysroot / "proc/cpuinfo", core)
    (program,) = sysroot.glob("usr/bin/python3.[0-9]*")
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "QEMU_CPU": core, "QEMU_LD_PREFIX": str(sysroot),
        "PYTHONPATH": f"{MADE / 'vlad'}:{MADE / 'site'}", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    return subprocess.run(
        [EMULATOR, str(program), *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False,
        timeout=timeout_s,
    )  # fmt: skip


def _tell_core(file: Path, core: str) -> None:
    """What ONNX Runtime reads the kind of core from; the emulator opens files of the root first. From an A55 it takes
    dot products for granted, so an A53 must say what it is."""
    part = "0xd03" if core == A53 else "0xd05"
    about = {"BogoMIPS": "48.00", "Features": "fp asimd", "CPU implementer": "0x41", "CPU architecture": "8",
             "CPU variant": "0x2", "CPU part": part, "CPU revision": "0"}  # fmt: skip
    lines = "".join(f"{name}\t: {value}\n" for name, value in about.items())
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(f"processor\t: {number}\n{lines}\n" for number in range(6)))
