"""The control socket's verbs over a real socket: who may do what, and what a bad request gets."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control_peer import (
    HOLD,
    LIMP,
    FakeOperations,
    LowerRecorder,
    Peer,
    Served,
    SocketConfig,
    as_user,
    serving,
    until,
)
from vlad.control import Control
from vlad.errors import ConfigError, Refused

OPERATOR_VERBS = {
    "load": {"path": "/a/b.vlad"}, "task": {"text": "wave"}, "engage": None, "resume": None,
    "park": None, "clear": None, "rollback": None,
}  # fmt: skip


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as control:
        yield control


def test_every_verb_reaches_its_operation(served: Served) -> None:
    with Peer(served.path) as peer:
        for verb, args in OPERATOR_VERBS.items():
            reply = peer.ask(verb, args, id_=f"to {verb}")
            assert reply["ok"] and reply["result"] == {"did": verb}
        assert peer.ask("status")["result"]["mode"] == "holding"
        assert peer.ask("version")["result"] == {"protocol": 1, "version": "9.9", "board": "test"}
    assert served.operations.calls[:2] == [("load", "/a/b.vlad"), ("task", "wave")]
    kept = served.operations.events.kept
    end = time.monotonic() + 10
    while len(kept) < len(OPERATOR_VERBS) and time.monotonic() < end:
        time.sleep(0.01)  # the event follows the reply
    assert [e["verb"] for e in kept] == list(OPERATOR_VERBS)
    assert {e["uid"] for e in served.operations.events.kept} == {os.getuid()}


def test_stops_are_served_natively_and_noted(served: Served) -> None:
    with Peer(served.path) as peer:
        assert peer.ask("hold")["result"]["requested"] == "hold"
        assert peer.ask("stop", {"why": "because"})["result"]["requested"] == "hold"
        assert peer.ask("limp")["result"]["requested"] == "limp"
    assert [what for _, what in served.sink.calls] == [HOLD, HOLD, LIMP]
    until(lambda: any(e["verb"] == "limp" for e in served.operations.events.kept))
    noted = served.operations.events.kept[-1]
    assert noted["event"] == "operator" and noted["pid"] == os.getpid()
    assert served.operations.calls == []


def test_a_flood_of_holds_hides_no_limp_and_fills_no_ring(served: Served) -> None:
    """More than the socket's thread has room to tell of: they are few events, and the last one said is there."""
    with Peer(served.path) as peer:
        peer.send(b'{"v":1,"id":1,"verb":"hold"}\n' * 300 + b'{"v":1,"id":2,"verb":"limp"}\n')
        until(lambda: served.operations.events.kept and served.operations.events.kept[-1]["verb"] == "limp")
    until(lambda: served.control.counters()["limps"] == 1)
    *holds, limp = served.operations.events.kept
    told = sum(e["count"] for e in holds)
    assert 64 <= told <= 300 and len(holds) < 10 and limp["count"] == 1
    assert told + served.control.counters()["untold"] in (300, 301)  # the newest is told without room
    assert all(a["t_ns"] < b["t_ns"] for a, b in zip(holds, [*holds[1:], limp], strict=True))


@pytest.mark.parametrize(
    ("verb", "args", "says"),
    [
        ("dance", None, "known are"),
        ("load", None, "`path`"),
        ("load", {"path": "relative.vlad"}, "path"),
        ("load", {"path": "/a\x00b"}, "path"),
        ("load", {"path": "/a", "force": True}, "force"),
        ("task", {"text": ""}, "text"),
        ("task", {"text": 7}, "text"),
        ("task", {"text": "x" * 5000}, "text"),
        ("engage", {"now": True}, "now"),
        ("engage", [], "object"),
        ("events", {"since": -1}, "since"),
        ("metrics", {"format": "xml"}, "format"),
    ],
)
def test_a_wrong_request_is_a_usage_error_that_names_it(
    served: Served, verb: str, args: object, says: str
) -> None:
    with Peer(served.path) as peer:
        error = peer.ask(verb, args)["error"]
    assert error["code"] == "usage" and says in error["message"]
    assert served.operations.calls == []


