"""The servo side of Feetech's protocol 0: instruction packets in, status packets out.

A packet is FF FF id length instruction parameters... checksum, where length counts what follows it
and the checksum is the complement of the sum of everything after FF FF. No file descriptor and no
clock: the bus supplies both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vlad.sim.registers import GOAL_POSITION
from vlad.sim.servo import Servo

BROADCAST = 0xFE
PING = 0x01
READ = 0x02
WRITE = 0x03
REG_WRITE = 0x04
ACTION = 0x05
SYNC_READ = 0x82
SYNC_WRITE = 0x83

BYTE_NS = 10_000  # 10 bits at 1 Mbaud
MAX_LENGTH = 250
MAX_READ = 128
# A servo gives up a packet whose bytes stop coming; a USB adapter may pause for a few milliseconds.
IDLE_GAP_NS = 10_000_000


def checksum(body: Iterable[int]) -> int:
    """The checksum of what lies between FF FF and it."""
    return ~sum(body) & 0xFF


def packet(servo_id: int, code: int, parameters: bytes = b"") -> bytes:
    """An instruction packet (`code` = instruction) or a status packet (`code` = status byte)."""
    body = bytes((servo_id, len(parameters) + 2, code)) + parameters
    return b"\xff\xff" + body + bytes((checksum(body),))


@dataclass(frozen=True, slots=True)
class Instruction:
    """A packet whose checksum held. `raw` is the whole of it."""

    servo_id: int
    code: int
    parameters: bytes
    raw: bytes

    def goals(self) -> dict[int, int]:
        """Goal_Position by servo id, ticks, of a write that covers that register; else empty."""
        if self.code in (WRITE, REG_WRITE) and self.parameters:
            blocks = [(self.servo_id, self.parameters[1:])]
        elif self.code == SYNC_WRITE:
            blocks = list(sync_write_blocks(self.parameters))
        else:
            return {}
        at = GOAL_POSITION - self.parameters[0] if self.parameters else -1
        return {
            servo_id: _signed(data[at] | data[at + 1] << 8)
            for servo_id, data in blocks
            if at >= 0 and len(data) >= at + 2
        }


def _signed(raw: int) -> int:
    return -(raw & 0x7FFF) if raw & 0x8000 else raw


def sync_write_blocks(parameters: bytes) -> Iterator[tuple[int, bytes]]:
    """The (id, data) pairs of a sync write; a short last pair is left out."""
    if len(parameters) < 2:
        return
    stride = parameters[1] + 1
    for at in range(2, len(parameters) - stride + 1, stride):
        yield parameters[at], parameters[at + 1 : at + stride]


class Parser:
    """Finds packets in a byte stream; whatever else is in it is counted and skipped.

    A false header costs one byte and a new search, and a pause in the middle of a packet ends it:
    a valid packet after a pause is always found. Holds at most one packet's bytes.
    """

    __slots__ = ("_buffer", "_last_ns", "bad_checksums", "skipped_bytes")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._last_ns = 0
        self.skipped_bytes = 0
        self.bad_checksums = 0

    def reset(self) -> None:
        """Forget a packet in progress, as when the host went away."""
        self.skipped_bytes += len(self._buffer)
        self._buffer.clear()

    def feed(self, data: bytes, now_ns: int) -> list[Instruction]:
        """Take what arrived at now_ns; return the packets that are complete, in order."""
        buffer = self._buffer
        if buffer and now_ns - self._last_ns > IDLE_GAP_NS:
            self.reset()
        self._last_ns = now_ns
        buffer += data
        found: list[Instruction] = []
        while (start := buffer.find(b"\xff\xff")) >= 0:
            if start:
                self._skip(start)
            if len(buffer) < 4:
                return found
            length = buffer[3]
            if buffer[2] == 0xFF or not 2 <= length <= MAX_LENGTH:
                self._skip(1)
                continue
            end = 4 + length
            if len(buffer) < end:
                return found
            if buffer[end - 1] != checksum(buffer[2 : end - 1]):
                self.bad_checksums += 1
                self._skip(1)
                continue
            raw = bytes(buffer[:end])
            found.append(Instruction(raw[2], raw[4], raw[5 : end - 1], raw))
            del buffer[:end]
        self._skip(len(buffer) - (1 if buffer.endswith(b"\xff") else 0))
        return found

    def _skip(self, count: int) -> None:
        self.skipped_bytes += count
        del self._buffer[:count]


@dataclass(frozen=True, slots=True)
class Reply:
    """A status packet and when its last byte is on the wire, ns after the instruction's last."""

    servo_id: int
    after_ns: int
    raw: bytes


