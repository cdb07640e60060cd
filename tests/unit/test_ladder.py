"""The ladder: its grammar, what each rung is expected to cost, and which one a request takes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from vlad.events import refusal_event
from vlad.ladder import FULL, Prerequisite, Rung, Vision, parse_ladder, parse_rung
from vlad.latency import OWN_ENOUGH, LatencyWindow
from vlad.scheduler import Request, Scheduler, SchedulerConfig, Starve, View
from vlad.servo import MS

PERIOD_NS = 33_333_333
REUSE, STATE, STEPS = parse_ladder(["reuse", "state_only", "steps:4"])
CONFIG = SchedulerConfig(PERIOD_NS, 50, lookahead_ns=85 * MS, cameras=2, ladder=(REUSE, STATE, STEPS),
                         threshold=0.99)  # fmt: skip
BRAKE_NS = 2 * 85 * MS + PERIOD_NS
COSTS = {FULL: [400 * MS], REUSE: [200 * MS], STATE: [100 * MS], STEPS: [300 * MS]}
T0 = 10_000_000 * MS


# --- grammar --------------------------------------------------------------------------------


def test_a_name_says_all_that_a_rung_does() -> None:
    assert parse_rung("reuse") == Rung("reuse", Vision.CHANGED)
    assert parse_rung("state_only") == Rung("state_only", Vision.NONE)
    assert parse_rung("steps:4") == Rung("steps:4", Vision.ALL, 4)
    assert parse_rung("reuse+steps:99") == Rung("reuse+steps:99", Vision.CHANGED, 99)
    assert parse_rung("state_only+steps:2") == Rung("state_only+steps:2", Vision.NONE, 2)


@pytest.mark.parametrize("name", [
    "", "full", "Reuse", "steps", "steps:0", "steps:04", "steps:-1", "steps:100", "steps:4+reuse", "reuse+",
    "+steps:4", "reuse+state_only", "steps:4+steps:2", "reuse steps:4", "reuse\n", " reuse", "steps:٤",
])  # fmt: skip
def test_anything_else_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="is no rung of the ladder: use") as error:
        parse_ladder(["reuse", name])
    assert repr(name) in str(error.value)


def test_a_rung_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'steps:4' is declared twice"):
        parse_ladder(["steps:4", "reuse", "steps:4"])


# --- what a rung is expected to cost --------------------------------------------------------


def window(size: int = 20) -> LatencyWindow:
    made = LatencyWindow(size, 0.95, cameras=2)
    made.warm(COSTS, vision_ns=100 * MS)
    return made


def test_each_rung_starts_from_what_it_cost_at_load() -> None:
    made = window()
    assert [made.predict_ns(rung) for rung in (FULL, REUSE, STATE, STEPS)] == [
        400 * MS, 200 * MS, 100 * MS, 300 * MS]  # fmt: skip
    assert made.predict_ns(REUSE, 1) == 300 * MS, "one camera changed"


def test_a_slower_machine_is_slower_on_rungs_that_did_not_run() -> None:
    made = window()
    for _ in range(3):
        made.add(800 * MS, FULL, 2)
    assert made.predict_ns(STATE) == 200 * MS
    assert made.predict_ns(REUSE, 1) == 600 * MS


def test_a_rungs_own_inferences_count_for_more_than_anothers() -> None:
    """The accelerator behind the vision block slows down: that says nothing of a state-only pass."""
    made = window()
    for _ in range(8):
        made.add(1600 * MS, FULL, 2)
    assert made.predict_ns(STATE) == 400 * MS, "until it has run"
    for _ in range(OWN_ENOUGH):
        made.add(100 * MS, STATE, 0)
    assert made.predict_ns(STATE) == 100 * MS
    assert made.predict_ns(FULL) == 1600 * MS


def test_a_spike_of_a_rung_is_forgotten_while_others_run() -> None:
    made = window(size=20)
    for _ in range(OWN_ENOUGH):
        made.add(5000 * MS, FULL, 2)
    assert made.predict_ns(FULL) == 5000 * MS
    for _ in range(20):
        made.add(100 * MS, STATE, 0)
    assert made.predict_ns(FULL) == 400 * MS


def test_cameras_that_had_to_be_encoded_are_no_drift() -> None:
    made = window()
    for _ in range(OWN_ENOUGH):
        made.add(300 * MS, REUSE, 1)
    assert made.predict_ns(REUSE, 0) == 200 * MS
    assert made.predict_ns(FULL) == 400 * MS


# --- which one a request takes --------------------------------------------------------------


class Reuse:
    """What can be reused: cameras to encode by rung, or what it lacks."""

    def __init__(self, reuse: Prerequisite, state: Prerequisite) -> None:
        self.ways = {REUSE: reuse, STATE: state}

    def __call__(self, rung: Rung) -> Prerequisite:
        return self.ways[rung]


ALL = Reuse(Prerequisite(0), Prerequisite(0))
NONE = Reuse(Prerequisite(lacking="all_changed"), Prerequisite(lacking="tokens_too_old"))


def scheduler(config: SchedulerConfig = CONFIG) -> Scheduler:
    made = Scheduler(config)
    made.latency.warm(COSTS, vision_ns=100 * MS)
    return made


def ask(made: Scheduler, t_execution_ns: int, able: Callable[[Rung], Prerequisite] | None = ALL) -> Request | None:
    view = View(T0, T0, 1, False, T0 + t_execution_ns - PERIOD_NS)
    return made.plan(view, able)


@pytest.mark.parametrize(("margin_ms", "rung", "encode"), [
    (401, FULL, 2), (400, REUSE, 0), (201, REUSE, 0), (200, STATE, 0), (101, STATE, 0),
])  # fmt: skip
def test_the_best_rung_that_arrives_before_the_arm_brakes(margin_ms: int, rung: Rung, encode: int) -> None:
    made = scheduler()
    request = ask(made, margin_ms * MS + BRAKE_NS)
    assert request is not None
    assert (request.rung, request.encode) == (rung, encode)
    assert request.predicted_ns == COSTS[rung][0]
    passed = made.rungs[: made.rungs.index(rung)]
    assert [made.counts.rungs[r.name].too_slow for r in passed] == [1] * len(passed)
    assert made.counts.rungs[rung.name].requests == 1
    assert made.counts.tight == 0


def test_a_rung_that_lacks_its_prerequisite_is_passed_by_and_counted() -> None:
    made = scheduler()
    request = ask(made, 301 * MS + BRAKE_NS, NONE)
    assert request is not None
    assert request.rung == STEPS
    assert made.counts.rungs["reuse"].skipped == {"all_changed": 1}
    assert made.counts.rungs["state_only"].skipped == {"tokens_too_old": 1}
    assert made.counts.rungs["full"].too_slow == 1


def test_a_camera_that_changed_is_part_of_the_cost() -> None:
    one = Reuse(Prerequisite(1), Prerequisite(0))
    made = scheduler()
    request = ask(made, 301 * MS + BRAKE_NS, one)
    assert request is not None
    assert (request.rung, request.encode, request.predicted_ns) == (REUSE, 1, 300 * MS)
    slower = ask(scheduler(), 300 * MS + BRAKE_NS, one)
    assert slower is not None
    assert slower.rung == STATE


def test_when_all_would_meet_the_brakes_the_fastest_is_taken() -> None:
    made = scheduler()
    request = ask(made, 101 * MS)
    assert request is not None
    assert request.rung == STATE
    assert made.counts.tight == 1


def test_below_the_last_rung_nothing_is_asked_and_the_cause_is_known() -> None:
    made = scheduler()
    for _ in range(5):
        assert ask(made, 100 * MS) is None
    assert made.cause is Starve.REFUSED
    assert made.counts.refused_admissions == 1, "counted once, not once a tick"
    assert [made.counts.rungs[r.name].too_slow for r in made.rungs] == [1, 1, 1, 1]
    assert made.refusal is not None
    assert made.refusal.t_execution_ns == 100 * MS
    assert made.refusal.predicted_ns == {rung.name: ns for rung, (ns,) in COSTS.items()}
    cold = made.plan(View(T0 + MS, T0 + MS, 1, True, None), ALL)
    assert cold is not None
    assert cold.cold
    assert cold.rung == FULL, "a cold start sees everything"


def test_a_refusal_names_what_each_rung_lacked() -> None:
    made = scheduler()
    assert ask(made, 100 * MS, NONE) is None
    event = refusal_event(T0, made.refusal)
    assert event["event"] == "refused_admission"
    assert (event["t_execution_ms"], event["predicted_ms"]) == (100, {"full": 400, "steps:4": 300})
    assert event["lacking"] == {"reuse": "all_changed", "state_only": "tokens_too_old"}


def test_a_spike_in_a_young_window_stops_no_arm_that_arrives_as_a_rule() -> None:
    made = scheduler(replace(CONFIG, ladder=()))
    for value in (400, 400, 1600, 400):
        made.latency.add(value * MS, FULL, 2)
    request = ask(made, 401 * MS + BRAKE_NS, None)
    assert request is not None
    assert request.predicted_ns == 400 * MS
    assert made.counts.tight == 1


def test_a_rung_that_never_ran_is_tried_before_the_arm_stops() -> None:
    """The vision block alone is slow: scaled by that the state-only pass would not fit, but it does."""
    made = scheduler(replace(CONFIG, ladder=(STATE,)))
    for _ in range(8):
        made.latency.add(4000 * MS, FULL, 2)
    assert made.latency.predict_ns(STATE) == 1000 * MS
    request = ask(made, 101 * MS + BRAKE_NS)
    assert request is not None
    assert (request.rung, request.predicted_ns) == (STATE, 100 * MS)
    made.completed(request, T0 + 900 * MS, "rejected", "late")
    later = View(T0 + MS * 1000, T0 + MS * 1000, 1, False, T0 + 1800 * MS)
    assert made.plan(later, ALL) is None, "once: now it is known"


def test_every_request_can_be_made_and_is_expected_in_time_whatever_the_history() -> None:
    rng = random.Random(5)
    made, now, seen = scheduler(replace(CONFIG, threshold="auto")), T0, set()
    for _ in range(4000):
        now += rng.randrange(1, 200) * MS
        able = Reuse(
            rng.choice([Prerequisite(0), Prerequisite(1), Prerequisite(lacking="all_changed")]),
            rng.choice([Prerequisite(0), Prerequisite(lacking="tokens_too_old")]),
        )
        last = rng.choice([None, now + rng.randrange(1, 1700) * MS])
        request = made.plan(View(now, now, 1, rng.random() < 0.5, last), able)
        if request is None:
            continue
        seen.add(request.rung)
        if request.cold:
            assert request.rung == FULL
        else:
            assert request.predicted_ns < request.t_execution_ns
        if request.rung in able.ways:
            assert able.ways[request.rung] == Prerequisite(request.encode)
        else:
            assert request.encode == 2
        now += round(COSTS[request.rung][0] * rng.choice([0.5, 1, 1, 1, 3, 8]))
        made.completed(request, now, *rng.choice([("accepted", "none"), ("rejected", "late")]))
    assert seen == set(made.rungs)
    rungs = made.counts.rungs.values()
    assert sum(c.requests for c in rungs) == made.counts.requests == made.counts.completed
    assert sum(c.verdicts.total() for c in rungs) == made.counts.completed


def test_the_verdict_is_counted_for_its_rung() -> None:
    made = scheduler()
    request = ask(made, 201 * MS + BRAKE_NS)
    assert request is not None
    made.completed(request, T0 + 900 * MS, "rejected", "late")
    assert made.counts.rungs["reuse"].verdicts == {"late": 1}
    assert not made.counts.rungs["full"].verdicts
    assert made.latency.predict_ns(FULL) == 1800 * MS, "it says how slow the machine is"


def test_sync_and_no_ladder_take_full_passes_only() -> None:
    bare = scheduler(replace(CONFIG, ladder=()))
    assert ask(bare, 300 * MS) is None
    request = ask(bare, 401 * MS + BRAKE_NS, None)
    assert request is not None
    assert request.rung == FULL
