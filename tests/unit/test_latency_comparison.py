"""What must hold on every latency trace: the real scheduler, gate, queue and loop in simulated time."""

from __future__ import annotations

import json

import pytest

from bench.latency_comparison import FULL_MS, WAYS, Outcome, cost_ns, main, run
from bench.latency_traces import SLOT_NS, S, Trace, traces
from vlad.ladder import FULL, parse_rung
from vlad.servo import MS

PLAIN, LADDER = "auto", "auto, ladder"


def trace(name: str, seconds: int | None = None) -> Trace:
    found = next(t for t in traces() if t.name == name)
    found.seconds = seconds or found.seconds
    return found


def both(name: str, seconds: int | None = None) -> tuple[Outcome, Outcome]:
    outcomes = run(trace(name, seconds), PLAIN), run(trace(name, seconds), LADDER)
    for outcome in outcomes:
        assert outcome.illegal == []
        assert outcome.holds == 0
    return outcomes


# --- the traces -----------------------------------------------------------------------------


def test_a_trace_is_a_function_of_time_and_seed() -> None:
    one, other = trace("throttling"), trace("throttling")
    other.at(9000)  # asked in another order
    starts = range(0, 700 * S, 37 * S)
    assert [one.latency_ns(t, 500 * MS) for t in starts] == [other.latency_ns(t, 500 * MS) for t in starts]
    assert traces(2)[0].latency_ns(0, 500 * MS) != traces(1)[0].latency_ns(0, 500 * MS)


def test_a_pass_takes_as_long_as_the_speed_needs_to_sum_up_to_it() -> None:
    even = Trace("even", "", 10, 1, lambda t_s: 0.5 if t_s < 1 else 1.0, noise=0.0)
    assert even.latency_ns(2 * S, 300 * MS) == 300 * MS
    assert even.latency_ns(0, 300 * MS) == 600 * MS
    assert even.latency_ns(S - 100 * MS, 300 * MS) == 350 * MS
    stalled = Trace("stalled", "", 10, 1, lambda _: 1.0, noise=0.0, stalls=((2.0, 1.0),))
    assert stalled.latency_ns(2 * S - SLOT_NS, 100 * MS) > 1000 * MS


def test_what_a_rung_costs_is_below_a_full_pass() -> None:
    full = cost_ns(1000, FULL, 2)
    assert full == 1000
    for name in ("reuse", "state_only", "steps:4", "state_only+steps:4"):
        rung = parse_rung(name)
        assert cost_ns(1000, rung, rung.least_encoded(2)) < full


# --- the ways of asking ---------------------------------------------------------------------


@pytest.mark.fault(9)
def test_throttling_stops_the_arm_less_with_a_ladder() -> None:
    plain, ladder = both("throttling")
    assert ladder.idle < 0.1 * plain.idle
    assert ladder.longest_gap_s < plain.longest_gap_s
    assert ladder.age_p99_s < plain.age_p99_s
    assert ladder.cold_starts == 1, "it never came to rest"
    assert ladder.refused == 0


@pytest.mark.fault(9)
def test_twice_as_slow_for_minutes_is_bridged_by_the_ladder() -> None:
    plain, ladder = both("doubling", seconds=240)
    assert plain.idle > 0.1, "full passes alone cannot follow one another"
    assert ladder.idle < 0.01
    assert ladder.rungs["full"] > ladder.rungs["state_only"], "no more state-only passes than needed"
    assert ladder.image_age_max_s <= 1.67


def test_a_slow_accelerator_behind_the_cameras_forbids_no_pass_without_them() -> None:
    def slowdown(t_s: float) -> float:
        return 4.0 if 30 <= t_s < 150 else 1.0

    plain = run(trace("steady", 180), PLAIN, 250, slowdown)
    ladder = run(trace("steady", 180), LADDER, 250, slowdown)
    assert plain.illegal == ladder.illegal == []
    assert plain.cold_starts > 5
    assert ladder.cold_starts == 1
    assert ladder.idle < 0.005


def test_a_spike_is_forgotten() -> None:
    plain, ladder = both("one_spike")
    for outcome in (plain, ladder):
        assert outcome.gaps == 2, "the start, and the spike"
        assert outcome.verdicts == {"accepted": outcome.verdicts["accepted"], "late": 1}


def test_rare_spikes_stop_the_arm_only_while_they_last() -> None:
    plain, ladder = both("spikes", seconds=300)
    assert plain.refused <= 1, "no request is refused because of spikes that are over"
    assert ladder.idle <= plain.idle


def test_nothing_is_left_out_on_a_machine_that_keeps_its_speed() -> None:
    plain, ladder = both("steady", seconds=120)
    assert set(ladder.rungs) == {"full"}
    assert (plain.gaps, ladder.gaps) == (1, 1)
    assert plain.verdicts == ladder.verdicts
    assert set(plain.verdicts) == {"accepted"}


def test_the_ladder_is_no_worse_whatever_the_threshold() -> None:
    for threshold in ("0.7", "0.5"):
        plain, ladder = run(trace("sawtooth", 200), threshold), run(trace("sawtooth", 200), f"{threshold}, ladder")
        assert ladder.idle <= plain.idle
        assert plain.illegal == ladder.illegal == []


def test_sync_rests_between_chunks_and_is_never_late() -> None:
    sync = run(trace("sawtooth", 100), "sync")
    assert sync.illegal == []
    assert sync.verdicts == {"accepted": sync.rungs["full"]}
    assert sync.idle > 0.2


def test_the_command_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--trace", "one_spike", "--way", PLAIN, "--way", "sync"]
    assert main(words) == 0
    table = capsys.readouterr().out
    assert f"a full pass: {FULL_MS:g} ms" in table
    assert "one_spike" in table
    assert "sync" in table
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["way"] for row in rows] == [PLAIN, "sync"]
    assert set(WAYS) >= {row["way"] for row in rows}
