"""The table of metrics, its page, the dashboard and a real status: they name the same things."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import daemons, simulator
from tests.unit.test_metrics import parse
from vlad import metrics
from vlad._native.capture import COUNTERS
from vlad.metrics_document import DOCUMENT, document
from vlad.metrics_table import EVERYTHING_ELSE, STATES, SUMMARIES, TABLE, Metric

ALL = (*STATES, *SUMMARIES, *TABLE, EVERYTHING_ELSE)
DASHBOARD = DOCUMENT.parent.parent / "dashboards/vlad.json"
NAME = re.compile(r"\bvlad_[a-z0-9_]+\b")
GROWTH = re.compile(r"(?:rate|increase)\((vlad_[a-z0-9_]+)\{[^}]*\}\[\$__rate_interval\]\)")
# What a board with V4L2 cameras, workers and heat has more than the simulated robot of the test.
BOARD: dict[str, Any] = {
    "cameras": {"top": {**dict.fromkeys(COUNTERS, 1), "bad": 1, "undecodable": 1, "lost": 0, "reopened": 0,
                        "reopen_failed": 0, "beats": 5}},
    "workers": {"vision": {"up": True, "pid": 7, "calls": 1, "restarts": 0, "failures": {"crash": 1},
                           "last_error": None, "timeout_ms": 500.0, "call_ms": {"p50": 1.0, "p99": 2.0},
                           "overhead_us": {"p50": 1.0, "p99": 2.0}}},
    "memory": {"stalled_share": 0.1, "cgroup_share": 0.2},
    "thermal": {"celsius": 60.0, "slope_c_s": 0.1, "drift": 1.0, "unreadable": 0},
}  # fmt: skip


def test_the_page_is_current() -> None:
    assert DOCUMENT.read_text() == document(), "python -m vlad.metrics --write-doc"


@pytest.mark.parametrize("metric", ALL, ids=lambda m: m.key)
def test_names_follow_the_rules(metric: Metric) -> None:
    assert re.fullmatch(r"vlad_[a-z0-9_]+[a-z0-9]", metric.name)
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert metric.help and metric.help[0].isalnum() and "\n" not in metric.help + metric.bad
    assert (metric.unit == "s") == ("_seconds" in metric.name), "seconds are in the name, and nothing else is"
    assert metric.kind != "counter" or metric.scale == 1


def test_one_name_has_one_row_and_one_key_one_name() -> None:
    assert len({m.name for m in ALL}) == len(ALL)
    keys = [m.key for m in (*TABLE, *SUMMARIES)]
    assert len(set(keys)) == len(keys)


def test_every_number_of_a_real_status_has_a_documented_name(tmp_path: Path) -> None:
    with simulator.running(tmp_path, "--width", "96", "--height", "96") as sim:
        config = daemons.config_for(sim, tmp_path)
        counters = {"written": 1, "dropped": 0, "failed": 0, "disk_errors": 0, "stalled_ms": 0}
        with daemons.running(config, log_counters=lambda: counters) as daemon:
            daemons.engage(daemon)
            daemons.wait_for(lambda: daemon.status()["chunks"]["accepted"], 20, "a chunk")
            status = {**daemon.status(), "control": control_counters()}
    names = {m.name for m in ALL}
    for one in (status, BOARD):
        text = metrics.render(one)
        families = parse(text)
        assert not families.keys() - names
        assert "vlad_status" not in families, [line for line in text.splitlines() if "vlad_status{" in line]
        # an outside reader of the format comes to the same
        theirs = {s.name: s.value for f in text_string_to_metric_families(text) for s in f.samples}
        ours = {s[0] for f in families.values() for s in f.samples}
        assert ours == theirs.keys()
    assert status["process"]["resident_bytes"] > 1 << 20 and status["process"]["threads"] > 5


def control_counters() -> dict[str, int]:
    text = (DOCUMENT.parent.parent / "csrc/control_socket.c").read_text()
    names = re.findall(r'"(\w+)"', text.split("vlad_control_counter_name[VLAD_CC_N] = {")[1].split("}")[0])
    assert "lines" in names and len(names) > 10
    return {**dict.fromkeys(names, 1), "clients": 1}


def test_an_exact_key_goes_before_one_with_a_name_in_it() -> None:
    families = parse(metrics.render({"t_inference_ms": {"p50": 20.0, "count": 7}}))
    assert families["vlad_inferences_remembered"].samples[("vlad_inferences_remembered", frozenset())] == 7
    assert len(families["vlad_t_inference_seconds"].samples) == 1


# --- the dashboard --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())  # type: ignore[no-any-return]


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [t["expr"] for p in dashboard["panels"] for t in p.get("targets", ())]


def test_the_dashboard_asks_for_metrics_that_there_are(dashboard: dict[str, Any]) -> None:
    kinds = {m.name: m.kind for m in ALL}
    found = expressions(dashboard)
    assert len(found) > 40
    for text in found:
        assert NAME.findall(text), text
        grown = GROWTH.findall(text)
        rest = GROWTH.sub("", text)
        assert all(kinds[name] == "counter" for name in grown), text
        assert all(kinds[name] != "counter" for name in NAME.findall(rest)), f"not without rate(): {text}"
        assert text.count("rate(") + text.count("increase(") == len(grown), text


def test_the_dashboard_can_be_imported(dashboard: dict[str, Any]) -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert [v["name"] for v in dashboard["templating"]["list"]] == ["datasource", "instance"]
    panels = dashboard["panels"]
    assert [p["id"] for p in panels] == list(range(1, len(panels) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"] == source and panel["fieldConfig"]["defaults"]["unit"]
            assert all(t["datasource"] == source for t in panel["targets"])
            assert len({t["refId"] for t in panel["targets"]}) == len(panel["targets"])


def test_labels_asked_for_exist(dashboard: dict[str, Any]) -> None:
    labels = {m.name: {*m.label_names, "quantile", "instance"} for m in ALL}
    for text in expressions(dashboard):
        for name, selector in re.findall(r"(vlad_[a-z0-9_]+)\{([^}]*)\}", text):
            assert set(re.findall(r"(\w+)=", selector.replace("!=", "=").replace("=~", "="))) <= labels[name]