def test_unknown_members_and_lone_surrogates_are_usage_errors(served: Served) -> None:
    with Peer(served.path) as peer:
        peer.send(b'{"v":1,"id":"x","verb":"status","extra":0}\n')
        reply = peer.line()
        assert reply is not None and reply["id"] == "x" and "extra" in reply["error"]["message"]
        peer.send(b'{"v":1,"id":2,"verb":"\\ud800"}\n')
        reply = peer.line()
        assert reply is not None and reply["error"]["code"] == "usage"


def test_refusals_and_failures_have_their_codes(served: Served) -> None:
    served.operations.refuse = {"engage": Refused("no task is set"), "clear": KeyError("bug")}
    with Peer(served.path) as peer:
        assert peer.ask("engage")["error"] == {"code": "refused", "message": "no task is set"}
        error = peer.ask("clear")["error"]
        assert error["code"] == "unavailable" and "KeyError" in error["message"]
        assert peer.ask("status")["ok"]
    end = time.monotonic() + 5  # the reply may come before its event
    while len(served.operations.events.kept) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert [e["outcome"] for e in served.operations.events.kept] == [
        "refused: no task is set", "failed: KeyError: 'bug'",
    ]  # fmt: skip


def test_status_answers_while_a_bundle_loads(served: Served) -> None:
    import threading

    served.operations.block["load"] = threading.Event()
    with Peer(served.path) as slow, Peer(served.path) as quick:
        slow.send(b'{"v":1,"id":5,"verb":"load","args":{"path":"/x"}}\n')
        assert served.operations.entered.wait(10)
        assert quick.ask("status")["ok"]
        assert slow.ask("hold")["ok"]  # on the very connection that waits
        served.operations.block["load"].set()
        reply = slow.line()
        assert reply is not None and reply["id"] == 5 and reply["ok"]


@pytest.mark.parametrize("stop", ["hold", "limp"])
def test_a_stop_beats_the_motion_asked_for_before_it(served: Served, stop: str) -> None:
    import threading

    gate = served.operations.block["load"] = threading.Event()
    with Peer(served.path) as peer, Peer(served.path) as other:
        # engage waits behind load; the stop comes before engage's turn
        peer.send(b'{"v":1,"id":1,"verb":"load","args":{"path":"/x"}}\n')
        peer.send(b'{"v":1,"id":2,"verb":"engage"}\n')
        assert served.operations.entered.wait(10)
        until(lambda: served.control.counters()["forwarded"] == 2)
        assert other.ask(stop)["ok"]
        gate.set()
        replies = {r["id"]: r for r in (peer.line(), peer.line()) if r}
        assert replies[1]["ok"] and replies[2]["error"]["code"] == "refused"
        assert ("engage",) not in served.operations.calls
        # the stop comes while engage is being granted
        served.operations.entered.clear()
        gate = served.operations.block["engage"] = threading.Event()
        peer.send(b'{"v":1,"id":3,"verb":"engage"}\n')
        assert served.operations.entered.wait(10)
        assert other.ask(stop)["ok"]
        gate.set()
        reply = peer.line()
        assert reply is not None and reply["error"]["code"] == "refused"
        assert served.operations.calls[-2:] == [("engage",), (stop,)]


@pytest.mark.parametrize("motion", ["engage", "resume", "park"])
def test_no_motion_long_after_it_was_asked_for(
    served: Served, monkeypatch: pytest.MonkeyPatch, motion: str
) -> None:
    import threading

    monkeypatch.setattr("vlad.control.WAIT_MAX_NS", 50_000_000, raising=False)
    gate = served.operations.block["load"] = threading.Event()
    with Peer(served.path) as peer:
        peer.send(b'{"v":1,"id":1,"verb":"load","args":{"path":"/x"}}\n')
        assert served.operations.entered.wait(10)
        peer.send(b'{"v":1,"id":2,"verb":"%s"}\n' % motion.encode())
        until(lambda: served.control.counters()["forwarded"] == 2)
        time.sleep(0.06)
        gate.set()
        replies = {r["id"]: r for r in (peer.line(), peer.line()) if r}
        assert replies[1]["ok"] and replies[2]["error"]["code"] == "refused"
        assert "waited" in replies[2]["error"]["message"]
        assert (motion,) not in served.operations.calls


