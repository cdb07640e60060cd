"""Six scripted servos on a pseudo-terminal: the least that answers, to break at will."""

from __future__ import annotations

import os
import threading
import tty
from pathlib import Path

from vlad.arm import Calibration, Joint

CALIBRATION = {  # id: homing offset, range_min, range_max
    1: (-1470, 782, 3284),
    2: (1033, 907, 3181),
    3: (-612, 951, 3153),
    4: (1751, 968, 3128),
    5: (287, 0, 4095),
    6: (-1108, 1422, 2673),
}

NAMES = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")


def joints() -> tuple[Joint, ...]:
    """The joints of an arm with these servos."""
    return tuple(
        Joint(
            NAMES[id - 1],
            id,
            "gripper" if id == 6 else "body",
            Calibration(id=id, drive_mode=0, homing_offset=offset, range_min=low, range_max=high),
            min=-1.0,
            max=1.0,
            v_max=2.5,
            a_max=40.0,
            j_max=1600.0,
        )
        for id, (offset, low, high) in CALIBRATION.items()
    )


class PtyServos:
    """Servos 1..6 behind the symbolic link `path`; registers[id] may be read and written any time.

    silent: ids that neither answer nor obey. corrupt: ids whose replies fail their checksum.
    stuck: addresses that take no write. sync_writes: (address, {id: bytes}) as they came.
    """

    def __init__(self, path: Path) -> None:
        self.registers = {id: bytearray(256) for id in CALIBRATION}
        for id, (offset, low, high) in CALIBRATION.items():
            self.put(id, 3, 777)
            self.registers[id][5] = id
            self.put(id, 9, low)
            self.put(id, 11, high)
            self.put(id, 16, 500 if id == 6 else 1000)
            self.put(id, 31, abs(offset) | (0x800 if offset < 0 else 0))
            self.registers[id][21:24] = bytes((16, 32, 0))
            self.put(id, 28, 250)
            self.registers[id][36] = 25
            self.registers[id][41] = 254
            self.put(id, 42, 2048)
            self.put(id, 48, 500 if id == 6 else 1000)
            self.registers[id][55] = 1
            self.put(id, 56, 2040 + id)
            self.registers[id][62:64] = bytes((74, 31))
        self.status = dict.fromkeys(CALIBRATION, 0)
        self.silent: set[int] = set()
        self.corrupt: set[int] = set()
        self.stuck: set[int] = set()
        self.sync_writes: list[tuple[int, dict[int, bytes]]] = []
        self.requests = 0
        self._master, slave = os.openpty()
        tty.setraw(slave)
        path.symlink_to(os.ttyname(slave))
        os.close(slave)
        self._wake, self._end = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def put(self, id: int, address: int, value: int) -> None:
        self.registers[id][address : address + 2] = value.to_bytes(2, "little")

    def get(self, id: int, address: int) -> int:
        return int.from_bytes(self.registers[id][address : address + 2], "little")

    def unplug(self) -> None:
        """Hang up; for good."""
        if self._master >= 0:
            os.write(self._end, b"x")
            self._thread.join(timeout=10)
            os.close(self._master)
            self._master = -1

    def _serve(self) -> None:
        import select

        pending = b""
        while True:
            ready = select.poll()
            ready.register(self._wake, select.POLLIN)
            ready.register(self._master, select.POLLIN)
            events = dict(ready.poll())
            if self._wake in events:
                return
            if not events.get(self._master, 0) & select.POLLIN:
                threading.Event().wait(0.002)  # nobody has the other end open
                continue
            try:
                pending += os.read(self._master, 4096)
            except OSError:
                continue
            while len(pending) >= 4 and len(pending) >= pending[3] + 4:
                frame, pending = pending[: pending[3] + 4], pending[pending[3] + 4 :]
                if reply := self._obey(frame):
                    os.write(self._master, reply)

    def _obey(self, frame: bytes) -> bytes:
        assert frame[:2] == b"\xff\xff" and frame[-1] == ~sum(frame[2:-1]) & 0xFF
        self.requests += 1
        id, instruction, data = frame[2], frame[4], frame[5:-1]
        if instruction == 0x82:
            return b"".join(self._reply(i, self._read(i, data[0], data[1])) for i in data[2:])
        if instruction == 0x83:
            size, goals = data[1], {}
            for at in range(2, len(data), 1 + size):
                goals[data[at]] = data[at + 1 : at + 1 + size]
                self._write(data[at], data[0], goals[data[at]])
            self.sync_writes.append((data[0], goals))
            return b""
        if instruction == 0x02:
            return self._reply(id, self._read(id, data[0], data[1]))
        if instruction == 0x03:
            self._write(id, data[0], data[1:])
        return self._reply(id, b"")

    def _read(self, id: int, address: int, n: int) -> bytes:
        return bytes(self.registers[id][address : address + n]) if id in self.registers else b""

    def _write(self, id: int, address: int, data: bytes) -> None:
        if id in self.registers and id not in self.silent and address not in self.stuck:
            self.registers[id][address : address + len(data)] = data

    def _reply(self, id: int, data: bytes) -> bytes:
        if id not in self.registers or id in self.silent:
            return b""
        body = bytes((id, len(data) + 2, self.status[id])) + data
        checksum = ~sum(body) & 0xFF ^ (0x55 if id in self.corrupt else 0)
        return b"\xff\xff" + body + bytes((checksum,))
