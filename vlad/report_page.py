"""The page of `vlad report`: whatever was recorded is escaped."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlad.html_page import document, grid, table, text
from vlad.report_figures import episodes, figures
from vlad.report_plots import captions, plots
from vlad.report_run import Run

STRIP = 12  # pictures of a camera
MAX_CAMERAS = 8
MAX_ROWS = 1000  # of events
MAX_CONFIG = 64 << 10
QUIET = frozenset({"chunk"})

def page(title: str, runs: Sequence[Run], notes: Sequence[str]) -> str:
    """All runs one below the other. notes: what there is to say before them."""
    said = "".join(f"<p>{text(note)}</p>" for note in notes)
    body = "\n".join(part for run in runs for part in _run(run))
    return document(title, said + body, "Times are seconds from the beginning of each part, on the clock of the "
                    "machine that ran it.")  # fmt: skip


def _run(run: Run) -> Iterator[str]:
    yield f"<h2>{text(run.kind.capitalize())}: {text(run.name)}</h2>"
    yield table(summary(figures(run), run))
    if run.missing:
        yield "<p class=about>Not here: " + "; ".join(text(m) for m in run.missing) + ".</p>"
    for title, about, drawn in plots(run):
        yield f"<figure><h3>{title}</h3><p class=about>{about}</p>{drawn}</figure>"
    if run.pictures:
        yield "<h3>Pictures</h3>"
        yield from _strips(run)
    yield "<h3>Faults</h3>"
    found = list(captions(episodes(run), run))
    heads = ("at s", "for s", "fault", "reaction", "what vlad does")
    yield grid(heads, found, " class=faults") if found else "<p>None.</p>"
    yield from _events(run)
    if run.config:
        yield f"<details><summary>Configuration</summary><pre>{text(run.config, MAX_CONFIG)}</pre></details>"
    versions = run.report.get("versions")
    if isinstance(versions, dict):
        yield "<details><summary>Versions</summary>" + table([(str(k), str(v)) for k, v in versions.items()])
        yield "</details>"


def summary(found: Mapping[str, Any], run: Run) -> list[tuple[str, str]]:
    """The figures in words, in the order of reading; what is not known has no row."""
    rows = [(k, str(v)) for k, v in run.facts.items()]
    rows.append(("duration", f"{found['duration_s']:.1f} s"))

    def row(name: str, key: str, text: str) -> None:
        if found.get(key):
            rows.append((name, text))

    row("mode", "modes", _shares(found.get("modes", {})))
    row("reaction", "reactions", _shares(found.get("reactions", {})))
    if chunks := found.get("chunks"):
        rows.append(("chunks", _counts(chunks["by_verdict"]) + (
            f"; rejected: {_counts(chunks['rejected_by_reason'])}" if chunks["rejected_by_reason"] else "")
            + f"; {chunks['cold_starts']} cold starts"))  # fmt: skip
        rows.append(("rungs", "; ".join(f"{r}: {_counts(c)}" for r, c in chunks["by_rung"].items())))
    row("T_inference", "t_inference_ms", _spread(found.get("t_inference_ms", {}), "ms"))
    if execution := found.get("t_execution_ms"):
        rows.append(("T_execution when asked for", f"p50 {execution['p50']:.0f} ms, least {execution['min']:.0f} ms; "
                     f"T_inference came nearest to it by {execution['least_margin']:.0f} ms"))  # fmt: skip
    if "idle_share" in found:
        starved = _counts(found["starved_ticks"]) if found["starved_ticks"] else "no tick"
        rows.append(("idle while engaged", f"{found['idle_share']:.2%}; by cause: {starved}"))
    gaps = found["gaps"]
    rows.append(("gaps", f"{gaps['count']}" + (f": {_counts(gaps['by_cause'])}; longest {gaps['longest_ms']:.0f} ms"
                                               if gaps["count"] else "")))  # fmt: skip
    row("age of executed actions", "action_age_ms", _spread(found.get("action_age_ms", {}), "ms"))
    row("servo loop late", "servo_late_us", _spread(found.get("servo_late_us", {}), "µs"))
    if wire := found.get("wire"):
        worst = {k: v for k, v in wire["worst_step_share"].items() if isinstance(v, (int, float))}
        violations = wire.get("violations")
        rows.append(("on the wire", f"{wire['goals']} goals; largest step of each joint, of the greatest allowed: "
                     + ", ".join(f"{k} {v:.0%}" for k, v in worst.items())
                     + ("" if violations is None else f"; {violations} violations")))  # fmt: skip
    for name, key, unit in (("following error, greatest", "following_error_max", ""),
                            ("temperature, greatest", "temperature_max_c", " °C"),
                            ("voltage, least", "voltage_min_v", " V"), ("load, greatest", "load_max", "")):  # fmt: skip
        row(name, key, ", ".join(f"{k} {v:.3g}{unit}" for k, v in found.get(key, {}).items()))
    faults: dict[str, int] = {}
    for fault in found["faults"]:
        faults[fault["name"]] = faults.get(fault["name"], 0) + 1
    rows.append(("faults", _counts(faults) if faults else "none"))
    return rows


def _shares(values: Mapping[str, float]) -> str:
    return ", ".join(f"{k} {v:.1%}" for k, v in sorted(values.items(), key=lambda kv: -kv[1]))


def _counts(values: Mapping[str, int]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items())


def _spread(values: Mapping[str, Any], unit: str) -> str:
    return ", ".join(f"{k} {v:.1f} {unit}" for k, v in values.items() if isinstance(v, (int, float)))


def _strips(run: Run) -> Iterator[str]:
    """Of each camera so many pictures, evenly in time, each with its time."""
    cameras: dict[str, list[tuple[int, bytes]]] = {}
    for t_ns, camera, jpeg in run.pictures:
        cameras.setdefault(camera, []).append((t_ns, jpeg))
    for camera, taken in list(cameras.items())[:MAX_CAMERAS]:
        every = max(1, -(-len(taken) // STRIP))
        shown = taken[::every]
        yield f"<p class=about>{text(camera)}: {len(shown)} of {len(taken)}</p><div class=strip>"
        for t_ns, jpeg in shown:
            yield (f'<figure><img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
                   f"<figcaption>{(t_ns - run.start_ns) / 1e9:.2f} s</figcaption></figure>")  # fmt: skip
        yield "</div>"
    if len(cameras) > MAX_CAMERAS:
        yield f"<p class=about>{len(cameras) - MAX_CAMERAS} cameras more are left out.</p>"


def _events(run: Run) -> Iterator[str]:
    events = [e for e in run.events if e["event"] not in QUIET or e.get("verdict") == "rejected"]
    if not events:
        return
    left = len(events) - MAX_ROWS
    rows = [
        (f"{(e['t_ns'] - run.start_ns) / 1e9:.3f}", e["event"],
         ", ".join(f"{k} {json.dumps(v) if isinstance(v, (dict, list)) else v}" for k, v in e.items()
                   if k not in ("t_ns", "event", "seq", "t_request_ns", "t_obs_ns")))
        for e in events[-MAX_ROWS:]
    ]  # fmt: skip
    note = f"the newest {MAX_ROWS} of {len(events)}" if left > 0 else str(len(events))
    yield (f"<details open><summary>Events ({note}; accepted chunks are in the plot above)</summary>"
           + grid(("s", "event", ""), rows, " class=events") + "</details>")  # fmt: skip
