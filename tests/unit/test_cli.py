"""vladctl against a real control socket: words, JSON, exit statuses."""

from __future__ import annotations

import json
import os
import pty
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control_peer import HOLD, LIMP, Served, serving
from vlad import cli
from vlad.cli_text import event_text, status_text
from vlad.completion import script
from vlad.errors import Refused

STATUS: dict[str, Any] = {
    "mode": "holding",
    "why_not_engageable": ["no task is set: `vladctl task TEXT`", "a camera has no fresh frame"],
    "t_inference_ms": {"p50": 420.25, "p99": 611.0, "predicted": None},
    "t_execution_ms": 833.3,
    "queue_depth": 25,
    "chunks": {"accepted": 120, "late": 0, "stale": 1, "rejected": {"stale": 1, "step": 2}},
    "policy": {"rtc": {
        "guided": 119, "unguided": {"cold": 1, "changed": 0}, "delay_actions": 16, "consumed_actions": 17,
        "underestimated": 1, "prefix_rms": {"p50": 0.004, "p95": 0.0125},
    }},
    "servo": {
        "rate_hz": 100, "realtime": False, "wake_us": {"p50": 12, "p99": 60.5, "max": 300},
        "compute_us": {"p99": 9}, "overruns": 4,
    },
    "faults": [{"id": 7, "name": "vision_stalled", "reaction": "hold", "latched": True,
                "since_ns": 1_000_000_000}],
}  # fmt: skip


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    with serving() as control:
        monkeypatch.setenv("VLAD_SOCKET", str(control.path))
        yield control


def run(*argv: str) -> int:
    try:
        return cli.main(list(argv))
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


