"""The wheel for aarch64: what is in it, that it needs no instruction of the A55, and the tests that fit an emulator.

A selection: what computes and decides (native modules, NumPy, ONNX Runtime with vlad's operators). Daemons, real
time, processes and the simulated arm are not, nor what needs packages beyond those that the board has.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.aarch64.emulator import A53, A55, MADE, ROOT, python

PROPERTY = ("action_queue", "gate", "trajectory", "watchdog", "protocol", "manifest", "fused")
UNIT = (
    "bfloat16", "bundle", "capture", "flow_solvers", "ladder", "observation", "onnx_parts", "policy_exact",
    "quantize_schemes", "real_time_chunking", "sampler", "scheduler", "servo_arguments", "token_cache",
)
ON_BOTH = ("tests/property/test_fused.py", "tests/unit/test_policy_exact.py")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests without the package beside them: what is imported is the wheel."""
    made = tmp_path_factory.mktemp("aarch64")
    for name in ("tests", "configs", "assets"):
        shutil.copytree(ROOT / name, made / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", made)
    return made


def run_tests(files: list[str], core: str, cwd: Path) -> None:
    report = cwd / f"{core}.xml"
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", *files]
    done = python(*words, core=core, cwd=cwd)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    suite = ElementTree.parse(report).getroot()[0]
    skipped = {f"{case.get('classname')}.{case.get('name')}": (case[0].get("message") or "")
               for case in suite.iter("testcase") if case.find("skipped") is not None}  # fmt: skip
    print(f"{core}: {int(suite.get('tests', 0)) - len(skipped)} tests passed in {suite.get('time')} s")
    for name, why in skipped.items():
        print(f"{core}: skipped: {name}: {why}")
    assert not skipped


def test_contents() -> None:
    native = MADE / "vlad/vlad/_native"
    modules = [path.name.split(".")[0] for path in native.glob("*.cpython-*-aarch64-linux-gnu.so")]
    assert sorted(modules) == sorted(path.stem for path in (ROOT / "vlad/_native").glob("*.pyx"))
    for path in [*native.glob("*.so"), native / "vlad-safe-stop"]:
        header = subprocess.run(["aarch64-linux-gnu-readelf", "-h", path], capture_output=True, text=True, check=True)
        assert re.search(r"Machine:\s+AArch64", header.stdout), path


@pytest.mark.parametrize("core", [A55, A53])
def test_what_runs_it(core: str, tmp_path: Path) -> None:
    """numpy and ONNX Runtime compute, vlad's operators load, and the core is the one that was asked for."""
    done = python("-c", PROBE, core=core, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"{core}: {done.stdout.strip()}")
    assert ("dot products, half precision" in done.stdout) == (core == A55)


PROBE = """
import ctypes, platform
import numpy, onnxruntime
from vlad.backend import Threads, session_options
session_options("probe", Threads())
said = ctypes.CDLL(None).getauxval
said.restype, said.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
hwcap = said(16)
assert platform.machine() == "aarch64"
assert (numpy.ones((4, 5)) @ numpy.ones((5, 6)) == 5).all()
print("Python", platform.python_version(), "numpy", numpy.__version__, "onnxruntime", onnxruntime.__version__,
      "dot products, half precision" if hwcap >> 20 & 1 and hwcap >> 10 & 1 else "ARMv8.0")
"""


def test_selection(copy: Path) -> None:
    files = [f"tests/property/test_{name}.py" for name in PROPERTY] + [f"tests/unit/test_{name}.py" for name in UNIT]
    run_tests(files, A55, copy)


def test_operators_without_the_instructions_of_the_a55(copy: Path) -> None:
    run_tests(list(ON_BOTH), A53, copy)
