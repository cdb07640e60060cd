"""When a stage that is stuck in this process ends it: decided on given times."""

from __future__ import annotations

from vlad.hang import HangWatch
from vlad.servo import MS

BOUND = {"vision": 500 * MS, "expert": 2000 * MS}
ROUND_MS = 20


def ended_at_ms(beats: list[dict[str, int]], rounds_ms: list[int]) -> int | None:
    """The round (in ms) in which the watch names a stage; `beats` in ms, one set for each round."""
    watch = HangWatch()
    for at_ms, beat in zip(rounds_ms, beats, strict=True):
        if watch.stuck(at_ms * MS, {name: ms * MS for name, ms in beat.items()}, BOUND):
            return at_ms
    return None


def test_a_stage_five_seconds_beyond_its_bound_ends_the_process() -> None:
    rounds = list(range(10_000, 20_000, ROUND_MS))
    hung = [{"vision": at, "expert": 10_000} for at in rounds]
    assert ended_at_ms(hung, rounds) == 10_000 + 2000 + ROUND_MS + 5000


def test_a_slow_call_that_returns_does_not() -> None:
    rounds = list(range(10_000, 40_000, ROUND_MS))
    slow = [{"vision": at - at % 5000, "expert": at} for at in rounds]  # 4.5 s beyond the bound, again and again
    assert ended_at_ms(slow, rounds) is None


def test_time_in_which_the_supervisor_itself_stood_still_does_not_count() -> None:
    """The whole process was stopped, or the machine slept: the stages get their time anew."""
    rounds = [*range(10_000, 12_000, ROUND_MS), *range(60_000, 64_000, ROUND_MS)]
    stood = [{"vision": min(at, 11_990), "expert": at} for at in rounds]
    assert ended_at_ms(stood, rounds) is None
    rounds = [*range(10_000, 20_000, 600)]
    assert ended_at_ms([{"vision": 10_000, "expert": at} for at in rounds], rounds) is None


def test_a_stage_without_a_bound_is_not_watched() -> None:
    watch = HangWatch()
    assert not any(watch.stuck(at * MS, {"capture": 0}, BOUND) for at in range(0, 20_000, ROUND_MS))
