"""The status dictionary as Prometheus text, version 0.0.4, by the table of vlad.metrics_table.

A number of the status without a row there comes out as `vlad_status{key="a.b.c"}`, so that nothing
counted is left out. Text and absent values have no sample. `python -m vlad.metrics --write-doc`
writes docs/metrics.md. Source: prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from vlad.faults import Reaction
from vlad.metrics_table import EVERYTHING_ELSE, STATES, SUMMARIES, TABLE, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MODES = ("offline", "ready", "holding", "engaged", "stopping", "faulted")
QUANTILES = {"p50": "0.5", "p99": "0.99", "p999": "0.999"}
_OF_STATE = {metric.name: metric for metric in STATES}
_EXACT_FIRST = sorted(TABLE, key=lambda metric: metric.key.count("{"))
_SUMMARY_PATHS = frozenset(tuple(metric.key.split(".")) for metric in SUMMARIES)


@dataclass(slots=True)
class _Family:
    kind: str
    help: str
    samples: dict[str, str] = field(default_factory=dict)  # name and labels -> value; each once


class _Exposition:
    """Families in the order of their first sample, the samples of each together."""

    def __init__(self) -> None:
        self._families: dict[str, _Family] = {}

    def add(self, metric: Metric, value: float, suffix: str = "", /, **labels: str) -> None:
        family = self._families.setdefault(metric.name, _Family(metric.kind, metric.help))
        family.samples[f"{metric.name}{suffix}{_labels(labels)}"] = _number(value)

    def text(self) -> str:
        lines = []
        for name, family in self._families.items():
            lines.append(f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n")
            lines += [f"{sample} {value}\n" for sample, value in family.samples.items()]
        return "".join(lines)


def render(status: Mapping[str, Any]) -> str:
    """The status object of vlad.status.compose() as text/plain; version=0.0.4."""
    out = _Exposition()
    _add_states(out, status)
    _add_summaries(out, status)
    for path, value in _numbers(status, ()):
        if path[:2] in _SUMMARY_PATHS and path[2:] != ("max",):
            continue
        for metric in _EXACT_FIRST:
            if (labels := metric.match(path)) is not None:
                out.add(metric, value * metric.scale, **labels)
                break
        else:
            out.add(EVERYTHING_ELSE, value, key=".".join(path))
    return out.text()


def _add_states(out: _Exposition, status: Mapping[str, Any]) -> None:
    def state(name: str, value: float, /, **labels: str) -> None:
        out.add(_OF_STATE[name], value, **labels)

    if isinstance(version := status.get("version"), str):
        state("vlad_info", 1, version=version, board=str(status.get("board")))
    for mode in MODES:
        state("vlad_mode", status.get("mode") == mode, mode=mode)
    for reaction in Reaction:
        name = reaction.name.lower()
        state("vlad_reaction", status.get("reaction") == name, reaction=name)
    if isinstance(why := status.get("why_not_engageable"), list):
        state("vlad_engageable", not why)
    for fault in status.get("faults", ()):
        who = {"id": str(fault["id"]), "name": fault["name"], "reaction": fault["reaction"]}
        state("vlad_fault", 1, **who)
        state("vlad_fault_latched", fault["latched"], **who)


def _add_summaries(out: _Exposition, status: Mapping[str, Any]) -> None:
    for metric in SUMMARIES:
        group, key = metric.key.split(".")
        histogram = status.get(group, {}).get(key)
        if not isinstance(histogram, Mapping):
            continue
        for share, quantile in QUANTILES.items():
            if share in histogram:
                out.add(metric, histogram[share] * metric.scale, quantile=quantile)
        count = histogram.get("count", 0)
        out.add(metric, histogram.get("mean", 0) * count * metric.scale, "_sum")
        out.add(metric, count, "_count")


def _numbers(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
    """Every number below `value` with its path; lists have none of their own."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, (*path, str(key)))
    elif isinstance(value, Real):
        yield path, int(value) if isinstance(value, Integral) else float(value)


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = [f'{name}="{_escape(value)}"' for name, value in labels.items()]
    return "{" + ",".join(pairs) + "}"


def _escape(value: str) -> str:
    escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return escaped.encode("utf-8", "replace").decode("utf-8")


def _number(value: float) -> str:
    if isinstance(value, Integral):
        return str(int(value))
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


if __name__ == "__main__":
    from vlad.metrics_document import main

    raise SystemExit(main())