def test_events_come_in_pages_that_fit(served: Served) -> None:
    for i in range(600):
        served.operations.events.add({"t_ns": i, "event": "x", "text": "y" * 1000})
    seen, since = [], 0
    with Peer(served.path) as peer:
        while True:
            page = peer.ask("events", {"since": since})["result"]
            if not page["events"]:
                break
            assert page["lost"] == 0
            seen += [e["seq"] for e in page["events"]]
            since = page["next"]
    assert seen == list(range(1, 601))
    served.operations.events.kept = served.operations.events.kept[100:]
    with Peer(served.path) as peer:
        assert peer.ask("events", {"since": 40})["result"]["lost"] == 60


def test_metrics_in_both_forms(served: Served) -> None:
    served.operations.state["servo"] = {"overruns": 3, "name": "x"}
    with Peer(served.path) as peer:
        numbers = peer.ask("metrics")["result"]
        text = peer.ask("metrics", {"format": "prometheus"})["result"]["text"]
    assert numbers["servo.overruns"] == 3 and "servo.name" not in numbers
    assert numbers["control.connections"] == 1
    assert "vlad_servo_overruns_total 3" in text


def test_a_reply_that_is_too_long_is_an_error(served: Served) -> None:
    served.operations.state["much"] = "x" * 300_000
    with Peer(served.path) as peer:
        assert peer.ask("status")["error"]["code"] == "unavailable"
        served.operations.state["much"] = "x" * 200_000
        assert len(peer.ask("status")["result"]["much"]) == 200_000


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_only_operators_change_anything() -> None:
    lines = [
        b'{"v":1,"id":1,"verb":"status"}\n', b'{"v":1,"id":1,"verb":"events"}\n',
        b'{"v":1,"id":1,"verb":"metrics"}\n', b'{"v":1,"id":1,"verb":"version"}\n',
        b'{"v":1,"id":1,"verb":"engage"}\n', b'{"v":1,"id":1,"verb":"load","args":{"path":"/x"}}\n',
        b'{"v":1,"id":1,"verb":"hold"}\n', b'{"v":1,"id":1,"verb":"limp"}\n',
    ]  # fmt: skip
    with serving(operator_groups=("daemon",)) as served:
        import grp

        group = grp.getgrnam("daemon").gr_gid
        replies = as_user(served.path, 54321, 54321, [54322], lines)
        assert [r["ok"] for r in replies] == [True] * 4 + [False] * 4
        assert {r["error"]["code"] for r in replies[4:]} == {"permission"}
        assert served.sink.calls == [] and ("engage",) not in served.operations.calls
        replies = as_user(served.path, 54321, 54321, [54322, group], lines)
        assert all(r["ok"] for r in replies)
        assert [what for _, what in served.sink.calls] == [HOLD, LIMP]
    with serving(mode=0o600) as served:
        assert as_user(served.path, 54321, 54321, [], lines) is None


def test_bad_places_are_config_errors(tmp_path: Path) -> None:
    operations, sink = FakeOperations(), LowerRecorder(tmp_path)

    def start(path: Path, **keys: object) -> Control:
        control = Control(SocketConfig(path, **keys), operations, sink)  # type: ignore[arg-type]
        control.start()
        return control

    with pytest.raises(ConfigError, match=r"control\.socket = .*does not exist"):
        start(tmp_path / "none" / "s")
    with pytest.raises(ConfigError, match="107"):
        start(Path("/tmp") / ("x" * 120))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not a socket"):
        start(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"operator_groups.*no-such-group"):
        start(tmp_path / "s", operator_groups=("no-such-group",))
    with pytest.raises(ConfigError, match="max_clients"):
        start(tmp_path / "s", max_clients=17)
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(ConfigError, match="nobody else"):
        start(open_to_all / "s")
    first = start(tmp_path / "s")
    with pytest.raises(ConfigError, match="already answers"):
        start(tmp_path / "s")
    assert (tmp_path / "s").is_socket()
    first.stop()
    assert not (tmp_path / "s").exists()
    first.stop()


def test_fresh_while_both_sides_go_round(served: Served) -> None:
    import time

    assert served.control.fresh(time.monotonic_ns())
    assert not served.control.fresh(time.monotonic_ns() + 10_000_000_000)
    served.control.stop()
    assert not served.control.fresh(time.monotonic_ns())
