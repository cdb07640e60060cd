"""vladctl: an operator's requests to the daemon. Standard library only, so that a stop starts fast.

Exit status: 0 ok, 1 refused, 2 usage, 3 unreachable, 4 the mode is faulted.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from vlad.argument_types import seconds

OK, REFUSED, USAGE, UNREACHABLE, FAULTED = range(5)
EXIT = {"refused": REFUSED, "permission": REFUSED, "usage": USAGE, "unavailable": UNREACHABLE}
DEFAULT_SOCKET = "/run/vlad/vlad.sock"
TIMEOUT_S = 5.0
LOAD_TIMEOUT_S = 600.0  # a full-size model is read and measured before it is accepted
LOADS = frozenset({"load", "rollback"})
FOLLOW_S = 0.2
RETRY_S = 0.02
STOPS = frozenset({"hold", "stop", "limp"})
VERBS = {
    "status": "mode, why not engageable, queue, latencies, faults",
    "load": "load a policy bundle",
    "rollback": "go back to the policy bundle that ran before",
    "task": "choose what the policy is to do",
    "engage": "let the policy drive the arm",
    "hold": "stop the arm and hold it there",
    "stop": "the same as hold",
    "resume": "leave an operator's hold",
    "park": "move to the configured rest pose, then torque off",
    "limp": "torque off now: THE ARM FALLS",
    "clear": "unlatch the faults whose cause is gone",
    "top": "live view of mode, queue, latencies, joints and faults",
    "events": "what happened, oldest first",
    "dump": "write the flight record of the newest seconds to a file now",
    "metrics": "every number that the daemon counts",
    "version": "of vladctl and of the daemon",
    "completion": "print a completion script for a shell",
}


class Unreachable(Exception):
    """No daemon answered."""


class Declined(Exception):
    """The daemon answered with an error object {"code", "message"}."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error.get("message", ""))
        self.error = error


