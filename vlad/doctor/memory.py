"""Memory: what an NPU's buffers come from, and whether the machine swaps."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vlad.doctor.finding import Finding, unknown
from vlad.doctor.root import Root
from vlad.small_file import Unreadable

AREA = "memory"
CMA_KB = 512 * 1024  # the pool of the stock i.MX 95 device tree is 960 MB; of it displays and cameras take, too
CMA_LLM_KB = 2 << 20  # below this ONNX Runtime's Neutron provider falls back to the CPU without a word


def examine(root: Root, *, npu: bool, neutron_provider: bool) -> Iterator[Finding]:
    """npu: this machine has one. neutron_provider: a block is to run on NeutronExecutionProvider."""
    try:
        kb = {name: int(value) for name, value in
              re.findall(r"^(\w+):\s+(\d+) kB$", root.text("/proc/meminfo"), re.MULTILINE)}
    except Unreadable as error:
        yield unknown(AREA, "memory", error)
        return
    if npu:
        yield _cma(kb, neutron_provider)
    if kb.get("SwapTotal", 0):
        yield Finding(AREA, "swap", "note", f"{kb['SwapTotal'] >> 10} MiB: where the daemon may not lock its memory, "
                      "its policy may be swapped out", "swapoff -a, where memory suffices without")
    else:
        yield Finding(AREA, "swap", "ok", "none")


def _cma(kb: dict[str, int], neutron_provider: bool) -> Finding:
    total, free = kb.get("CmaTotal", 0), kb.get("CmaFree", 0)
    needed = CMA_LLM_KB if neutron_provider else CMA_KB
    found = f"{total >> 10} MiB, {free >> 10} MiB free"
    if total < needed:
        return Finding(AREA, "cma", "fail", f"{found}; without {needed >> 10} MiB the CPU does the NPU's work",
                       "a device tree with a larger linux,cma pool (imx95-19x19-evk-neutron.dtb), or cma= at boot")
    return Finding(AREA, "cma", "ok", found)
