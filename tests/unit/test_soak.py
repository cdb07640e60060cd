"""The witnesses of `make soak` must find what they are there for, so each wrong thing is put before them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import CHUNK, PERIOD_NS, sweep, sweep_policy
from tools.soak import verdict
from tools.soak.health import Vital, theil_sen
from tools.soak.injections import INJECTIONS
from tools.soak.outcome import Outcome
from tools.soak.scenarios import SCENARIOS
from tools.soak.simulated import Hour
from tools.soak.watcher import counts
from tools.soak.witness import Witness, build
from vlad.faults import BY_NAME
from vlad.scheduler import SchedulerConfig
from vlad.servo import CLEAR, ENGAGE, HOLD, MS, ServoConfig
from vlad.simulation import Simulation

S = 1_000_000_000
START_NS = 1_000_000 * MS


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("soak"))


@pytest.fixture
def sim(servo_config: ServoConfig, scheduler_config: SchedulerConfig) -> Simulation:
    return Simulation(servo_config, scheduler_config, sweep_policy, lambda _: 100 * MS, start_ns=START_NS,
                      pose=tuple(sweep(START_NS)[0]))


@pytest.fixture
def witness(library: Path, sim: Simulation, servo_config: ServoConfig) -> Iterator[Witness]:
    made = Witness(library, sim.servo, sim.arm, servo_config, rest_ns=330 * MS,
                   max_age_ns=10_000 * MS + CHUNK * PERIOD_NS)
    yield made
    made.close()


def engage(sim: Simulation, witness: Witness) -> None:
    witness.asked(ENGAGE)
    assert sim.engage() == "engaged"
    sim.run(sim.now_ns + 2000 * MS)


def test_a_good_run_has_no_violation(sim: Simulation, witness: Witness) -> None:
    engage(sim, witness)
    totals = witness.totals()
    assert witness.text == ""
    assert totals["goals"] > 100 and totals["moved"] > 100 and totals["covered"] > 100
    assert totals["engaged"] == totals["covered"] + totals["starved"]


def test_engaged_unasked_is_found(sim: Simulation, witness: Witness) -> None:
    sim.servo.simulate(sim.now_ns + 20 * MS)
    sim.servo.request(ENGAGE)
    sim.servo.simulate(sim.now_ns + 60 * MS)
    assert "nobody asked" in witness.text


def test_a_stop_without_request_or_fault_is_found(sim: Simulation, witness: Witness) -> None:
    engage(sim, witness)
    sim.servo.request(HOLD)
    sim.run(sim.now_ns + 50 * MS)
    assert "left engaged without" in witness.text


def test_an_uninvited_fault_is_found_and_an_allowed_one_timed(sim: Simulation, witness: Witness) -> None:
    engage(sim, witness)
    fault = BY_NAME["suspended"].id
    witness.allow([fault])
    witness.injected(sim.now_ns, [fault])
    sim.servo.pulse_fault(fault)
    sim.run(sim.now_ns + 400 * MS)
    assert witness.text == ""
    assert 0 < witness.times.raised_ns - witness.times.injected_ns <= 20 * MS
    assert witness.times.left_ns >= witness.times.raised_ns
    sim.servo.pulse_fault(BY_NAME["policy_stuck"].id)
    sim.run(sim.now_ns + 50 * MS)
    assert "nothing injected" in witness.text


def test_engaging_after_a_latch_needs_clear_and_engage(sim: Simulation, witness: Witness) -> None:
    engage(sim, witness)
    fault = BY_NAME["suspended"].id
    witness.allow([fault])
    sim.servo.pulse_fault(fault)
    sim.run(sim.now_ns + 2000 * MS)
    sim.servo.request(CLEAR)  # behind the witness's back: for it the fault is still to be cleared
    sim.run(sim.now_ns + 50 * MS)
    assert "unlatched without clear" in witness.text


@pytest.mark.parametrize("what", ["limit", "step"])
def test_an_illegal_goal_is_found(library: Path, servo_config: ServoConfig, scheduler_config: SchedulerConfig,
                                  what: str) -> None:
    """The loop itself writes none: the witness is told tighter bounds."""
    sim = Simulation(servo_config, scheduler_config, sweep_policy, lambda _: 100 * MS, start_ns=START_NS,
                     pose=tuple(sweep(START_NS)[0]))
    witness = Witness(library, sim.servo, sim.arm, servo_config, rest_ns=330 * MS, max_age_ns=12 * S)
    bound = witness._view.bound
    if what == "limit":
        bound.max_nu[0] = sim.arm.judge()["goal_nu"][0] + 1000
        bound.min_nu[0] = sim.arm.judge()["goal_nu"][0] - 1000
    else:
        bound.step_nu[0] = 1000
    engage(sim, witness)
    expected = {"limit": "out of limits", "step": "more than one step"}[what]
    assert expected in witness.text
    witness.close()


def test_an_hour_runs_and_is_the_same_again(library: Path) -> None:
    first, second = Hour(7, library).run(0.05), Hour(7, library).run(0.05)
    assert first == second
    assert first["goals"] > 5000 and first["recoveries"] > 10


# --- the judgement of a real-time run ----------------------------------------------------------


def mode(t: float, before: str, after: str) -> dict[str, Any]:
    return {"t_ns": int(t * S), "event": "mode", "from": before, "to": after}


def fault(t: float, name: str, *, latched: bool = False) -> dict[str, Any]:
    return {"t_ns": int(t * S), "event": "fault", "name": name, "active": True, "latched": latched}


def test_a_stop_needs_its_fault_or_request() -> None:
    stop = mode(10, "engaged", "stopping")
    assert verdict.stops_without_cause([stop], [])[0]
    assert not verdict.stops_without_cause([fault(10, "servo_silent"), stop], [])[0]
    assert verdict.stops_without_cause([fault(10, "chunk_jump"), stop], [])[0], "a warning stops nothing"
    assert verdict.stops_without_cause([fault(5, "servo_silent"), stop], [])[0], "long before"
    warned = {**fault(10, "camera_dark"), "reaction": "warn"}
    assert verdict.stops_without_cause([warned, stop], [])[0], "raised as a warning"
    hold = {"t_ns": int(9.9 * S), "event": "operator", "verb": "hold", "outcome": "ok"}
    in_the_midst = {**hold, "t_ns": stop["t_ns"] + 180 * MS}
    assert verdict.stops_without_cause([stop, in_the_midst], [])[0], "after it"
    stood = {**fault(0, "servo_deadline_missed"), "t_ns": stop["t_ns"] + 800 * MS, "reaction": "hold"}
    assert not verdict.stops_without_cause([stop, in_the_midst, stood], [])[0], "a tick that stood still"
    bad, by = verdict.stops_without_cause([hold, stop], [])
    assert not bad and by["hold"] == 1


@pytest.mark.parametrize(("asked", "problems"), [
    ([], 2), (["engage"], 1), (["clear", "resume"], 1), (["clear", "engage"], 0)])
def test_motion_after_a_latch_needs_clear_and_engage(asked: list[str], problems: int) -> None:
    events = [fault(1, "servo_silent", latched=True), mode(1, "engaged", "stopping"), mode(9, "holding", "engaged")]
    requests = [(int((2 + i) * S), verb) for i, verb in enumerate(asked)]
    assert len(verdict.motion_unasked(events, requests)) == problems


def test_a_gap_needs_what_its_cause_says() -> None:
    def gap(cause: str) -> dict[str, Any]:
        return {"t_ns": 10 * S, "event": "gap", "cause": cause, "duration_ms": 300.0}

    late = {"t_ns": int(9.8 * S), "event": "chunk", "verdict": "rejected", "reason": "late", "cold": False,
            "t_request_ns": 9 * S}
    cold = {**late, "verdict": "accepted", "reason": "none", "cold": True}
    assert not verdict.gaps_without_cause([late, gap("late")])
    assert not verdict.gaps_without_cause([cold, gap("cold")])
    assert verdict.gaps_without_cause([gap("late")])
    assert verdict.gaps_without_cause([late, gap("stale")])
    assert verdict.gaps_without_cause([late, gap("cold")])
    assert verdict.gaps_without_cause([{**late, "t_ns": 2 * S}, gap("late")])


def test_uninvited_faults_are_told_from_injected_ones() -> None:
    outcome = Outcome("silence", 1, 10 * S, ("servo_silent",), recover_ns=14 * S)
    rows, bad = verdict.uninvited([fault(11, "servo_silent")], [outcome], [])
    assert not rows and not bad
    rows, bad = verdict.uninvited([fault(30, "servo_silent"), fault(31, "action_not_finite")], [outcome], [])
    assert len(rows) == 2 and len(bad) == 1
    rows, bad = verdict.uninvited([fault(30, "servo_encoder")], [outcome], [])
    assert len(bad) == 1
    stood = {**fault(29.9, "short_write"), "reaction": "warn"}
    rows, bad = verdict.uninvited([stood, fault(30, "servo_encoder")], [outcome], [])
    assert len(rows) == 2 and not bad, "the simulated arm stood still and caught up"


def test_bounds_and_rest_are_judged() -> None:
    slow = Outcome("silence", 1, 0, ("servo_silent",), "servo_silent", detect_ms=900.0, stop_ns=S,
                   bound_ms=500.0, rest_bound_ms=1000.0, recover_ns=9 * S)
    motion = SimpleNamespace(last_change_ns=lambda after, before: 2 * S)
    verdict.rests([slow], motion)  # type: ignore[arg-type]
    verdict.bounds([slow], [mode(-1, "ready", "engaged")])
    assert len(slow.problems) == 2
    held = Outcome("silence", 2, 5 * S, ("servo_silent",), "servo_silent", detect_ms=9.0, bound_ms=500.0,
                   rest_bound_ms=1000.0)
    verdict.bounds([held], [mode(4, "engaged", "stopping"), mode(4.2, "stopping", "holding")])
    assert held.disturbed and not held.problems
    verdict.bounds([held], [mode(4, "ready", "engaged")])
    assert held.problems == ["raised, and the arm did not leave engaged"]


def vitals(slope_mib_h: float, minutes: int, fds: int = 19) -> list[Vital]:
    rng = random.Random(1)
    return [Vital(i * S, int((100 + slope_mib_h * i / 3600 + rng.random()) * 2**20), 0, fds + (i > 1500), 13)
            for i in range(minutes * 60)]


def test_a_leak_is_found_and_noise_is_none() -> None:
    flat = verdict.memory(vitals(0.0, 50), 600)
    assert flat["flat"] is False, "a descriptor was lost at 1500 s"
    assert [p.split(":")[0] for p in flat["problems"]] == ["descriptors"]
    leak = verdict.memory(vitals(3.0, 40), 600)
    assert any("memory grows by" in p for p in leak["problems"])
    assert verdict.memory(vitals(3.0, 3), 60)["flat"] is None, "too short to say"
    slope = theil_sen([i / 10 for i in range(30)], [5 + i / 10 + (40 if i in (3, 17) else 0) for i in range(30)])
    assert slope is not None and slope.low <= 1.0 <= slope.high and abs(slope.per_hour - 1.0) < 0.01


def test_counters_are_told_from_gauges() -> None:
    seen = counts({"servo": {"ticks": 5, "rate_hz": 100, "wake_us": {"p99": 3.0, "count": 7}}, "mode": "ready"})
    assert seen == {"servo.ticks": 5, "servo.wake_us.count": 7}


def test_names_are_unique_and_rows_exist() -> None:
    for table in (SCENARIOS, INJECTIONS):
        assert len({x.name for x in table}) == len(table)
        for x in table:
            assert all(name in BY_NAME for name in (*x.rows, *x.along)), x.name
