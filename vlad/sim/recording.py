"""The bus recording: every packet of both directions, one JSON object per line.

    {"t_ns": ..., "dir": "tx", "hex": "fffffe16832a02...", "goals": {"1": 2048, ...}}
    {"t_ns": ..., "dir": "rx", "hex": "ffff0104..."}

"tx" is host to servo, at the time the simulated bus had it; "rx" servo to host, at the time it was
written. "goals" (ticks by servo id) is there for every write that covers Goal_Position. t_ns is
CLOCK_MONOTONIC.
"""

from __future__ import annotations

import json
import os

from vlad.errors import ConfigError
from vlad.sim.feetech_slave import Instruction


class Recording:
    """Appends whole lines to a file; holds at most the lines of one turn of the bus loop.

    A write that fails (disk full) loses those lines, counted in `lost_lines`; the bus goes on.

    Raises:
        ConfigError: when the file cannot be created.
    """

    __slots__ = ("_descriptor", "_lines", "lost_lines")

    def __init__(self, path: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags, 0o644)
        except OSError as error:
            raise ConfigError(f"--record {path}: {error.strerror}; give a writable file") from error
        self._lines: list[str] = []
        self.lost_lines = 0

    def tx(self, t_ns: int, instruction: Instruction) -> None:
        """Take down a packet from the host."""
        line = f'{{"t_ns":{t_ns},"dir":"tx","hex":"{instruction.raw.hex()}"'
        goals = instruction.goals()
        if goals:
            line += f',"goals":{json.dumps(goals, separators=(",", ":"))}'
        self._lines.append(line + "}\n")

    def rx(self, t_ns: int, raw: bytes) -> None:
        """Take down bytes to the host."""
        self._lines.append(f'{{"t_ns":{t_ns},"dir":"rx","hex":"{raw.hex()}"}}\n')

    def flush(self) -> None:
        """Hand the lines to the kernel; to be called at least once per turn of the loop."""
        if not self._lines:
            return
        data = "".join(self._lines).encode()
        count = len(self._lines)
        self._lines.clear()
        try:
            written = os.write(self._descriptor, data)
        except OSError:
            self.lost_lines += count
            return
        if written < len(data):
            # Only whole lines count; the torn one is ended so that the next starts a line.
            self.lost_lines += data[written:].count(b"\n")
            self._lines.append("\n")

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        os.close(self._descriptor)
