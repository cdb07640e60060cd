"""A machine whose PID 1 is systemd, with vlad installed from its wheel: in namespaces of this kernel (4 s,
no devices of its own), or emulated by QEMU with Debian's kernel and a disk (15 s).

The arm is `vlad sim` on the host in both: whatever happens to the machine, the simulated servos live on
and their bus is recorded.
"""

from __future__ import annotations

import base64
import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.simulator import Simulator

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build/systemd"
KERNEL = HERE.parents[1] / "build/vm/vmlinux"
BOOT_S = 180.0
DIALOUT = 20  # Debian's gid of it, a static one


class Failed(AssertionError):
    """A command in the machine ended with another status than 0, or did not end."""


class Machine:
    """A booted machine. kind: "namespaces" or "emulated"; slow: how much longer than here things may take."""

    kind = ""
    slow = 1.0

    def __init__(self, process: subprocess.Popen[bytes], console: Path) -> None:
        self.process = process
        self.console = console
        self._pending = b""

    def _write(self, data: bytes) -> None: ...

    def _read(self) -> bytes:
        """Some bytes; b"" when there are none within 0.2 s."""
        raise NotImplementedError

    def _line(self, seconds: float, what: str) -> bytes:
        end = time.monotonic() + seconds
        while b"\n" not in self._pending:
            if self.process.poll() is not None:
                raise Failed(f"the machine ended while {what}:\n{self.tail()}")
            if time.monotonic() > end:
                raise Failed(f"no end within {seconds:g} s: {what}\n{self.tail()}")
            self._pending += self._read()
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def tail(self) -> str:
        return self.console.read_text("utf-8", "replace")[-3000:]

    def booted(self) -> None:
        """Waits for the agent."""
        while self._line(BOOT_S, "booting") != b"ready":
            pass

    def run(self, command: str, seconds: float = 30.0) -> str:
        """What a shell command says, both streams. Raises Failed unless it ends with 0."""
        status, said = self.attempt(command, seconds)
        if status:
            raise Failed(f"{command}: status {status}\n{said}")
        return said

    def attempt(self, command: str, seconds: float = 30.0) -> tuple[int, str]:
        """Exit status and output."""
        self._write(base64.b64encode(command.encode()) + b"\n")
        status, _, said = self._line(seconds * self.slow, command).partition(b" ")
        return int(status), base64.b64decode(said).decode("utf-8", "replace").rstrip("\n")

    def wait(self, command: str, seconds: float = 30.0) -> str:
        """Until it ends with 0; what it then says."""
        end = time.monotonic() + seconds * self.slow
        while True:
            status, said = self.attempt(command)
            if status == 0:
                return said
            if time.monotonic() > end:
                raise Failed(f"not within {seconds * self.slow:g} s: {command}\n{said}\n"
                             f"{self.attempt('systemctl status vlad; journalctl -b -n 40 -o cat')[1]}")
            time.sleep(0.1 * self.slow)

    def cut(self) -> None:
        """The power goes."""
        self.process.kill()
        self.process.wait()


class Namespaces(Machine):
    kind = "namespaces"

    def __init__(self, process: subprocess.Popen[bytes], console: Path, exchange: Path) -> None:
        super().__init__(process, console)
        # Both ends opened for reading and writing: no open waits, and no end of file is seen.
        self._in = os.open(exchange / "agent.in", os.O_RDWR | os.O_CLOEXEC)
        self._out = os.open(exchange / "agent.out", os.O_RDWR | os.O_CLOEXEC)

    def _write(self, data: bytes) -> None:
        os.write(self._in, data)

    def _read(self) -> bytes:
        ready, _, _ = select.select([self._out], [], [], 0.2)
        return os.read(self._out, 65536) if ready else b""


class Emulated(Machine):
    kind = "emulated"
    slow = 6.0

    def __init__(self, process: subprocess.Popen[bytes], console: Path, agent: socket.socket) -> None:
        super().__init__(process, console)
        self._agent = agent

    def _write(self, data: bytes) -> None:
        self._agent.sendall(data)

    def _read(self) -> bytes:
        with contextlib.suppress(TimeoutError):
            return self._agent.recv(65536)
        return b""


@contextlib.contextmanager
def namespaces(directory: Path, simulator: Simulator) -> Iterator[Machine]:
    exchange = directory / "exchange"
    exchange.mkdir(parents=True)
    for name in ("agent.in", "agent.out"):
        os.mkfifo(exchange / name)
    pty = os.path.realpath(simulator.bus)
    os.chown(pty, -1, DIALOUT)
    os.chmod(pty, 0o660)
    console = directory / "console"
    with console.open("wb") as log:
        process = subprocess.Popen(
            [str(HERE / "namespaces.sh"), str(exchange), pty],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        machine = Namespaces(process, console, exchange)
        machine.booted()
        yield machine
    finally:
        process.kill()
        process.wait()
        _remove_cgroup(process.pid)


def _remove_cgroup(pid: int) -> None:
    for hierarchy in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        top = hierarchy / f"vlad-test.{pid}"
        end = time.monotonic() + 10
        while top.exists() and time.monotonic() < end:  # its last processes are still dying
            for directory in sorted(top.rglob("*/"), reverse=True):
                with contextlib.suppress(OSError):
                    directory.rmdir()
            with contextlib.suppress(OSError):
                top.rmdir()
            time.sleep(0.05)


def disk(directory: Path) -> Path:
    """A disk of its own over build/systemd/root.img."""
    image = directory / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(BUILD / "root.img"), str(image)],
                   check=True)
    return image


@contextlib.contextmanager
def emulated(directory: Path, simulator: Simulator, image: Path) -> Iterator[Machine]:
    """image: from disk(); keeps what the machine writes. The bus is a USB adapter (FTDI) with the serial
    number ARM0001."""
    console, agent_path = directory / "console", directory / "agent"
    agent_path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, console.open("ab") as log:
        listener.bind(str(agent_path))
        listener.listen(1)
        process = subprocess.Popen(
            ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536M",
             "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio", "-rtc", "base=utc",
             "-kernel", str(KERNEL), "-initrd", str(BUILD / "initramfs.cpio"),
             "-append", "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable systemd.show_status=0",
             "-drive", f"file={image},format=qcow2,if=virtio,cache=writeback",
             "-device", "qemu-xhci",
             "-chardev", f"serial,id=bus,path={simulator.bus}", "-device", "usb-serial,chardev=bus,serial=ARM0001",
             "-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,path={agent_path}",
             "-device", "virtserialport,chardev=agent,name=vlad.test"],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            listener.settimeout(20)
            agent, _ = listener.accept()
            with agent:
                agent.settimeout(0.2)
                machine = Emulated(process, console, agent)
                machine.booted()
                yield machine
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait()
