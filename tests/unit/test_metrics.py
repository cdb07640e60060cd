"""Prometheus text, judged by a strict reader of the format's rules."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlad import metrics

SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')

HISTOGRAM = {"count": 4, "min": 1.0, "mean": 2.5, "max": 9.0, "p50": 2.0, "p99": 8.0, "p999": 9.0}
STATUS: dict[str, Any] = {
    "mode": "engaged",
    "why_not_engageable": [],
    "t_inference_ms": {"p50": 250.0, "p99": 500.0, "predicted": None, "count": 12},
    "t_execution_ms": 1500.0,
    "queue_depth": 45,
    "chunks": {"total": 9, "accepted": 6, "late": 2, "rejected": {"late": 2, "step": 1}},
    "servo": {
        "rate_hz": 100, "realtime": True, "wake_us": HISTOGRAM, "compute_us": HISTOGRAM,
        "bus_us": HISTOGRAM, "overruns": 3, "missed": {"shoulder_pan": 1, "gripper": 0},
    },
    "execution": {"gaps": 1, "starved_ticks": {"cold": 30}, "action_age_max_ms": 820.0},
    "faults": [
        {"id": 9, "name": "queue_drained", "reaction": "slow", "latched": False},
        {"id": 19, "name": "servo_silent", "reaction": "hold", "latched": True},
    ],
    "reaction": "hold",
    "arm": {"torque": True, "joints": {"gripper": {"goal": 0.5, "temperature_c": 31, "status": 0}}},
    "policy": {"name": "sweep", "rate_hz": 30.0, "load_check": {"fits": True, "reason": "fits"}},
    "cameras": {"top": {"state": "ok", "frames": 900, "bad": 0}},
    "bus": {"timeouts": 2},
    "log": {"written": 5, "dropped": 0, "failed": 0},
    "board": "pc",
    "uptime_s": 30.5,
    "new": {"thing": 7},
}  # fmt: skip


class Family:
    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}


def parse(text: str) -> dict[str, Family]:
    """Strictly: HELP then TYPE then the samples of one family, each family and sample once."""
    assert text == "" or text.endswith("\n")
    families: dict[str, Family] = {}
    name, helped = "", ""
    for line in text.split("\n")[:-1]:  # splitlines() knows more ends of a line than the format
        if line.startswith("# HELP "):
            helped, _, words = line[7:].partition(" ")
            assert words and "\\" not in words
            continue
        if line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert name == helped and name not in families
            assert kind in ("counter", "gauge", "summary")
            families[name] = Family(kind)
            continue
        found = SAMPLE.fullmatch(line)
        assert found, line
        labels: list[tuple[str, str]] = []
        rest = found[2] or ""
        while rest:
            label = LABEL.match(rest)
            assert label, line
            labels.append((label[1], label[2]))
            rest = rest[label.end() :]
        assert len({key for key, _ in labels}) == len(labels)
        family = families[name]
        suffixes = ("", "_sum", "_count") if family.kind == "summary" else ("",)
        assert found[1] in [name + suffix for suffix in suffixes]
        sample = (found[1], frozenset(labels))
        assert sample not in family.samples, line
        family.samples[sample] = float(found[3].replace("Inf", "inf"))
    assert all(family.samples for family in families.values())
    return families


def value(families: dict[str, Family], family: str, sample: str = "", **labels: str) -> float:
    return families[family].samples[(sample or family, frozenset(labels.items()))]


def test_every_part_of_the_status() -> None:
    f = parse(metrics.render(STATUS))
    assert value(f, "vlad_mode", mode="engaged") == 1
    assert value(f, "vlad_mode", mode="holding") == 0
    assert value(f, "vlad_reaction", reaction="hold") == 1
    assert value(f, "vlad_engageable") == 1
    assert value(f, "vlad_t_inference_seconds", estimate="p99") == 0.5
    assert ("vlad_t_inference_seconds", frozenset({("estimate", "predicted")})) not in f[
        "vlad_t_inference_seconds"
    ].samples
    assert value(f, "vlad_t_execution_seconds") == 1.5
    assert value(f, "vlad_queue_depth") == 45
    assert value(f, "vlad_chunks_accepted_total") == 6
    assert value(f, "vlad_chunks_rejected_total", reason="step") == 1
    assert value(f, "vlad_servo_overruns_total") == 3
    assert value(f, "vlad_servo_realtime") == 1
    assert value(f, "vlad_servo_missed_replies_total", joint="shoulder_pan") == 1
    assert value(f, "vlad_servo_wake_seconds", quantile="0.99") == pytest.approx(8e-6)
    assert value(f, "vlad_servo_wake_seconds", "vlad_servo_wake_seconds_count") == 4
    assert value(f, "vlad_servo_wake_seconds", "vlad_servo_wake_seconds_sum") == pytest.approx(1e-5)
    assert value(f, "vlad_servo_wake_seconds_max") == pytest.approx(9e-6)
    assert value(f, "vlad_starved_ticks_total", cause="cold") == 30
    assert value(f, "vlad_execution_gaps_total") == 1
    assert value(f, "vlad_action_age_max_seconds") == pytest.approx(0.82)
    assert value(f, "vlad_fault", id="9", name="queue_drained", reaction="slow") == 1
    assert value(f, "vlad_fault_latched", id="19", name="servo_silent", reaction="hold") == 1
    assert value(f, "vlad_torque") == 1
    assert value(f, "vlad_joint_goal", joint="gripper") == 0.5
    assert value(f, "vlad_servo_temperature_celsius", joint="gripper") == 31
    assert value(f, "vlad_policy_fits") == 1
    assert value(f, "vlad_camera_frames_total", camera="top") == 900
    assert value(f, "vlad_bus_timeouts_total") == 2
    assert value(f, "vlad_log_dropped_total") == 0
    assert value(f, "vlad_uptime_seconds") == 30.5
    assert value(f, "vlad_status", key="new.thing") == 7, "an unknown number is not left out"


def test_counters_end_in_total_and_nothing_else_does() -> None:
    for name, family in parse(metrics.render(STATUS)).items():
        assert (family.kind == "counter") == name.endswith("_total"), name


def test_empty_status() -> None:
    f = parse(metrics.render({}))
    assert set(f) == {"vlad_mode", "vlad_reaction"}


def test_numbers_of_every_kind() -> None:
    odd = {"a": np.float64(1.5), "b": np.int64(3), "c": float("nan"), "d": -math.inf, "e": 10**30}
    f = parse(metrics.render({"odd": odd}))
    assert value(f, "vlad_status", key="odd.a") == 1.5
    assert value(f, "vlad_status", key="odd.b") == 3
    assert math.isnan(value(f, "vlad_status", key="odd.c"))
    assert value(f, "vlad_status", key="odd.d") == -math.inf
    assert value(f, "vlad_status", key="odd.e") == 1e30


def test_labels_are_escaped() -> None:
    text = metrics.render({"cameras": {'a"b\\c\nd': {"frames": 1}}})
    assert r'{camera="a\"b\\c\nd"} 1' in text
    parse(text)


trees = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.text(max_size=6), st.sampled_from(["servo", "chunks", "joints", "a.b"])),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["chunks", "cameras", "bus", "policy", "execution", "odd", "a", "a.b"]),
        trees,
    )
)
def test_any_status_follows_the_rules(status: dict[str, Any]) -> None:
    parse(metrics.render(status))
