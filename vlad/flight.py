"""The flight record: the newest seconds of everything, in bounded memory, written to a file on a fault.

The servo loop and the expert write their own rings (csrc/flight.h). This thread adds thumbnails, the
scheduler's figures and what happened, and writes files: nothing that decides ever waits for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import structlog

from vlad._native.flight import NOTE, PICTURE, Recorder
from vlad.camera import Frame
from vlad.config_keys import FlightKeys
from vlad.errors import Refused
from vlad.flight_directory import FlightDirectory
from vlad.flight_fields import FlightError
from vlad.flight_file import About, picture
from vlad.flight_memory import FlightMemory, Unreadable, recover, sizes_for
from vlad.flight_schemas import stamp
from vlad.servo import Servo, now_ns

S = 1_000_000_000
AFTER_NS = 2 * S  # a fault's file goes on so long past it
APART_NS = 10 * S  # between two files that faults ask for; less than the seconds that are kept
STATE_EVERY_NS = 2 * S
POLL_S = 0.1
FIGURES_NS = S // 2
THUMBNAIL_PIXELS = 160  # the longer side
NICE = 10
DUMP_TIMEOUT_S = 4.0
HALTING = frozenset(("hold", "park", "limp"))
LEVELS = {"warning": 3, "error": 4}


@dataclass(slots=True)
class _Wish:
    """A file that somebody wants, not before due_ns."""

    reason: str
    due_ns: int
    done: threading.Event = field(default_factory=threading.Event)
    path: Path | None = None
    error: str = ""


class FlightRecorder:
    """One per daemon; attaches itself to `servo`, which must not have run yet.

    memory: path of the file that survives a crash. frames: the newest frame of every camera.
    figures: what /vlad/scheduler is to show; its `reaction` ends an episode too. Nothing is recorded without
    `config.enabled`.
    """

    def __init__(
        self,
        config: FlightKeys,
        servo: Servo,
        about: About,
        *,
        memory: Path | None,
        period_ns: int,
        frames: Callable[[], Mapping[str, Frame | None]],
        figures: Callable[[], dict[str, Any]],
    ) -> None:
        self.enabled = config.enabled
        self._config = config
        self._frames = frames
        self._figures = figures
        self._about = about
        self._directory = FlightDirectory(Path(config.directory), config.max_files, config.max_mb << 20)
        self._log = structlog.get_logger("vlad.flight")
        self._counts = {"written": 0, "failed": 0, "postponed": 0, "same_episode": 0, "recovered": 0,
                        "kept": 0, "replaced": 0, "notes_refused": 0, "pictures_failed": 0}  # fmt: skip
        self._error = ""
        self._lock = threading.Lock()  # the ring of notes has one writer at a time; the wishes
        self._wishes: list[_Wish] = []
        self._halting: set[int] = set()
        self._last_ns = 0  # of the last file that a fault asked for
        self._seen: dict[str, int] = {}
        self._next_picture_ns = self._next_figures_ns = 0
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vlad-flight", daemon=True)
        self._left: Path | None = None
        self.directories: list[str] = []  # that can be written to: for whoever watches them
        if not self.enabled:
            return
        self._error = self._directory.problem()
        if not self._error:
            self.directories = [str(self._directory.path)]
        if memory is not None:
            self._left = self._set_aside(memory)
        about = msgspec.structs.replace(about, state_every_ns=STATE_EVERY_NS)
        self._memory = FlightMemory(memory, sizes_for(config.seconds, period_ns, STATE_EVERY_NS), about)
        self._recorder = Recorder(servo, self._memory.loop, self._memory.producer, STATE_EVERY_NS)

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the thread. It first writes what a process that was killed left behind."""
        if not self.enabled:
            return
        if self._memory.problem:
            self._log.warning("flight_memory", reason=self._memory.problem)
        if self._error:
            self._log.warning("flight_directory", reason=self._error)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Writes what is still wanted, for at most so long; after the servo loop has stopped."""
        if not self.enabled:
            return
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._memory.close()

    def _run(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        if self._left is not None:
            self._recover(self._left)
        while not self._stop.is_set():
            self._wake.wait(POLL_S)
            self._wake.clear()
            try:
                self._sample(now_ns())
            except Exception:
                self._counts["pictures_failed"] += 1
                self._log.exception("flight_sample")
            self._serve(now_ns())
        self._serve(None)

    # --- what is recorded -----------------------------------------------------------------------

    def event(self, event: Mapping[str, Any]) -> None:
        """An event as vlad.events has it; a fault that holds the arm asks for a file. Any thread."""
        if not self.enabled:
            return
        t_ns = int(event["t_ns"])
        self._note("/vlad/event", t_ns, dict(event))
        serious = event["event"] in ("fault", "wire") or event.get("verdict") == "rejected"
        text = " ".join(f"{k}={v}" for k, v in event.items() if k not in ("t_ns", "event"))
        self._note("/log", t_ns, {
            "timestamp": stamp(t_ns), "level": LEVELS["warning"] if serious else 2, "message": text,
            "name": str(event["event"]), "file": "", "line": 0,
        })  # fmt: skip
        if event["event"] == "fault":
            self._fault(event, t_ns)

    def _fault(self, event: Mapping[str, Any], t_ns: int) -> None:
        fault = int(event["id"])
        with self._lock:
            before = bool(self._halting)
            if event["reaction"] in HALTING and (event["active"] or event["latched"]):
                if fault in self._halting:
                    return
                self._halting.add(fault)
            else:
                self._halting.discard(fault)
                return
            if before:
                self._counts["same_episode"] += 1
                return
            due_ns = max(t_ns + AFTER_NS, self._last_ns + APART_NS)
            self._counts["postponed"] += due_ns > t_ns + AFTER_NS
            self._last_ns = due_ns
            self._wishes.append(_Wish(str(event["name"]), due_ns))

    def _note(self, topic: str, t_ns: int, message: Mapping[str, Any]) -> None:
        body = msgspec.json.encode({"topic": topic, "message": message}, enc_hook=str)
        with self._lock:
            if not self._memory.notes.add(NOTE, t_ns, body):
                self._counts["notes_refused"] += 1

    def _sample(self, now: int) -> None:
        if now >= self._next_picture_ns and self._config.thumbnail_hz > 0:
            self._next_picture_ns = now + int(S / self._config.thumbnail_hz)
            frames = {n: f for n, f in self._frames().items() if f is not None}
            for name, frame in frames.items():
                if self._seen.get(name) != frame.seq:
                    self._seen[name] = frame.seq
                    body = picture(name, frame.seq, thumbnail(frame))
                    with self._lock:
                        self._memory.notes.add(PICTURE, frame.t_capture_ns, body)
            if frames:
                self._note("/vlad/observation", now, {"frames": {
                    n: {"seq": f.seq, "t_capture_ns": f.t_capture_ns} for n, f in frames.items()}})  # fmt: skip
        if now >= self._next_figures_ns:
            self._next_figures_ns = now + FIGURES_NS
            figures = self._figures()
            self._note("/vlad/scheduler", now, figures)
            if figures.get("reaction", "hold") not in HALTING:
                with self._lock:  # also where an event of it was lost
                    self._halting.clear()

    # --- files ----------------------------------------------------------------------------------

    def dump(self, reason: str, timeout_s: float = DUMP_TIMEOUT_S) -> Path:
        """A file now. Refused, with the reason in words, when it could not be written in time."""
        if not self.enabled:
            raise Refused("flight.enabled is off: nothing is recorded")
        wish = _Wish(reason, 0)
        with self._lock:
            if any(w.due_ns == 0 for w in self._wishes):
                raise Refused("a flight record is being written already")
            self._wishes.append(wish)
        self._wake.set()
        if not wish.done.wait(timeout_s):
            raise Refused(f"the flight record is not written after {timeout_s:g} s: a slow disk?")
        if wish.path is None:
            raise Refused(f"no flight record: {wish.error}")
        return wish.path

    def _serve(self, now: int | None) -> None:
        """Writes the files that are due; all of them when `now` is None."""
        while True:
            with self._lock:
                due = [w for w in self._wishes if now is None or w.due_ns <= now]
            if not due:
                return
            wish = due[0]
            wish.path, wish.error = self._write(wish.reason)
            with self._lock:
                self._wishes.remove(wish)
            wish.done.set()

    def _write(self, reason: str) -> tuple[Path | None, str]:
        written_ns = now_ns()
        first_ns = written_ns - int(self._config.seconds * S)
        about = msgspec.structs.replace(self._about, reason=reason, written_ns=written_ns,
                                        state_every_ns=STATE_EVERY_NS)  # fmt: skip
        try:
            records = [r for r in self._memory.records() if r.t_ns >= first_ns]
            path = self._directory.write(reason, about, records)
        except Exception as error:  # whatever it is: the daemon stops when this thread dies
            self._counts["failed"] += 1
            self._error = f"{self._directory.path}: {_why(error)}"
            self._log.error("flight_not_written", reason=reason, error=self._error)
            return None, self._error
        self._counts["written"] += 1
        self._error = ""
        self._log.info("flight_written", reason=reason, path=str(path))
        return path, ""

    # --- after a crash --------------------------------------------------------------------------

    def _set_aside(self, memory: Path) -> Path | None:
        """The memory of a process that has died, moved out of the way of this one's."""
        aside = memory.with_name(memory.name + ".crashed")
        try:
            if recover(memory) is None:
                return aside if aside.exists() else None
        except Unreadable:
            pass  # kept as it is
        except FlightError as error:
            self._log.warning("flight_crash", reason=str(error))
            return aside if aside.exists() else None
        try:
            replaced = aside.exists()
            os.replace(memory, aside)
        except OSError as error:
            self._log.warning("flight_crash", reason=f"{memory}: {error.strerror}")
            return None
        if replaced:
            self._counts["replaced"] += 1
            self._log.error("flight_crash_replaced", path=str(aside),
                            advice="it was never written: look at flight.directory")
        return aside

    def _recover(self, left: Path) -> None:
        try:
            try:
                found = recover(left)
                if found is None:
                    return
            except Unreadable as error:
                path = self._directory.keep(left, "crash")
                self._counts["kept"] += 1
                self._log.error("flight_kept", path=str(path), reason=str(error))
            else:
                about = msgspec.structs.replace(found[0], reason="crash", written_ns=now_ns())
                path = self._directory.write("crash", about, found[1])
                self._counts["recovered"] += 1
                self._log.warning("flight_recovered", path=str(path))
            os.unlink(left)
        except Exception as error:  # likewise; systemd would start it again, to the same end
            self._counts["failed"] += 1
            self._error = f"after a crash: {left}: {_why(error)}"
            self._log.error("flight_not_recovered", path=str(left), error=_why(error))

    def status(self) -> dict[str, Any]:
        """Counters, the newest error, and how full the rings are."""
        if not self.enabled:
            return {"enabled": False}
        rings = {"loop": self._memory.loop, "producer": self._memory.producer, "notes": self._memory.notes}
        return {
            "enabled": True, "survives_crash": self._memory.survives, "locked": self._recorder.locked,
            "error": self._error,
            **self._counts, "removed": self._directory.removed,
            "fill": {n: r.counters["bytes"] / r.counters["capacity"] for n, r in rings.items()},
            "refused": sum(r.counters["refused"] for r in rings.values()),
        }  # fmt: skip


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if isinstance(error, (ValueError, FlightError, ImportError)) else repr(error)


def thumbnail(frame: Frame) -> bytes:
    """A JPEG of at most 160 pixels on the longer side."""
    import simplejpeg

    step = -(-max(frame.image.shape[:2]) // THUMBNAIL_PIXELS)
    small = frame.image[::step, ::step].copy(order="C")
    return bytes(simplejpeg.encode_jpeg(small, quality=60, colorspace="RGB"))
