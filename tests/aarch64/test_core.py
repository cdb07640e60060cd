"""Every C test, compiled for aarch64, on a core with the A55's instructions and on one without them.

What an emulator's kernel lacks, a test program says and leaves out; which those are is known.
"""

from __future__ import annotations

import re

import pytest

from tests.aarch64.emulator import A53, A55, CSRC, make

PROGRAMS = sorted(path.stem for path in CSRC.glob("tests/test_*.c"))
NOT_EMULATED = {
    "test_control_socket": {"checks_peers"},  # SO_PEERGROUPS
    "test_serial_bus": {"main"},  # TCGETS2: the two tests of a real line
}


@pytest.mark.parametrize("core", [A55, A53])
@pytest.mark.parametrize("program", PROGRAMS)
def test_emulated(program: str, core: str) -> None:
    output = make(f"run/aarch64/{program}", core=core)
    assert re.search(r": [1-9]\d* checks$", output, re.M), output
    left_out = re.findall(r"^skipped: (\w+): (.*)", output, re.M)
    for name, why in left_out:
        print(f"not emulated: {program}: {name}: {why}")
    assert {name for name, _ in left_out} <= NOT_EMULATED.get(program, set())