def test_status_in_words(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    served.operations.state = STATUS
    assert run("status") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    for part in (
        "mode         holding", "engageable   no: no task is set", "a camera has no fresh frame",
        "p50 420.2 ms, p99 611 ms, predicted -", "833.3 ms, 25 actions queued",
        "rtc          119 chunks guided, not cold 1; 17 actions meanwhile, 16 predicted; off by 0.0125 at 95 %",
        "120 accepted, 0 late, 1 stale, 3 rejected (stale 1, step 2)",
        "100 Hz, NOT real-time, wake p50 12 us p99 60.5 us max 300 us, compute 9 us, 4 overruns",
        "F07 vision_stalled: hold, latched, for",
    ):  # fmt: skip
        assert part in out


def test_status_text_names_the_workers_and_what_is_wrong_with_one() -> None:
    workers = {"vision": {"up": True, "restarts": 2}, "expert": {"up": False, "restarts": 0, "last_error": "it died"}}
    text = status_text({"mode": "holding", "workers": workers}, 0, False)
    assert "workers      vision (2 restarts), expert DOWN (it died)\n" in text


def test_status_text_says_where_an_accelerated_block_landed() -> None:
    blocks = {"vision": {"/usr/lib/npu.so": {"nodes": 13, "partitions": 9}, "CPU": {"nodes": 2, "partitions": 1}},
              "expert": {"CPUExecutionProvider": {"nodes": None, "partitions": 1}}}  # fmt: skip
    text = status_text({"mode": "ready", "blocks": blocks}, 0, False)
    assert [line for line in text.splitlines() if "placed" in line] == [
        "placed       vision: 13 nodes on /usr/lib/npu.so, 2 nodes on CPU"]  # fmt: skip


def test_status_text_of_an_empty_and_a_coloured_status() -> None:
    assert "engageable   yes" in status_text({"mode": "ready"}, 0, False)
    text = status_text({**STATUS, "mode": "faulted"}, 3_500_000_000, True)
    assert "\x1b[1;31mfaulted\x1b[0m" in text and "for 2.5 s" in text
    policy = {"name": "tea", "mode": "async", "rate_hz": 30.0, "chunk_size": 50, "task": "wave"}
    text = status_text({"mode": "engaged", "policy": policy, "reaction": "slow"}, 0, False)
    assert "engageable" not in text and "(reaction slow)" in text
    assert "tea, async, 30 Hz, 50 actions; task 'wave'" in text


def test_event_text_cannot_steer_a_terminal() -> None:
    event = {"seq": 3, "t_ns": 1_500_000_000, "event": "task", "text": "a\x1b[2J b", "x": 0.5}
    line = event_text(event)
    assert line == '      3        1.500 task text="a?[2J b" x=0.5'


def test_json_is_the_raw_object(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    served.operations.state = STATUS
    assert run("--json", "status") == 0
    assert json.loads(capsys.readouterr().out).items() >= STATUS.items()
    assert run("status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["mode"] == "holding"
    served.operations.refuse["engage"] = Refused("no task is set")
    assert run("--json", "engage") == 1
    assert json.loads(capsys.readouterr().out) == {"code": "refused", "message": "no task is set"}
    assert run("--json", "--socket", "/no/such", "status") == 3
    assert json.loads(capsys.readouterr().out)["code"] == "unreachable"
    assert run("--json", "hold") == 0
    assert json.loads(capsys.readouterr().out)["requested"] == "hold"


def test_exit_statuses(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("engage") == 0
    served.operations.refuse["engage"] = served.operations.refuse["resume"] = Refused("no")
    assert run("engage") == 1
    assert "refused: no" in capsys.readouterr().err
    served.operations.state["mode"] = "faulted"
    assert run("engage") == run("resume") == run("status") == 4
    assert run("version") == run("clear") == 0
    assert run("task", "x" * 5000) == 2
    for bad in ("dance", "", "load", "status --timeout 0", "events --since -1"):
        assert run(*bad.split()) == 2
    served.operations.refuse["clear"] = RuntimeError("bug")
    assert run("clear") == 3
    served.control.stop()
    assert run("status") == run("hold", "--timeout", "0.2") == 3
    assert "unreachable" in capsys.readouterr().err


def test_arguments_reach_the_daemon(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    assert run("load", "x/../bundle.vlad") == 0
    assert run("task", "put", "it", "in") == 0
    assert run("stop") == run("hold") == 0
    assert served.operations.calls == [("load", "/tmp/bundle.vlad"), ("task", "put it in")]
    assert [what for _, what in served.sink.calls] == [HOLD, HOLD]


def test_limp_asks_on_a_terminal(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        os.write(ours, b"no\n")
        assert run("limp") == 1
        assert served.sink.calls == []
        os.write(ours, b"y\n")
        assert run("limp") == 0
        assert run("limp", "--yes") == 0
    os.close(ours)
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert run("limp") == 0
    assert [what for _, what in served.sink.calls] == [LIMP] * 3


def test_events(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(700):
        served.operations.events.add({"t_ns": i, "event": "mode", "to": "ready"})
    assert run("events") == 0
    assert len(capsys.readouterr().out.splitlines()) == 700
    assert run("events", "--since", "690", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [e["seq"] for e in result["events"]] == list(range(691, 701)) and result["next"] == 700


def test_events_follow(served: Served) -> None:
    served.operations.events.add({"t_ns": 1, "event": "first"})
    follower = subprocess.Popen(
        [sys.executable, "-m", "vlad.cli", "events", "--follow", "--json"], stdout=subprocess.PIPE
    )
    assert follower.stdout is not None
    assert json.loads(follower.stdout.readline())["event"] == "first"
    served.operations.events.add({"t_ns": 2, "event": "second"})
    assert json.loads(follower.stdout.readline())["event"] == "second"
    follower.send_signal(2)
    assert follower.wait(60) == 130
    follower.stdout.close()


def test_metrics_and_version(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    served.operations.state["servo"] = {"overruns": 3}
    assert run("metrics") == 0
    assert "servo.overruns 3\n" in capsys.readouterr().out
    assert run("metrics", "--prometheus") == 0
    assert "vlad_servo_overruns_total 3\n" in capsys.readouterr().out
    assert run("version") == 0
    assert "daemon 9.9 (test), protocol 1" in capsys.readouterr().out


def test_metrics_over_http(served: Served) -> None:
    served.operations.state["servo"] = {"overruns": 3}
    listener = subprocess.Popen(
        [sys.executable, "-m", "vlad.cli", "metrics", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    )
    assert listener.stdout is not None
    with urllib.request.urlopen(listener.stdout.readline().strip(), timeout=30) as page:
        assert "vlad_servo_overruns_total 3\n" in page.read().decode()
    listener.send_signal(2)
    assert listener.wait(60) == 130
    listener.stdout.close()
    assert run("metrics", "--listen", "everywhere") == cli.USAGE


def test_a_stop_is_said_again_until_it_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()

    def daemon() -> None:
        replies = [
            b"", b'{"v":1,"id":null,"ok":false,"error":{"code":"unavailable","message":"x"}}\n',
            b'{"v":1,"id":1,"ok":true,"result":{"requested":"hold"}}\n',
        ]  # fmt: skip
        for reply in replies:
            connection, _ = listener.accept()
            connection.recv(100)
            connection.sendall(reply)
            connection.close()

    thread = threading.Thread(target=daemon)
    thread.start()
    assert run("--socket", str(path), "hold") == 0
    thread.join(10)
    listener.close()


@pytest.mark.parametrize("reply", [b"nonsense\n", b"[1]\n", b"{}\n", b'{"ok":true', b""])
def test_a_broken_daemon_is_unreachable(tmp_path: Path, reply: bytes) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def daemon() -> None:
            connection, _ = listener.accept()
            connection.recv(100)
            connection.sendall(reply)
            connection.close()

        thread = threading.Thread(target=daemon)
        thread.start()
        assert run("--socket", str(path), "status") == 3
        thread.join(10)


def test_a_mute_daemon_times_out(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(0)
        assert run("--socket", str(path), "--timeout", "0.2", "status") == 3


def test_completion_scripts_name_every_verb() -> None:
    for shell in ("bash", "zsh", "fish"):
        text = script(shell, cli.VERBS)
        assert all(verb in text for verb in cli.VERBS)
        if shutil.which(shell):
            subprocess.run([shell, "-n"], input=text.encode(), check=True)
    completed = subprocess.run(
        ["bash", "-c", 'eval "$1"; COMP_WORDS=(vladctl --json en); COMP_CWORD=2; _vladctl; '
         'echo "${COMPREPLY[@]}"', "-", script("bash", cli.VERBS)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert completed.stdout == "engage\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_every_option(shell: str) -> None:
    of = next(a for a in cli.parser()._actions if a.dest == "verb").choices
    assert of is not None
    for verb, options in ((verb, p._option_string_actions) for verb, p in dict(of).items()):
        lines = [line for line in script(shell, cli.VERBS).splitlines() if verb in line]
        for option in set(options) - {"-h", "--help", "--socket", "--json", "--timeout"}:
            assert any(option in line or f"-l {option[2:]}" in line for line in lines), (verb, option)


def test_it_starts_fast() -> None:
    """A stop must not wait for numpy. The time is a witness; the imports are the assertion."""
    code = "import sys, vlad.cli, vlad.cli_text; print(*sys.modules)"
    began = time.monotonic()
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True)
    print(f"vladctl imports: {time.monotonic() - began:.3f} s")
    names = set(loaded.stdout.split())
    assert not names & {"numpy", "msgspec", "structlog", "onnxruntime", "asyncio"}
