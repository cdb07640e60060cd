"""The control socket's verbs: what a request may hold, who may make it, and the reply.

The socket itself, and `hold`, `stop` and `limp`, belong to a native thread (vlad._native.control),
so nothing here can delay a stop. Reads are answered by one thread and verbs that change something
by another, one after the other, so `status` answers while a bundle loads. docs/protocol.md is the
protocol.
"""

from __future__ import annotations

import errno
import grp
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec
import structlog

from vlad._native.control import MAX_REPLY, ControlSocket, PeerRequest
from vlad.errors import ConfigError, Refused, VladError
from vlad.metrics import CONTENT_TYPE, render
from vlad.protocol import (
    VERSION,
    AnyRequest,
    Args,
    EventsArgs,
    LoadArgs,
    MetricsArgs,
    Request,
    TaskArgs,
)

if TYPE_CHECKING:
    from vlad._native.control import LowerSink  # a Protocol of the stub

POLL_S = 0.1  # how soon a hold shows among the events
BEAT_NS = 2_000_000_000  # the native thread goes round every 0.5 s
STOP_NS = 1_000_000_000
WAIT_MAX_NS = 2_000_000_000  # behind a load: nobody expects a motion of a minute ago, or waits for it
EVENTS_LIMIT = 500

Code = Literal["refused", "usage", "permission", "unavailable"]


class EventLog(Protocol):
    """vlad.events.Events."""

    def add(self, event: Mapping[str, Any]) -> None: ...
    def since(self, seq: int, limit: int = ...) -> list[dict[str, Any]]: ...


class Operations(Protocol):
    """What the daemon does for an operator. Each returns a reply's `result`, or raises Refused."""

    @property
    def events(self) -> EventLog: ...
    def status(self) -> dict[str, Any]: ...
    def version(self) -> dict[str, Any]: ...
    def load(self, path: str) -> dict[str, Any]: ...
    def rollback(self) -> dict[str, Any]: ...
    def task(self, text: str) -> dict[str, Any]: ...
    def engage(self) -> dict[str, Any]: ...
    def resume(self) -> dict[str, Any]: ...
    def park(self) -> dict[str, Any]: ...
    def clear(self) -> dict[str, Any]: ...
    def dump(self) -> dict[str, Any]: ...
    def hold(self) -> dict[str, Any]: ...
    def limp(self) -> dict[str, Any]: ...


