"""The simulated serial bus: bytes from the port, through the servos, back in the wire's time."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from vlad.sim.feetech_slave import BYTE_NS, FeetechSlave, Parser, Reply
from vlad.sim.line_faults import LineFaults
from vlad.sim.pty_port import Link, PtyPort
from vlad.sim.recording import Recording

_MAX_WAITING = 64


class Bus:
    """Serves one port. Belongs to one thread; never blocks.

    Each byte of the request and of the replies takes 10 us, plus each servo's return delay. The
    replies to one request are written together when the last byte of the last one would be in, as a
    USB adapter hands them over; lateness beyond that is kept in us.
    """

    __slots__ = (
        "_clock",
        "_faults",
        "_parser",
        "_port",
        "_recording",
        "_slave",
        "_waiting",
        "_wire_free_ns",
        "counters",
        "late_us",
    )

    def __init__(
        self,
        port: PtyPort,
        slave: FeetechSlave,
        faults: LineFaults,
        recording: Recording | None,
        clock: Callable[[], int],
    ) -> None:
        self._port = port
        self._slave = slave
        self._faults = faults
        self._recording = recording
        self._clock = clock
        self._parser = Parser()
        self._waiting: deque[tuple[int, list[bytes]]] = deque()
        self._wire_free_ns = 0
        self.counters: Counter[str] = Counter()
        self.late_us: deque[int] = deque(maxlen=1024)

    def due_ns(self) -> int | None:
        """When the next answer is to be written; None when none waits."""
        return self._waiting[0][0] if self._waiting else None

    def receive(self) -> None:
        """Read what the host sent and execute it."""
        was = self._port.link
        data = self._port.read()
        if self._port.link is not was:
            self._link_changed()
        if not data:
            return
        now_ns = self._clock()
        for instruction in self._parser.feed(data, now_ns):
            if self._recording is not None:
                self._recording.tx(now_ns, instruction)
            sent_ns = max(now_ns, self._wire_free_ns) + len(instruction.raw) * BYTE_NS
            self._wire_free_ns = sent_ns
            self._answer(self._slave.execute(instruction), sent_ns)

    def _answer(self, replies: list[Reply], sent_ns: int) -> None:
        if not replies:
            return
        self._wire_free_ns = sent_ns + replies[-1].after_ns
        if len(self._waiting) >= _MAX_WAITING:
            self.counters["replies_lost"] += len(replies)
            return
        through = [self._faults.on_reply(reply.servo_id, reply.raw) for reply in replies]
        raws = [raw for raw in through if raw is not None]
        if raws:
            self._waiting.append((self._wire_free_ns + self._faults.delay_ns, raws))

    def send_due(self) -> None:
        """Write the answers whose time has come."""
        garbage = self._faults.take_garbage()
        if garbage:
            self._write(self._clock(), garbage)
        while self._waiting and self._waiting[0][0] <= (now_ns := self._clock()):
            due_ns, raws = self._waiting.popleft()
            self.late_us.append((now_ns - due_ns) // 1000)
            self.counters["replies"] += len(raws)
            for raw in raws:
                self._write(now_ns, raw)

    def _write(self, now_ns: int, raw: bytes) -> None:
        self._port.write(raw)
        if self._recording is not None:
            self._recording.rx(now_ns, raw)

    def _link_changed(self) -> None:
        if self._port.link is Link.OPEN:
            self.counters["connects"] += 1
        self._waiting.clear()
        self._parser.reset()

    def report(self) -> dict[str, int]:
        """All counters of the line; lateness over the last 1024 answers."""
        late = sorted(self.late_us)
        return {
            **self.counters,
            **self._slave.counters,
            **self._faults.counters,
            "bad_checksums": self._parser.bad_checksums,
            "skipped_bytes": self._parser.skipped_bytes,
            "lost_bytes": self._port.lost_bytes,
            "lost_lines": self._recording.lost_lines if self._recording else 0,
            "reply_late_us_p50": late[len(late) // 2] if late else 0,
            "reply_late_us_p99": late[len(late) * 99 // 100] if late else 0,
            "reply_late_us_max": late[-1] if late else 0,
        }
