"""The hard T_inference < T_execution check, at load and at admission: pure, so exact."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from vlad.ladder import FULL, Rung
from vlad.latency import LatencyWindow
from vlad.load_check import check_load
from vlad.scheduler import Request, Scheduler, SchedulerConfig, Starve, View
from vlad.servo import MS

PERIOD_NS = 33_333_333
CONFIG = SchedulerConfig(PERIOD_NS, 50, lookahead_ns=85 * MS)
T0 = 10_000_000 * MS


def view(now_ns: int, *, due_in_ns: int | None = None, at_rest: bool = False, epoch: int = 1,
         ready: bool = True) -> View:
    last = None if due_in_ns is None else now_ns + due_in_ns
    return View(now_ns, now_ns, epoch, at_rest, last, ready)


def warmed(latency_ns: int, config: SchedulerConfig = CONFIG) -> Scheduler:
    scheduler = Scheduler(config)
    scheduler.latency.warm({FULL: [latency_ns]})
    return scheduler


# --- at load --------------------------------------------------------------------------------


@pytest.mark.parametrize(("worst_ms", "fits"), [(600, True), (623, True), (625, False), (6150, False)])
def test_async_needs_two_inferences_and_the_braking_distance_in_one_chunk(
    worst_ms: int, fits: bool
) -> None:
    check = check_load(CONFIG, [100 * MS, worst_ms * MS])
    assert check.fits == fits
    assert check.t_inference_ns == pytest.approx(worst_ms * 1.2 * MS)


def test_a_refusal_names_the_rate_and_the_chunk_that_fit() -> None:
    check = check_load(CONFIG, [6150 * MS])
    need_ns = 2 * check.t_inference_ns + 2 * CONFIG.lookahead_ns
    assert check.chunk_size_that_fits * PERIOD_NS >= need_ns
    assert (check.chunk_size_that_fits - 1) * PERIOD_NS < need_ns
    assert CONFIG.chunk_size / check.rate_hz_that_fits * 1e9 == pytest.approx(need_ns)
    assert f"{check.rate_hz_that_fits:.3g} Hz" in check.reason
    assert 'mode = "sync"' in check.reason
    bigger = replace(CONFIG, chunk_size=check.chunk_size_that_fits)
    assert check_load(bigger, [6150 * MS]).fits


def test_the_board_profile_counts_when_it_is_slower_than_the_measurement() -> None:
    assert not check_load(CONFIG, [100 * MS], profile_ns=6150 * MS).fits


def test_sync_is_the_users_choice_and_always_loads() -> None:
    assert check_load(replace(CONFIG, mode="sync"), [60_000 * MS]).fits


def test_a_fixed_threshold_must_cover_one_inference() -> None:
    fixed = replace(CONFIG, threshold=0.2)
    assert not check_load(fixed, [400 * MS]).fits
    assert check_load(fixed, [200 * MS]).fits


# --- the prediction -------------------------------------------------------------------------


def test_a_spike_is_forgotten_and_the_warm_up_evicted() -> None:
    window = LatencyWindow(20, 0.95)
    window.warm({FULL: [900, 900]})
    assert window.predict_ns() == 900
    window.add(100)
    assert window.predict_ns() == 100
    window.add(5000)
    assert window.predict_ns() == 5000
    for _ in range(20):
        window.add(100)
    assert window.predict_ns() == 100


def test_quantiles_are_the_nearest_rank() -> None:
    window = LatencyWindow(100, 0.95)
    values = list(range(1, 101))
    random.Random(1).shuffle(values)
    for value in values:
        window.add(value)
    assert (window.quantile_ns(0.5), window.predict_ns(), window.quantile_ns(0.99)) == (50, 95, 99)


class _Shared(LatencyWindow):
    """An inference ends on another thread in the middle of every look at the window."""

    def load_ns(self, rung: Rung, encoded: int) -> float:
        self.add(400, rung)
        return super().load_ns(rung, encoded)


def test_an_inference_may_end_while_status_looks() -> None:
    window = _Shared(8, 0.95)
    for rung in (FULL, Rung("steps:5", steps=5)):
        window.add(300, rung)
        assert window.predict_ns(rung) >= 300
        assert window.likely_ns(rung, 1) >= 300
    for _ in range(8):
        window.add(500)
    assert window.predict_ns() == 500, "not what was made of older entries while these came"


# --- at admission ---------------------------------------------------------------------------


def test_nothing_is_asked_for_an_arm_that_is_not_engaged() -> None:
    assert warmed(100 * MS).plan(view(T0, epoch=0, at_rest=True)) is None


def test_a_cold_start_needs_rest_and_an_empty_queue() -> None:
    scheduler = warmed(100 * MS)
    assert scheduler.plan(view(T0, at_rest=False)) is None
    request = scheduler.plan(view(T0 + MS, at_rest=True))
    assert request is not None
    assert request.cold
    assert request.t_execution_ns == 0
    assert scheduler.cause is Starve.COLD


def test_a_cold_start_is_admitted_however_slow_the_policy() -> None:
    assert warmed(60_000 * MS).plan(view(T0, at_rest=True)) is not None


def test_one_request_at_a_time() -> None:
    scheduler = warmed(100 * MS)
    assert scheduler.plan(view(T0, at_rest=True)) is not None
    assert scheduler.plan(view(T0 + MS, at_rest=True)) is None


def test_async_asks_when_the_queue_falls_to_the_threshold() -> None:
    scheduler = warmed(500 * MS)
    threshold = scheduler.threshold_ns()
    assert threshold == 2 * 500 * MS + 2 * 85 * MS + 2 * PERIOD_NS
    assert warmed(20 * MS).threshold_ns() == pytest.approx(0.7 * 50 * PERIOD_NS)
    every = replace(CONFIG, every_step=True)
    assert warmed(20 * MS, every).threshold_ns() == pytest.approx(48.5 * PERIOD_NS, abs=1)
    assert warmed(800 * MS, every).threshold_ns() == warmed(800 * MS).threshold_ns()
    just_in_time = warmed(800 * MS).threshold_ns()
    assert just_in_time == 880 * MS + 2 * 85 * MS + 2 * PERIOD_NS
    assert scheduler.plan(view(T0, due_in_ns=threshold - PERIOD_NS + 1)) is None
    request = scheduler.plan(view(T0 + MS, due_in_ns=threshold - PERIOD_NS))
    assert request is not None
    assert not request.cold
    assert request.t_execution_ns == threshold


def test_a_request_that_cannot_arrive_in_time_is_not_started() -> None:
    scheduler = warmed(500 * MS)
    assert scheduler.plan(view(T0, due_in_ns=500 * MS - PERIOD_NS)) is None
    assert scheduler.cause is Starve.REFUSED
    for tick in range(5):
        scheduler.plan(view(T0 + tick * MS, due_in_ns=300 * MS))
    assert scheduler.counts.refused_admissions == 1, "counted once, not once a tick"
    assert scheduler.plan(view(T0 + 9 * MS, due_in_ns=500 * MS - PERIOD_NS + 1)) is not None


def test_every_admitted_request_fits_whatever_the_history() -> None:
    rng = random.Random(7)
    scheduler = Scheduler(CONFIG)
    now = T0
    for _ in range(5000):
        now += rng.randrange(1, 400) * MS
        seen = view(now, due_in_ns=rng.choice([None, rng.randrange(1, 1700) * MS]),
                    at_rest=rng.random() < 0.5)
        request = scheduler.plan(seen)
        if request is None:
            continue
        if not request.cold:
            assert request.predicted_ns < request.t_execution_ns
        now += rng.randrange(1, 3000) * MS
        scheduler.completed(request, now, rng.choice(["accepted", "rejected"]), "late")


def test_a_view_from_before_the_arrival_is_not_planned_on() -> None:
    scheduler = warmed(100 * MS)
    request = scheduler.plan(view(T0, at_rest=True))
    assert request is not None
    scheduler.completed(request, T0 + 100 * MS, "accepted", "none")
    old = View(T0 + 101 * MS, T0 + 99 * MS, 1, True, None)
    assert scheduler.plan(old) is None


def test_sync_waits_for_rest_between_chunks() -> None:
    scheduler = warmed(100 * MS, replace(CONFIG, mode="sync"))
    assert scheduler.plan(view(T0, due_in_ns=10 * MS)) is None
    assert scheduler.cause is Starve.SYNC
    request = scheduler.plan(view(T0 + MS, at_rest=True))
    assert request is not None
    assert request.cold


def test_missing_frames_are_a_cause_and_no_request() -> None:
    scheduler = warmed(100 * MS)
    assert scheduler.plan(view(T0, at_rest=True, ready=False)) is None
    assert scheduler.cause is Starve.STAGE


@pytest.mark.parametrize(("reason", "cause"), [
    ("late", Starve.LATE), ("stale", Starve.STALE), ("frame_age", Starve.STALE),
    ("position", Starve.GATE), ("not_finite", Starve.GATE), ("moved", Starve.GATE),
])
def test_a_rejection_is_the_cause_of_the_gap_that_follows(reason: str, cause: Starve) -> None:
    scheduler = warmed(100 * MS)
    request = scheduler.plan(view(T0, due_in_ns=200 * MS))
    assert request is not None
    assert scheduler.cause is Starve.INFERENCE
    scheduler.completed(request, T0 + 900 * MS, "rejected", reason)
    assert scheduler.cause is cause
    assert scheduler.plan(view(T0 + 901 * MS, at_rest=True)) is not None
    assert scheduler.cause is cause, "the cold start that mends a gap is not its cause"


def test_a_failed_inference_frees_the_slot_and_teaches_no_latency() -> None:
    scheduler = warmed(100 * MS)
    request = scheduler.plan(view(T0, at_rest=True))
    assert isinstance(request, Request)
    scheduler.failed(request)
    assert scheduler.latency.count == 0
    assert scheduler.plan(view(T0 + MS, at_rest=True)) is not None


def test_a_new_engagement_starts_cold() -> None:
    scheduler = warmed(100 * MS)
    request = scheduler.plan(view(T0, at_rest=True))
    assert request is not None
    scheduler.completed(request, T0 + MS, "rejected", "late")
    scheduler.plan(view(T0 + 2 * MS, epoch=0))
    scheduler.plan(view(T0 + 3 * MS, epoch=2, at_rest=False))
    assert scheduler.cause is Starve.COLD