class FeetechSlave:
    """All servos of one bus: executes instructions, answers in id order, one after the other."""

    __slots__ = ("_pending", "_servos", "counters")

    def __init__(self, servos: list[Servo]) -> None:
        self._servos = servos
        self._pending: dict[int, tuple[int, bytes]] = {}
        self.counters: Counter[str] = Counter()

    def execute(self, instruction: Instruction) -> list[Reply]:
        """Carry out one packet.

        Returns:
            The status packets, in wire order; none for a broadcast write, an unknown instruction or
            id, or malformed parameters (counted in `counters`).
        """
        code, parameters = instruction.code, instruction.parameters
        self.counters["instructions"] += 1
        if code == SYNC_READ:
            return self._sync_read(parameters)
        if code == SYNC_WRITE:
            return self._sync_write(parameters)
        if code not in (PING, READ, WRITE, REG_WRITE, ACTION):
            self.counters["unknown_instructions"] += 1
            return []
        broadcast = instruction.servo_id == BROADCAST
        replies: list[Reply] = []
        after_ns = 0
        for servo in self._addressed(instruction.servo_id):
            data = self._single(servo, code, parameters)
            wanted = code == PING or (not broadcast and (code == READ or servo.answers_writes))
            if data is not None and wanted:
                after_ns = self._reply(replies, servo, data, after_ns)
        return replies

    def forget_pending(self) -> None:
        """Drop what REG_WRITE left for ACTION, as a power cut does."""
        self._pending.clear()

    def _addressed(self, servo_id: int) -> list[Servo]:
        return [s for s in self._servos if s.powered and servo_id in (BROADCAST, s.id)]

    def _single(self, servo: Servo, code: int, parameters: bytes) -> bytes | None:
        """Data of the reply; None when the parameters make no sense."""
        if code == PING:
            return b""
        if code == READ and len(parameters) == 2 and parameters[1] <= MAX_READ:
            return servo.read(parameters[0], parameters[1])
        if code == WRITE and len(parameters) >= 2:
            servo.write(parameters[0], parameters[1:])
            return b""
        if code == REG_WRITE and len(parameters) >= 2:
            self._pending[servo.id] = (parameters[0], parameters[1:])
            return b""
        if code == ACTION:
            held = self._pending.pop(servo.id, None)
            if held is not None:
                servo.write(*held)
            return b""
        self.counters["bad_parameters"] += 1
        return None

    def _sync_read(self, parameters: bytes) -> list[Reply]:
        if len(parameters) < 3 or parameters[1] > MAX_READ:
            self.counters["bad_parameters"] += 1
            return []
        replies: list[Reply] = []
        after_ns = 0
        for servo_id in parameters[2:]:
            for servo in self._addressed(servo_id):
                data = servo.read(parameters[0], parameters[1])
                after_ns = self._reply(replies, servo, data, after_ns)
        return replies

    def _sync_write(self, parameters: bytes) -> list[Reply]:
        if len(parameters) < 2 or (len(parameters) - 2) % (parameters[1] + 1):
            self.counters["bad_parameters"] += 1
            return []
        for servo_id, data in sync_write_blocks(parameters):
            for servo in self._addressed(servo_id):
                servo.write(parameters[0], data)
        return []

    def _reply(self, replies: list[Reply], servo: Servo, data: bytes, after_ns: int) -> int:
        raw = packet(servo.id, servo.status, data)
        after_ns += servo.return_delay_ns + len(raw) * BYTE_NS
        replies.append(Reply(servo.id, after_ns, raw))
        return after_ns
