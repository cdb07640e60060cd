"""The watchdog against a plain model of the fault table; I3: latched until `clear`."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vlad.faults import BY_ID, FAULTS, STAGE_FAULTS
from vlad.watchdog import REACTIONS, Watchdog

MS = 1_000_000
IDS = st.sampled_from([fault.id for fault in FAULTS])
LEVELS = st.sampled_from(REACTIONS)
STAGES = st.sampled_from(sorted(STAGE_FAULTS))


@dataclass
class State:
    active: bool = False
    latched: bool = False
    last_true_ms: int = 0
    level: int = 0
    level_ms: int = 0
    count: int = 0
    since_ms: int = 0
    recent_ms: list[int] = field(default_factory=list)


class WatchdogModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 1000
        self.dog = Watchdog()
        self.state = {fault.id: State() for fault in FAULTS}
        self.held: dict[int, int] = {}
        self.pulsed: set[int] = set()
        self.beat_ms = dict.fromkeys(STAGE_FAULTS, self.now_ms)
        self.bound_ms = dict.fromkeys(STAGE_FAULTS, 0)

    @rule(fault=IDS, condition=st.booleans())
    def hold(self, fault: int, condition: bool) -> None:
        self.dog.hold(fault, condition)
        self.held[fault] = 5 * condition

    @rule(fault=IDS, level=LEVELS)
    def hold_at(self, fault: int, level: str) -> None:
        self.dog.hold_at(fault, level)
        self.held[fault] = REACTIONS.index(level)

    @rule(fault=IDS)
    def pulse(self, fault: int) -> None:
        self.dog.pulse(fault)
        self.pulsed.add(fault)

    @rule(stage=STAGES, bound_ms=st.sampled_from([0, 100, 500]))
    def bound(self, stage: str, bound_ms: int) -> None:
        self.dog.bound(stage, bound_ms * MS, self.now_ms * MS)
        self.bound_ms[stage], self.beat_ms[stage] = bound_ms, self.now_ms

    @rule(stage=STAGES)
    def beat(self, stage: str) -> None:
        self.dog.beat(stage, self.now_ms * MS)
        self.beat_ms[stage] = self.now_ms

    def silent(self) -> set[str]:
        return {
            stage
            for stage, bound in self.bound_ms.items()
            if bound and self.now_ms - self.beat_ms[stage] > bound
        }

    @rule(ms=st.sampled_from([1, 10, 250, 501, 1000, 5000]), own=st.dictionaries(IDS, LEVELS, max_size=2))
    def evaluate(self, ms: int, own: dict[int, str]) -> None:
        self.now_ms += ms
        full = self.pulsed | {STAGE_FAULTS[stage] for stage in self.silent()}
        changed, worst = set(), 0
        for fault in FAULTS:
            state = self.state[fault.id]
            before = (state.active, state.latched, self.reaction(fault.id))
            levels = self.held.get(fault.id, 0), REACTIONS.index(own.get(fault.id, "none"))
            self.step(fault.id, state, 5 if fault.id in full else max(levels))
            if (state.active, state.latched, self.reaction(fault.id)) != before:
                changed.add(fault.id)
            worst = max(worst, self.reaction(fault.id))
        self.pulsed.clear()
        assert self.dog.evaluate(self.now_ms * MS, own) == (REACTIONS[worst], changed)

    def reaction(self, fault: int) -> int:
        state = self.state[fault]
        if state.latched:
            return max(BY_ID[fault].reaction, 3)
        return state.level if state.active else 0

    def step(self, fault: int, state: State, level: int) -> None:
        row = BY_ID[fault]
        if not level:
            if state.active and self.now_ms - state.last_true_ms >= row.clear_after_ms:
                state.active = False
            return
        if not (state.active or state.latched):
            state.since_ms = self.now_ms
        level, threshold = min(level, row.reaction), min(row.reaction, 3)
        begins = not state.active or fault in self.pulsed
        worsens = begins or state.level < threshold
        since_ms = self.now_ms - state.level_ms
        if not state.active or level >= state.level or since_ms >= row.clear_after_ms:
            state.level, state.level_ms = level, self.now_ms
        state.count += begins
        if worsens and level >= threshold:
            state.recent_ms.append(self.now_ms)
            last = state.recent_ms[-row.repeat_n :]
            if row.repeat_n and len(last) == row.repeat_n:
                state.latched |= last[-1] - last[0] <= row.repeat_window_s * 1000
        state.active, state.last_true_ms = True, self.now_ms
        state.latched |= row.latch and level == row.reaction

    @rule()
    def clear(self) -> None:
        for state in self.state.values():
            if state.latched and not state.active:
                state.latched, state.recent_ms = False, []
        assert self.dog.clear() == {f for f, state in self.state.items() if state.latched}

    @invariant()
    def agrees(self) -> None:
        assert self.dog.active == {f for f, state in self.state.items() if state.active}
        assert self.dog.latched == {f for f, state in self.state.items() if state.latched}
        assert self.dog.all_fresh(self.now_ms * MS) == (not self.silent())
        for f, state in self.state.items():
            assert self.dog.reaction(f) == REACTIONS[self.reaction(f)]
            if state.count:
                assert self.dog.count(f) == state.count
                assert self.dog.since_ns(f) == state.since_ms * MS


TestWatchdog = WatchdogModel.TestCase
TestWatchdog.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("fault", [0, 51, -1])
def test_unknown_names_are_refused(fault: int) -> None:
    dog = Watchdog()
    for call in (dog.pulse, dog.count, lambda f: dog.hold(f, True), lambda f: dog.evaluate(0, [f])):
        with pytest.raises(ValueError, match="fault"):
            call(fault)
    with pytest.raises(ValueError, match="level"):
        dog.hold_at(1, "stop")
    with pytest.raises(ValueError, match="stage"):
        dog.beat("gripper", 0)