class ControlConfig(Protocol):
    """The `[control]` table of the configuration."""

    @property
    def socket(self) -> str | PathLike[str]: ...
    @property
    def mode(self) -> int: ...
    @property
    def operator_groups(self) -> tuple[str, ...]: ...
    @property
    def max_clients(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Verb:
    args: type[Args]
    run: Callable[[Any], Mapping[str, Any]]
    operator: bool = True  # only operators; on the thread of changes
    raises: bool = False  # may set the arm in motion: void when a hold came after it


class Control:
    """Serves the control socket of `operations` until stopped.

    lower_sink: vlad._native.servo.Servo, or what offers the same two addresses. path: instead of
    config.socket. ConfigError from start() for a socket that cannot be made there.
    """

    def __init__(
        self,
        config: ControlConfig,
        operations: Operations,
        lower_sink: LowerSink,
        *,
        path: str | PathLike[str] | None = None,
    ) -> None:
        self.path = str(path if path is not None else config.socket)
        self._operations = operations
        self._log = structlog.get_logger("vlad.control")
        self._socket = ControlSocket(
            self.path, mode=config.mode, lower_sink=lower_sink, max_clients=config.max_clients,
            operator_gids=[_gid(name) for name in config.operator_groups],
        )  # fmt: skip
        self._changes: queue.SimpleQueue[tuple[PeerRequest, Request] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self.serve, name="control", daemon=True),
            threading.Thread(target=self._serve_changes, name="control-changes", daemon=True),
        ]
        self._told_ns = 0  # the newest hold or limp that is among the events
        self._stopping = threading.Event()
        o = operations
        self._verbs = {
            "status": _Verb(Args, lambda _: self._status(), operator=False),
            "version": _Verb(Args, lambda _: {"protocol": VERSION, **o.version()}, operator=False),
            "events": _Verb(EventsArgs, lambda a: self._events(a.since), operator=False),
            "metrics": _Verb(MetricsArgs, lambda a: self._metrics(a.format), operator=False),
            "load": _Verb(LoadArgs, lambda a: o.load(a.path)),
            "rollback": _Verb(Args, lambda _: o.rollback()),
            "task": _Verb(TaskArgs, lambda a: o.task(a.text)),
            "dump": _Verb(Args, lambda _: o.dump()),
            "clear": _Verb(Args, lambda _: o.clear()),
            "engage": _Verb(Args, lambda _: o.engage(), raises=True),
            "resume": _Verb(Args, lambda _: o.resume(), raises=True),
            "park": _Verb(Args, lambda _: o.park(), raises=True),
        }

    def start(self) -> None:
        """Raises ConfigError."""
        try:
            self._socket.start()
        except OSError as error:
            raise ConfigError(f"control.socket = {self.path}: {_why(error)}") from error
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Closes every connection; waits for the change under way, at most 1 s in all."""
        self._stopping.set()
        self._socket.stop()
        self._changes.put(None)
        end_ns = time.monotonic_ns() + STOP_NS
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0, end_ns - time.monotonic_ns()) / 1e9)

    def fresh(self, now_ns: int) -> bool:
        """True while both sides go round: for systemd's watchdog."""
        return self._threads[0].is_alive() and now_ns - self._socket.beat_ns() < BEAT_NS

    def counters(self) -> dict[str, int]:
        """Of the socket, since start."""
        return self._socket.counters()

    def serve(self) -> None:
        """Takes requests until stop(): answers reads and passes the rest on."""
        while not self._stopping.is_set():
            peer = self._socket.next_request(POLL_S)
            self._note_lowered()
            if peer is not None:
                self._take(peer)

    def _serve_changes(self) -> None:
        while (item := self._changes.get()) is not None:
            peer, request = item
            self._answer(peer, request, self._verbs[request.verb])

    def _note_lowered(self) -> None:
        """What the socket's thread has obeyed, as events: one for all of a kind that somebody said in a row, or
        a flood of them would push everything else out. The newest is always among them, whatever had no room."""
        said = []
        while (lowered := self._socket.next_lowered()) is not None:
            said.append(lowered)
        if (newest := self._socket.lowered()) is not None:
            said.append(newest)
        event: dict[str, Any] = {}
        for t_ns, verb, uid, pid in said:
            if t_ns <= self._told_ns:
                continue  # told as the newest before
            self._told_ns = t_ns
            if (event.get("verb"), event.get("uid"), event.get("pid")) == (verb, uid, pid):
                event["count"] += 1
                continue
            if event:
                self._operations.events.add(event)
            event = {"t_ns": t_ns, "event": "operator", "verb": verb, "uid": uid, "pid": pid, "outcome": "ok",
                     "count": 1}
        if event:
            self._operations.events.add(event)

    def _take(self, peer: PeerRequest) -> None:
        try:
            request = msgspec.json.decode(peer.line, type=Request)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._error(peer, _id_of(peer.line), "usage", str(error))
            return
        verb = self._verbs.get(request.verb)
        if verb is None:
            known = ", ".join([*self._verbs, "hold", "stop", "limp"])
            self._error(peer, request.id, "usage", f"verb {request.verb!r}: known are {known}")
        elif not verb.operator:
            self._answer(peer, request, verb)
        elif peer.operator:
            self._changes.put((peer, request))
        else:
            self._error(
                peer, request.id, "permission",
                f"{request.verb}: only root, the user of the daemon and control.operator_groups "
                f"may do this, not user {peer.uid}",
            )  # fmt: skip

    def _answer(self, peer: PeerRequest, request: Request, verb: _Verb) -> None:
        outcome: str = "ok"
        try:
            args = msgspec.json.decode(request.args, type=verb.args)
            result = self._run_raising(peer, verb, args) if verb.raises else verb.run(args)
            self._reply(peer, {"v": VERSION, "id": request.id, "ok": True, "result": result})
        except msgspec.DecodeError as error:
            outcome = "usage"
            self._error(peer, request.id, "usage", f"{request.verb}: {error}")
        except VladError as error:
            outcome = f"refused: {error}"
            self._error(peer, request.id, "refused", str(error))
        except Exception as error:
            outcome = f"failed: {type(error).__name__}: {error}"
            self._log.exception("verb_failed", verb=request.verb)
            self._error(peer, request.id, "unavailable", f"{request.verb}: {outcome}")
        if verb.operator:
            self._operations.events.add({
                "t_ns": peer.t_ns, "event": "operator", "verb": request.verb, "uid": peer.uid,
                "pid": peer.pid, "outcome": outcome,
            })  # fmt: skip

    def _run_raising(self, peer: PeerRequest, verb: _Verb, args: Args) -> Mapping[str, Any]:
        """A stop beats every motion that was asked for before it, however the two were delayed; and a
        motion happens soon after it was asked for or not at all."""
        self._refuse_superseded(peer)
        waited_ns = time.monotonic_ns() - peer.t_ns
        if waited_ns > WAIT_MAX_NS:
            raise Refused(f"this request waited {waited_ns / 1e9:.1f} s for the one before it: ask again")
        result = verb.run(args)
        lowered = self._socket.lowered()
        if self._socket.lower_epoch() != peer.lower_epoch:
            (self._operations.limp if lowered and lowered[1] == "limp" else self._operations.hold)()
            self._refuse_superseded(peer)
        return result

    def _refuse_superseded(self, peer: PeerRequest) -> None:
        if self._socket.lower_epoch() != peer.lower_epoch:
            raise Refused("a hold or limp came after this request: ask again if it still holds")

    def _status(self) -> dict[str, Any]:
        return {**self._operations.status(), "control": self.counters()}

    def _metrics(self, form: str) -> dict[str, Any]:
        status = self._status()
        if form == "prometheus":
            return {"content_type": CONTENT_TYPE, "text": render(status)}
        return dict(_numbers(status, ""))

    def _events(self, since: int) -> dict[str, Any]:
        """As many as fit a reply; `next` is the `since` of the next request."""
        events = self._operations.events.since(since, EVENTS_LIMIT)
        lost = events[0]["seq"] - since - 1 if events and since else 0
        while len(events) > 1 and len(msgspec.json.encode(events)) > MAX_REPLY - 1024:
            events = events[: len(events) // 2]
        return {"events": events, "next": events[-1]["seq"] if events else since, "lost": lost}

    def _error(self, peer: PeerRequest, id_: int | str | None, code: Code, message: str) -> None:
        error = {"code": code, "message": message}
        self._reply(peer, {"v": VERSION, "id": id_, "ok": False, "error": error})

    def _reply(self, peer: PeerRequest, reply: Mapping[str, Any]) -> None:
        line = msgspec.json.encode(reply)
        if len(line) > MAX_REPLY:
            error = {"code": "unavailable", "message": f"the reply has over {MAX_REPLY} bytes"}
            short = {"v": VERSION, "id": reply["id"], "ok": False, "error": error}
            line = msgspec.json.encode(short)
        try:
            self._socket.reply(peer.token, line)
        except OSError as error:
            self._log.error("reply_failed", error=str(error))


def _gid(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"control.operator_groups: there is no group {name!r}") from None


def _why(error: OSError) -> str:
    return {
        errno.EADDRINUSE: "a daemon already answers there",
        errno.EEXIST: "something there is not a socket: remove it",
        errno.EPERM: "its directory must belong to root or to this user, and nobody else may write "
        "to it",
        errno.ENOENT: "its directory does not exist",
        errno.ENOTDIR: "its directory is not a directory",
        errno.ENAMETOOLONG: "a socket's path has at most 107 bytes",
        errno.EINVAL: "control.max_clients must be 1 to 16",
    }.get(error.errno or 0, error.strerror or str(error))


def _id_of(line: bytes) -> int | str | None:
    """The id of a line that the schema refuses; the native side has seen that it has one."""
    try:
        return msgspec.json.decode(line, type=AnyRequest).id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _numbers(value: object, path: str) -> Iterator[tuple[str, int | float]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (int, float)):
        yield path, value
