"""build/soak: report.json, report.md and a picture of a real-time soak; the simulated part joins them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.soak.health import MIB, Vital

INK, GRID, BAD, MODE = "#22303c", "#d9dfe4", "#c0392b", "#2b6ca3"
MODES = ("offline", "faulted", "ready", "stopping", "holding", "engaged")


def picture(path: Path, vitals: Sequence[Vital], samples: Sequence[Mapping[str, Any]],
            outcomes: Sequence[Mapping[str, Any]], title: str) -> None:
    """Writes a PNG: memory, descriptors and threads, mode, and what was injected when."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    start = samples[0]["t_ns"]

    def minutes(t_ns: float) -> float:
        return float((t_ns - start) / 60e9)

    figure, axes = plt.subplots(4, 1, figsize=(14, 11), sharex=True, layout="constrained",
                                height_ratios=(2, 1, 1, 3))
    memory, handles, mode, faults = axes
    t = [minutes(v.t_ns) for v in vitals]
    memory.plot(t, [v.rss_bytes / MIB for v in vitals], color=MODE, lw=0.9, label="resident")
    memory.plot(t, [v.anon_bytes / MIB for v in vitals], color=INK, lw=0.9, label="of it anonymous")
    memory.set_ylabel("MiB")
    memory.legend(loc="lower right", fontsize=8)
    handles.plot(t, [v.descriptors for v in vitals], color=MODE, lw=0.8, label="descriptors")
    handles.plot(t, [v.threads for v in vitals], color=INK, lw=0.8, label="threads")
    handles.legend(loc="lower right", fontsize=8)
    mode.step([minutes(s["t_ns"]) for s in samples], [MODES.index(s["mode"]) for s in samples],
              where="post", color=MODE, lw=0.7)
    mode.set_yticks(range(len(MODES)), MODES, fontsize=8)
    names = sorted({o["scenario"] for o in outcomes}, reverse=True)
    for o in outcomes:
        bad = bool(o["problems"])
        faults.scatter([minutes(o["t_ns"])], [names.index(o["scenario"])], s=26 if bad else 12,
                       marker="x" if bad else "o", color=BAD if bad else MODE)
    faults.set_yticks(range(len(names)), names, fontsize=7)
    faults.set_xlabel("minutes")
    for axis in axes:
        axis.grid(color=GRID, lw=0.5)
    memory.set_title(title, fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def real_markdown(report: Mapping[str, Any]) -> str:
    """The report of the real-time part in Markdown."""
    m, wire = report["memory"], report["wire"]
    lines = [
        "## In real time", "",
        f"`{report['command']}`: {'OK' if report['ok'] else 'NOT OK'}", "",
        f"- {report['minutes']:.1f} minutes with one daemon, {report['injections']} injections, seed "
        f"{report['seed']}; then it was ended by SIGKILL, SIGSEGV and SIGTERM and started again",
        f"- wire: {wire['goals']} goal frames, {len(wire['violations'])} illegal; largest step "
        f"{wire['worst_share']:.0%} of its bound",
        f"- gaps: {report['gaps']['seen']}, without a cause {len(report['gaps']['unexplained'])}; stops: "
        f"{report['stops']['seen']}, without a cause {len(report['stops']['unexplained'])}",
        f"- restarts that nobody asked for: {report['unasked_restarts']}",
    ]
    for name, unit in (("rss_bytes", "MiB"), ("anon_bytes", "MiB"), ("descriptors", ""), ("threads", "")):
        if name not in m:
            continue
        v, slope = m[name], m[name]["slope_per_hour"]
        text = "" if slope is None else (f"; slope {slope['value']:+.2f} {unit}/h, 95 % {slope['low']:+.2f} to "
                                         f"{slope['high']:+.2f} (Theil-Sen over {slope['points']} medians of "
                                         f"{m['bin_s']:.0f} s)")
        lines.append(f"- {name.removesuffix('_bytes')}: {v['first']:.1f} to {v['last']:.1f} {unit} after "
                     f"{m['warm_up_s'] / 60:.0f} minutes of warm-up, {v['min']:.1f} to {v['max']:.1f}{text}")
    lines += ["", "Times are ms after the command of the injection went out; rest is the last change of a "
              "goal on the wire. A bound is the row's, plus what the simulator's configuration adds, plus "
              f"{report['slack_ms']:.0f} ms for the machine.", "",
              "| injected | rows | times | detected | by | detected, max | left engaged, max | bound | "
              "at rest, max | bound | recovered, max s | disturbed | problems |",
              "|---|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for name, row in report["table"].items():
        by = ", ".join(f"{k} {v}" for k, v in row["by"].items())
        lines.append(
            f"| {name} | {', '.join(row['rows']) or 'none: it goes on'} | {row['injected']} | "
            f"{row['detected']} | {by} | {_ms(row['max_detect_ms'])} | {_ms(row['max_stop_ms'])} | "
            f"{_ms(row['bound_ms'])} | {_ms(row['max_rest_ms'])} | {_ms(row['rest_bound_ms'])} | "
            f"{'-' if row['max_recovery_s'] is None else format(row['max_recovery_s'], '.1f')} | "
            f"{row['disturbed']} | {row['problems']} |")
    lines += ["", "Stops by: " + ", ".join(f"{k} {v}" for k, v in report["stops"]["by"].items()), ""]
    if report["uninvited"]:
        seen: dict[str, int] = {}
        for row in report["uninvited"]:
            seen[row["name"]] = seen.get(row["name"], 0) + 1
        lines += ["Faults that nobody injected (each a recorded one, with its reaction; the machine was shared): "
                  + ", ".join(f"{k} {v}" for k, v in sorted(seen.items())), ""]
    if report["problems"]:
        lines += ["Problems:", "", *(f"- {p}" for p in report["problems"]), ""]
    return "\n".join(lines)


def simulated_markdown(report: Mapping[str, Any]) -> str:
    """The report of the simulated part in Markdown."""
    lines = [
        "## In simulated time", "",
        f"`{report['command']}`: {'OK' if report['ok'] else 'NOT OK'}", "",
        f"- {report['hours']:g} simulated hours, seeds {report['seeds'][0]} to {report['seeds'][1]}, "
        f"{report['ticks']} ticks, {report['writes']} goals written, {report['illegal']} illegal",
        f"- {report['engaged_ticks']} engaged ticks: {report['covered_ticks']} covered, "
        f"{report['starved_ticks']} with exactly one cause, 0 with none; {report['gaps']} gaps",
        f"- {report['stops']} stops, each with its fault or request; {report['recoveries']} recoveries, the "
        f"slowest {report['max_recovery_s']:.1f} s; {report['chunks']} chunks", "",
        "| injected | times | raised | raised, max ms | left engaged, max ms | at rest, max ms |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in sorted(report["table"].items()):
        raised = ", ".join(f"{k} {v}" for k, v in sorted(row["raised"].items())) or "-"
        lines.append(f"| {name} | {row['injected']} | {raised} | {_ms(row['max_detect_ms'])} | "
                     f"{_ms(row['max_stop_ms'])} | {_ms(row['max_rest_ms'])} |")
    if report["failures"]:
        lines += ["", "Failures:", "", *(f"- {f}" for f in report["failures"])]
    return "\n".join([*lines, ""])


def write(out: Path) -> Path:
    """report.json and report.md from the parts that there are; the path of the latter."""
    parts = {}
    for name in ("simulated", "real"):
        if (path := out / name / "report.json").exists():
            parts[name] = json.loads(path.read_text())
    (out / "report.json").write_text(json.dumps(parts, indent=1) + "\n")
    text = ["# Soak", ""]
    if "simulated" in parts:
        text.append(simulated_markdown(parts["simulated"]))
    if "real" in parts:
        text.append(real_markdown(parts["real"]))
    target = out / "report.md"
    target.write_text("\n".join(text))
    return target