def ask(path: str, verb: str, args: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """One request on a connection of its own: the reply's result. Raises Unreachable, Declined.

    A stop is repeated until it is answered or the time is over: it may be said twice, not never.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return _ask_once(path, verb, args, deadline)
        except (Unreachable, Declined) as error:
            final = isinstance(error, Declined) and error.error.get("code") != "unavailable"
            if verb not in STOPS or final or time.monotonic() + RETRY_S > deadline:
                raise
            if isinstance(error.__cause__, (FileNotFoundError, PermissionError)):
                raise
        time.sleep(RETRY_S)


def _ask_once(path: str, verb: str, args: dict[str, Any], deadline: float) -> dict[str, Any]:
    request = json.dumps({"v": 1, "id": 1, "verb": verb, "args": args}) + "\n"
    try:
        with _connect(path, deadline) as connection:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            connection.sendall(request.encode())
            reply = _read_line(connection, deadline)
    except (OSError, ValueError) as error:
        reason = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        raise Unreachable(f"{path}: {reason}") from error
    if reply.get("ok") is True:
        result = reply.get("result")
        return result if isinstance(result, dict) else {}
    declined = reply.get("error")
    raise Declined(declined or {"code": "unavailable", "message": "the reply says neither"})


def _connect(path: str, deadline: float) -> socket.socket:
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            connection.connect(path)
        except BlockingIOError:  # the daemon's backlog is full
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)
        except BaseException:
            connection.close()
            raise
        else:
            return connection


def _read_line(connection: socket.socket, deadline: float) -> dict[str, Any]:
    received = bytearray()
    while not received.endswith(b"\n"):
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("the daemon closed the connection")
        received += part
    reply = json.loads(received)
    if not isinstance(reply, dict):
        raise ValueError("the reply is not an object")
    return reply


def parser() -> argparse.ArgumentParser:
    """The command line. Options of all verbs stand before or after the verb."""
    everywhere = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    everywhere.add_argument("--socket", metavar="PATH", help="control socket of the daemon "
                            f"(else $VLAD_SOCKET, else {DEFAULT_SOCKET})")  # fmt: skip
    everywhere.add_argument("--json", action="store_true", help="print the raw result or error")
    everywhere.add_argument("--timeout", type=seconds, metavar="S", help="seconds to wait "
                            f"({TIMEOUT_S:g}; load and rollback {LOAD_TIMEOUT_S:g})")  # fmt: skip
    main_parser = argparse.ArgumentParser(
        prog="vladctl", description="Talks to the vlad daemon.", parents=[everywhere],
        epilog="exit status: 0 ok, 1 refused, 2 usage, 3 unreachable, 4 faulted",
    )  # fmt: skip
    verbs = main_parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    of = {name: verbs.add_parser(name, help=text, description=text, parents=[everywhere])
          for name, text in VERBS.items()}  # fmt: skip
    of["load"].add_argument("path", metavar="BUNDLE", help="directory NAME.vlad")
    of["task"].add_argument("text", nargs="+", metavar="TEXT")
    of["limp"].add_argument("--yes", action="store_true", help="do not ask")
    of["events"].add_argument("--follow", action="store_true", help="go on until interrupted")
    of["events"].add_argument("--since", type=_count, default=0, metavar="SEQ",
                              help="only events numbered above SEQ")  # fmt: skip
    of["top"].add_argument("--interval", type=seconds, default=0.5, metavar="S", help="between updates (0.5)")
    of["top"].add_argument("--ascii", action="store_true", help="draw with plain characters")
    of["metrics"].add_argument("--prometheus", action="store_true", help="as Prometheus text")
    of["metrics"].add_argument("--listen", metavar="ADDRESS:PORT", nargs="?", const="127.0.0.1:9101",
                               help="serve them to Prometheus until interrupted (127.0.0.1:9101)")  # fmt: skip
    of["completion"].add_argument("shell", choices=("bash", "zsh", "fish"))
    return main_parser


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("0 or more")
    return value


class Session:
    """One run of vladctl: where to ask, for how long, how to print."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        usual = os.environ.get("VLAD_SOCKET", DEFAULT_SOCKET)
        self.path: str = getattr(options, "socket", usual)
        self.json: bool = getattr(options, "json", False)
        default_s = LOAD_TIMEOUT_S if options.verb in LOADS else TIMEOUT_S
        self.timeout_s: float = getattr(options, "timeout", default_s)

    def ask(self, verb: str, **args: object) -> dict[str, Any]:
        return ask(self.path, verb, args, self.timeout_s)

    def show(self, result: dict[str, Any], text: Callable[[], str]) -> None:
        print(json.dumps(result) if self.json else text(), flush=True)

    def run(self) -> int:
        verb = self.options.verb
        special = getattr(self, f"_{verb}", None)
        if special is not None:
            return int(special())
        result = self.ask(verb, **self._args(verb))
        self.show(result, lambda: _confirmation(verb, result))
        return OK

    def _args(self, verb: str) -> dict[str, object]:
        if verb == "load":  # the daemon has another working directory
            return {"path": os.path.abspath(self.options.path)}
        if verb == "task":
            return {"text": " ".join(self.options.text)}
        return {}

    def _status(self) -> int:
        status = self.ask("status")
        from vlad.cli_text import status_text

        self.show(status, lambda: status_text(status, time.monotonic_ns(), _colour()))
        return FAULTED if status.get("mode") == "faulted" else OK

    def _engage(self) -> int:
        try:
            result = self.ask(self.options.verb)
        except Declined as declined:
            self.decline(declined)
            code = EXIT.get(declined.error.get("code", ""), REFUSED)
            faulted = code == REFUSED and self.ask("status").get("mode") == "faulted"
            return FAULTED if faulted else code
        self.show(result, lambda: _confirmation(self.options.verb, result))
        return OK

    _resume = _engage

    def _limp(self) -> int:
        if not self.options.yes and sys.stdin.isatty():
            sys.stderr.write("limp: torque off, the arm falls. Continue? [y/N] ")
            sys.stderr.flush()
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                print("limp: not done", file=sys.stderr)
                return REFUSED
        result = self.ask("limp")
        self.show(result, lambda: _confirmation("limp", result))
        return OK

    def _events(self) -> int:
        from vlad.cli_text import event_text

        since, collected, lost = self.options.since, [], 0
        while True:
            page = self.ask("events", since=since)
            events, since, lost = page["events"], page["next"], lost + page.get("lost", 0)
            if self.json and not self.options.follow:
                collected += events
            else:
                if page.get("lost"):
                    print(f"{page['lost']} events were lost", file=sys.stderr)
                for event in events:
                    print(json.dumps(event) if self.json else event_text(event), flush=True)
            if events:
                continue
            if not self.options.follow:
                break
            time.sleep(FOLLOW_S)
        if self.json:
            print(json.dumps({"events": collected, "next": since, "lost": lost}))
        return OK

    def _metrics(self) -> int:
        if self.options.listen:
            return self._listen()
        if self.options.prometheus:
            result = self.ask("metrics", format="prometheus")
            self.show(result, lambda: str(result["text"]).rstrip("\n"))
        else:
            result = self.ask("metrics", format="json")
            self.show(result, lambda: "\n".join(f"{k} {v}" for k, v in result.items()))
        return OK

    def _top(self) -> int:
        if not sys.stdout.isatty():
            print("vladctl: top needs a terminal; `vladctl status --json` is for scripts", file=sys.stderr)
            return USAGE
        from vlad.top import run

        return run(self.ask, self.options.interval, (Unreachable,), ascii_only=self.options.ascii)

    def _listen(self) -> int:
        from vlad.metrics_listener import MetricsListener, address

        def scrape() -> tuple[str, str]:
            try:
                result = self.ask("metrics", format="prometheus")
            except (Unreachable, Declined) as error:
                raise OSError(str(error)) from error
            return str(result["text"]), str(result["content_type"])

        try:
            listener = MetricsListener(address(self.options.listen), scrape)
        except (ValueError, OSError) as error:
            self.decline(Declined({"code": "usage", "message": f"--listen {self.options.listen}: {error}"}))
            return USAGE
        with listener:
            host, port = listener.server_address[:2]
            shown = f"[{host!s}]" if ":" in str(host) else str(host)
            print(f"http://{shown}:{port}/metrics", flush=True)
            if listener.public:
                print("vladctl: not only this machine can read them there", file=sys.stderr)
            listener.serve_forever()
        return OK

    def _version(self) -> int:
        from vlad import __version__

        if not self.json:
            print(f"vladctl {__version__}", flush=True)
        result = self.ask("version")
        self.show({"vladctl": __version__, **result},
                  lambda: f"daemon {result.get('version')} ({result.get('board')}), "
                  f"protocol {result.get('protocol')}")  # fmt: skip
        return OK

    def _completion(self) -> int:
        from vlad.completion import script

        print(script(self.options.shell, VERBS), end="")
        return OK

    def decline(self, declined: Declined) -> None:
        if self.json:
            print(json.dumps(declined.error), flush=True)
        else:
            print(f"vladctl: {declined.error.get('code')}: {declined}", file=sys.stderr)


def _confirmation(verb: str, result: dict[str, Any]) -> str:
    facts = ", ".join(
        f"{key} {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in result.items()
        if value not in (None, [], {}) and not isinstance(value, dict) and key != "t_ns"
    )
    return f"{verb}: {facts or 'ok'}"


def _colour() -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain


def main(argv: list[str] | None = None) -> int:
    """Entry point of `vladctl`: the exit status."""
    session = Session(parser().parse_args(argv))
    try:
        return session.run()
    except Declined as declined:
        session.decline(declined)
        return EXIT.get(declined.error.get("code", ""), REFUSED)
    except Unreachable as error:
        message = f"{error}: is the daemon running?"
        session.decline(Declined({"code": "unreachable", "message": message}))
        return UNREACHABLE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `vladctl events | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


if __name__ == "__main__":
    raise SystemExit(main())
