"""Recorded runs of the real daemon are decided today as they were when they were recorded; and a
decision that has changed is found, by name, where it first shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vlad import main
from vlad._native.flight import CHUNK, STATE, TICK, TIMING
from vlad.faults import BY_NAME
from vlad.flight_fields import FlightError
from vlad.flight_file import Flight, about_servo, read
from vlad.replay import replay
from vlad.servo import AGGREGATES

RUNS = sorted((Path(__file__).parent / "runs").glob("*.mcap"))
Edit = Callable[[Flight], None]


def run(name: str) -> Flight:
    return read(Path(__file__).parent / "runs" / f"{name}.mcap")


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.stem)
def test_every_decision_is_the_same(path: Path) -> None:
    outcome = replay(read(path))
    assert outcome.difference is None, f"{outcome.difference}: if this is meant, `make replay-runs`"
    assert outcome.ticks >= 200 and outcome.chunks >= 2


def test_the_runs_show_what_they_are_for() -> None:
    assert {p.stem for p in RUNS} == {"sweep", "servo_silent", "unplugged", "garbage", "not_finite", "slow"}
    assert sum(p.stat().st_size for p in RUNS) < 1_000_000
    seen = {p.stem: read(p) for p in RUNS}
    for name, fault in (("servo_silent", "servo_silent"), ("unplugged", "serial_unplugged"),
                        ("garbage", "reply_corrupt"), ("not_finite", "action_not_finite")):
        bit = 1 << BY_NAME[fault].id
        assert any(t["active"] & bit for t in seen[name].rows[TICK]), name
    assert any(c["verdict"] == 2 for c in seen["slow"].rows[CHUNK])
    assert any(t["mode"] == 3 and not t["at_rest"] for t in seen["sweep"].rows[TICK])


@pytest.mark.parametrize("start", [1, 2])
def test_a_replay_begins_in_the_middle_of_motion(start: int) -> None:
    """The oldest records have given way: the first state that is left is one of an arm on the move."""
    flight = run("sweep")
    states = sorted(flight.rows[STATE], key=lambda s: int(s["ticks"]))
    first = next(s for s in states[start:] if s["mode"] == 3)
    flight.rows[STATE] = [s for s in states if s["ticks"] >= first["ticks"]]
    flight.rows[TICK] = [t for t in flight.rows[TICK] if t["number"] >= first["ticks"] - 5]
    outcome = replay(flight)
    assert outcome.difference is None
    assert outcome.ticks > 100 and outcome.skipped_ticks == 6


def limits(change: Callable[[Any], Any]) -> Edit:
    def edit(flight: Flight) -> None:
        config = flight.about.servo_config()
        joints = tuple(change(j) for j in config.joints)
        flight.about = msgspec.structs.replace(
            flight.about, servo=about_servo(replace(config, joints=joints)))
    return edit


def servo(**fields: Any) -> Edit:
    def edit(flight: Flight) -> None:
        config = replace(flight.about.servo_config(), **fields)
        flight.about = msgspec.structs.replace(flight.about, servo=about_servo(config))
    return edit


def merged(aggregate: str) -> Edit:
    def edit(flight: Flight) -> None:
        for row in (*flight.rows[CHUNK], *flight.rows[TIMING]):
            row["merge"] = 1 + AGGREGATES.index(aggregate)
    return edit


@pytest.mark.parametrize(("name", "edit", "what", "fields"), [
    ("sweep", limits(lambda j: replace(j, max=j.max - (j.max - j.min) / 3, min=j.min + (j.max - j.min) / 3)),
     ("tick", "chunk"), ("why_not", "verdict", "reason")),
    ("sweep", merged("conservative"), ("chunk",), ("n_blended", "timeline_nu")),
    ("servo_silent", servo(silent_ns=200_000_000), ("tick",), ("own",)),
    ("servo_silent", servo(silent_ns=30_000_000), ("tick",), ("own",)),
])  # fmt: skip
def test_a_changed_decision_is_found(name: str, edit: Edit, what: tuple[str, ...], fields: tuple[str, ...]) -> None:
    flight = run(name)
    edit(flight)
    difference = replay(flight).difference
    assert difference is not None
    assert difference.what in what and difference.name.partition("[")[0] in fields, difference


def test_a_recorded_reaction_that_the_table_no_longer_has_is_found() -> None:
    """As if the row had been given another reaction since."""
    flight = run("servo_silent")
    hit = next(t for t in flight.rows[TICK] if t["reaction"] == 3)
    hit["reaction"] = 4
    difference = replay(flight).difference
    assert difference is not None
    assert (difference.name, difference.recorded, difference.replayed) == ("reaction", "park", "hold")
    assert difference.number == hit["number"]


def test_the_actions_of_a_chunk_decide() -> None:
    flight = run("sweep")
    flight.rows[CHUNK][1]["actions"][20][0] += 0.01
    difference = replay(flight).difference
    assert difference is not None and difference.what == "chunk"


def test_a_goal_that_was_not_written_is_found() -> None:
    flight = run("sweep")
    tick = next(t for t in flight.rows[TICK] if t["wrote"] and t["number"] > 200)
    tick["write_rc"] = -11  # EAGAIN: the frame did not go out
    difference = replay(flight).difference
    assert difference is not None
    assert (difference.name, difference.number) == ("written_nu", tick["number"]) or difference.name == "wrote"


def test_a_hole_is_an_error_and_not_a_difference() -> None:
    flight = run("sweep")
    del flight.rows[TICK][300]
    with pytest.raises(FlightError, match=r"tick \d+ is missing"):
        replay(flight)


def test_other_windows_are_an_error() -> None:
    flight = run("sweep")
    limits(lambda j: replace(j, a_max=j.a_max / 1.3))(flight)
    with pytest.raises(FlightError, match="windows"):
        replay(flight)


@pytest.mark.parametrize(("damage", "says"), [
    (lambda f: f.rows[TICK][50].update(position_nu=[2**60]), "tick.position_nu: .* is not within"),
    (lambda f: f.rows[TICK][50].update(position_nu=[0] * 9), "tick.position_nu: a list of at most 8"),
    (lambda f: f.rows[TICK][50].update(starve_cause=99), "tick.starve_cause"),
    (lambda f: f.rows[TICK][50].update(mode="engaged"), "is no integer|no integer"),
    (lambda f: f.rows[TICK][50].update(thrust=1), "tick.thrust: this version knows no such field"),
    (lambda f: f.rows[STATE][0].update(mode=77), "state.mode"),
    (lambda f: f.rows[STATE][0].update(at1=300), "windows"),
    (lambda f: f.rows[STATE][0].update(ring1=[]), "another shape"),
    (lambda f: f.rows[STATE][0].update(ring1=[[0] * 9]), "state.ring1"),
    (lambda f: f.rows[STATE][0].update(n1=2**30), "state.n1"),
    (lambda f: f.rows[CHUNK][0].update(actions=[["x"] * 6] * 50), "chunk.actions: 'x' is no number"),
    (lambda f: f.rows[CHUNK][0].update(actions=[]), "without its actions"),
    (lambda f: f.rows[CHUNK][0].update(actions=[[0.0]] * 50), "not n_joints numbers"),
    (lambda f: f.rows[CHUNK][0].update(period_ns=0), "timing that is none"),
    (lambda f: f.rows.update({STATE: []}), "no state of the loop"),
    (lambda f: f.rows.update({TICK: []}), "no tick follows"),
])  # fmt: skip
def test_nothing_in_a_record_is_believed(damage: Edit, says: str) -> None:
    flight = run("sweep")
    damage(flight)
    with pytest.raises(FlightError, match=says):
        replay(flight)


@pytest.mark.parametrize(("servo_fields", "says"), [
    ({"joints": []}, "configuration"),
    ({"period_ns": 0}, "configuration"),
    ({"period_ns": 1.5}, "configuration"),
    ({"aggregate": "worst"}, "configuration"),
    ({"gain": 3}, r"\['gain'\], which this version does not know"),
    ({"max_jump": 1e300}, "configuration"),
])
def test_a_configuration_that_is_none(servo_fields: dict[str, Any], says: str) -> None:
    flight = run("sweep")
    flight.about = msgspec.structs.replace(flight.about, servo=flight.about.servo | servo_fields)
    with pytest.raises(FlightError, match=says):
        replay(flight)


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sweep = str(Path(__file__).parent / "runs/sweep.mcap")
    assert main.main(["replay", sweep]) == 0
    assert "every decision is the same" in capsys.readouterr().out
    assert main.main(["replay", "--json", sweep]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] is None
    assert main.main(["replay", str(tmp_path / "none.mcap")]) == 1
    assert "No such file" in capsys.readouterr().err
    assert main.main(["flight", "show", sweep]) == 0
    assert "/vlad/tick" in capsys.readouterr().out


def test_the_command_reports_a_difference(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def altered(path: Path) -> Flight:
        flight = read(path)
        servo(silent_ns=200_000_000)(flight)
        return flight

    monkeypatch.setattr("vlad.replay.read", altered)
    assert main.main(["replay", str(Path(__file__).parent / "runs/servo_silent.mcap")]) == 1
    said = capsys.readouterr().out
    assert "first difference: tick" in said and "servo_silent" in said
