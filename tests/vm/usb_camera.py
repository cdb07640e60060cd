"""A USB video camera in Python: UVC 1.0 over USB/IP, for the kernel's own uvcvideo driver.

The kernel's virtual host controller (vhci_hcd) is handed one end of a socket pair; this answers on
the other. One video streaming interface with a bulk endpoint, MJPEG and YUY2, 320x240 at 30 fps.
Sources: USB/IP protocol (Linux Documentation/usb/usbip_protocol.rst), USB 2.0 chapter 9, UVC 1.0.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

WIDTH, HEIGHT, FPS = 320, 240, 30
MJPEG, YUY2 = 1, 2  # bFormatIndex
MAX_PAYLOAD = 16384
YUY2_BYTES = WIDTH * HEIGHT * 2
INTERVAL = 10_000_000 // FPS  # of 100 ns
HIGH_SPEED = 3
SUBMIT, UNLINK, RET_SUBMIT, RET_UNLINK = 1, 2, 3, 4
STALL, UNLINKED = -32, -104  # -EPIPE, -ECONNRESET
HEADER = struct.Struct(">5I")
VHCI = Path("/sys/devices/platform/vhci_hcd.0")


def configuration() -> bytes:
    """The configuration descriptor with all that belongs to it."""
    frame = struct.pack(
        "<BBHHIIIIBI", 1, 0, WIDTH, HEIGHT, YUY2_BYTES * 8 * FPS, YUY2_BYTES * 8 * FPS,
        YUY2_BYTES, INTERVAL, 1, INTERVAL,
    )  # fmt: skip
    yuy2_guid = b"YUY2\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"
    formats = bytes([11, 0x24, 6, MJPEG, 1, 1, 1, 0, 0, 0, 0])
    formats += bytes([2 + 1 + len(frame), 0x24, 7]) + frame
    formats += bytes([27, 0x24, 4, YUY2, 1]) + yuy2_guid + bytes([16, 1, 0, 0, 0, 0])
    formats += bytes([2 + 1 + len(frame), 0x24, 5]) + frame
    colour = bytes([6, 0x24, 13, 1, 1, 4])
    control = struct.pack("<BBBHHIBB", 13, 0x24, 1, 0x0100, 13 + 18 + 9, 48_000_000, 1, 1)
    control += struct.pack("<BBBBHBBHHHB3B", 18, 0x24, 2, 1, 0x0201, 0, 0, 0, 0, 0, 3, 0, 0, 0)
    control += struct.pack("<BBBBHBBB", 9, 0x24, 3, 3, 0x0101, 0, 1, 0)
    size = 14 + 1 + len(formats) + len(colour) - 1
    streaming = struct.pack("<BBBBHBBBBBBBB", 15, 0x24, 1, 2, size + 1, 0x81, 0, 3, 0, 0, 0, 1, 0)
    streaming += bytes(1) + formats + colour
    body = bytes([8, 11, 0, 2, 0x0E, 3, 0, 0])  # both interfaces are one function
    body += bytes([9, 4, 0, 0, 0, 0x0E, 1, 0, 0]) + control
    body += bytes([9, 4, 1, 0, 1, 0x0E, 2, 0, 0]) + streaming
    body += struct.pack("<BBBBHB", 7, 5, 0x81, 2, 512, 0)
    return struct.pack("<BBHBBBBB", 9, 2, 9 + len(body), 2, 1, 0, 0x80, 50) + body


def descriptor(kind: int, index: int) -> bytes | None:
    if kind == 1:
        return struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x0200, 0xEF, 2, 1, 64, 0x1D6B, 0x0102, 0x0100, 1, 2, 3, 1)
    if kind == 2:
        return configuration()
    if kind == 3:
        if index == 0:
            return bytes([4, 3, 9, 4])
        text = ("", "vlad", "Test Camera", "CAM0001")[index].encode("utf-16-le")
        return bytes([2 + len(text), 3]) + text
    return None


@dataclass
class UsbCamera:
    """picture: bytes of frame n in the format index that the driver committed.
    hold: no frames. spoil: frames carry the error bit. cut: frames end half-way."""

    picture: Callable[[int, int], bytes]
    port: int = 0
    hold: bool = False
    spoil: bool = False
    cut: bool = False
    format_index: int = MJPEG
    sent: int = 0
    _pending: deque[tuple[int, int]] = field(default_factory=deque)  # seqnum, length
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _streaming: bool = False
    _probe: bytes = bytes(26)
    _line: socket.socket | None = None

    def plug(self) -> None:
        ours, theirs = socket.socketpair()
        self._line = ours
        self._pending.clear()
        self._streaming = False
        threading.Thread(target=self._answer, args=(ours,), daemon=True).start()
        threading.Thread(target=self._stream, args=(ours,), daemon=True).start()
        text = f"{self.port} {theirs.fileno()} {0x10002 + self.port} {HIGH_SPEED}"
        (VHCI / "attach").write_text(text)
        theirs.close()

    def unplug(self) -> None:
        (VHCI / "detach").write_text(str(self.port))

    # ---- answering the host ----

    def _answer(self, line: socket.socket) -> None:
        try:
            while True:
                command, seqnum, _, direction, endpoint = HEADER.unpack(receive(line, 20))
                rest = receive(line, 28)
                if command == UNLINK:
                    self._unlink(line, seqnum, struct.unpack_from(">I", rest)[0])
                    continue
                length = struct.unpack_from(">i", rest, 4)[0]
                data = receive(line, length) if direction == 0 else b""
                if endpoint == 0:
                    self._control(line, seqnum, rest[20:28], data)
                else:
                    with self._lock:
                        self._pending.append((seqnum, length))
        except (ConnectionError, OSError):
            with self._lock:
                self._line = None

    def _unlink(self, line: socket.socket, seqnum: int, victim: int) -> None:
        with self._lock:
            found = [p for p in self._pending if p[0] == victim]
            for p in found:
                self._pending.remove(p)
            # All writing is under the lock: a message that another cuts in two ends the device.
            status = UNLINKED if found else 0
            body = struct.pack(">i", status) + bytes(24)
            line.sendall(HEADER.pack(RET_UNLINK, seqnum, 0, 0, 0) + body)

    def _control(self, line: socket.socket, seqnum: int, setup: bytes, data: bytes) -> None:
        kind, request, value, _, length = struct.unpack("<BBHHH", setup)
        answer: bytes | None = b""
        if (kind, request) == (0x80, 6):
            answer = descriptor(value >> 8, value & 255)
        elif kind in (0x80, 0x81, 0x82):
            answer = bytes(length)
        elif (kind, request) == (0x02, 1):
            self._streaming = False  # the halt that uvcvideo clears when it stops a bulk stream
        elif kind == 0x21 and request == 1:
            self._set(value >> 8, data)
        elif kind == 0xA1:
            answer = self._get(request)
        status = 0
        if answer is None:
            status, answer = STALL, b""
        actual = len(data) if kind < 0x80 else len(answer[:length])
        with self._lock:
            reply(line, seqnum, status, answer[:length] if kind >= 0x80 else b"", actual)

    def _get(self, request: int) -> bytes | None:
        if request == 0x85:
            return struct.pack("<H", 26)
        if request == 0x86:
            return bytes([3])
        format_index = self._probe[2] or MJPEG
        return struct.pack("<HBBIHHHHHII", 1, format_index, 1, INTERVAL, 0, 0, 0, 0, 0, YUY2_BYTES, MAX_PAYLOAD)

    def _set(self, selector: int, data: bytes) -> None:
        self._probe = data
        if selector == 2:
            self.format_index = data[2]
            self._streaming = True

    # ---- streaming ----

    def _stream(self, line: socket.socket) -> None:
        number, toggle, due = 0, 0, time.monotonic()
        while self._line is line:
            due += 1 / FPS
            time.sleep(max(0.0, due - time.monotonic()))
            if not self._streaming or self.hold:
                continue
            number += 1
            toggle ^= 1
            picture = self.picture(number, self.format_index)
            error = 0x40 if self.spoil else 0
            if self.cut:
                picture = picture[: len(picture) // 2]
            room = MAX_PAYLOAD - 2
            parts = [picture[i : i + room] for i in range(0, len(picture), room)]
            try:
                for i, part in enumerate(parts):
                    end = 2 if i == len(parts) - 1 else 0
                    if not self._send(line, bytes([2, 0x80 | error | end | toggle]) + part):
                        break
                else:
                    self.sent += 1
            except (ConnectionError, OSError):
                return

    def _send(self, line: socket.socket, payload: bytes) -> bool:
        """Answers the oldest waiting transfer; False when the host asks for none any more."""
        for _ in range(500):
            with self._lock:
                if self._pending:
                    seqnum, length = self._pending.popleft()
                    assert len(payload) <= length
                    reply(line, seqnum, 0, payload, len(payload))
                    return True
            if self._line is not line or not self._streaming:
                return False
            time.sleep(0.001)
        return False


def receive(line: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        part = line.recv(n - len(data))
        if not part:
            raise ConnectionError
        data += part
    return data


def reply(line: socket.socket, seqnum: int, status: int, data: bytes, actual: int) -> None:
    body = struct.pack(">iiiii", status, actual, 0, 0, 0) + bytes(8)
    line.sendall(HEADER.pack(RET_SUBMIT, seqnum, 0, 0, 0) + body + data)
