"""What `vladctl top` shows: status objects to lines of styled text. Pure: no terminal, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Span = tuple[str, str]  # text, style: "" | "dim" | "bold" | "good" | "warn" | "bad" | "goal"
Line = list[Span]

MODE_STYLES = {"engaged": "good", "holding": "bold", "stopping": "warn", "faulted": "bad", "offline": "bad"}
HISTORY = 512
PLOT_ROWS = 5
NARROWEST = 60
HOT_C, WARM_C = 65, 60  # row 21
KEYS = "q quit   SPACE hold   p pause"


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What plots are drawn with."""

    steps: str  # a cell filled by 1/n .. n/n
    marker: str
    goal: str
    rail: str


UNICODE = Glyphs("▁▂▃▄▅▆▇█", "●", "│", "─")
ASCII = Glyphs(".:|", "o", "|", "-")


@dataclass(slots=True)
class History:
    """The newest samples, one each time the status was asked for."""

    depth: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    t_execution_ms: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    t_inference_ms: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def add(self, status: Mapping[str, Any]) -> None:
        self.depth.append(float(status.get("queue_depth") or 0))
        self.t_execution_ms.append(float(status.get("t_execution_ms") or 0))
        self.t_inference_ms.append(float((status.get("t_inference_ms") or {}).get("predicted") or 0))


def columns(values: Sequence[float], width: int, rows: int, top: float, glyphs: Glyphs) -> list[str]:
    """A column plot of the newest `width` values, `rows` strings of `width`, full height at `top`."""
    steps = len(glyphs.steps)
    heights = [max(0, min(rows * steps, round(v / top * rows * steps))) if top > 0 else 0 for v in values]
    heights = [0] * (width - len(heights)) + heights[-width:]
    lines = []
    for row in reversed(range(rows)):
        filled = [max(0, min(steps, height - row * steps)) for height in heights]
        lines.append("".join(glyphs.steps[n - 1] if n else " " for n in filled))
    return lines


def threshold(plot: list[str], share: float, mark: str) -> list[Line]:
    """The rows of a plot with a dim line at `share` of its height where nothing is drawn."""
    at = len(plot) - 1 - min(len(plot) - 1, int(share * len(plot)))
    out: list[Line] = []
    for row, text in enumerate(plot):
        if row != at:
            out.append([(text, "good")])
            continue
        out.append([(char, "good") if char != " " else (mark, "dim") for char in text])
    return out


def rail(low: float, high: float, goal: float, position: float, *, width: int, glyphs: Glyphs) -> Line:
    """Where a joint is between its limits, and where it is to go."""

    def cell(value: float) -> int:
        return max(0, min(width - 1, round((value - low) / (high - low) * (width - 1)))) if high > low else 0

    cells: Line = [(glyphs.rail, "dim")] * width
    cells[cell(goal)] = (glyphs.goal, "goal")
    outside = not low <= position <= high
    cells[cell(position)] = (glyphs.marker, "bad" if outside else "")
    return cells


def _ms(value: object) -> str:
    if not isinstance(value, (int, float)):
        return "-"
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.3g} ms"


def _us(value: object) -> str:
    return _ms(value / 1000) if isinstance(value, (int, float)) and value >= 1000 else (
        f"{value:.3g} us" if isinstance(value, (int, float)) else "-")


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _head(status: Mapping[str, Any], width: int, paused: bool) -> list[Line]:
    mode, reaction = str(status.get("mode")), status.get("reaction")
    policy = status.get("policy") or {}
    left: Line = [(f" {mode.upper()} ", MODE_STYLES.get(mode, ""))]
    if reaction not in (None, "none"):
        left.append((f" {reaction}", "warn"))
    if paused:
        left.append((" (paused)", "warn"))
    name = (f" {policy['name']} {policy['mode']} {policy['rate_hz']:g} Hz x {policy['chunk_size']}" if policy
            else " no policy")
    left.append((name, ""))
    right = f"{status.get('board', '')} up {_clock(float(status.get('uptime_s') or 0))} "
    used = sum(len(text) for text, _ in left)
    left.append((" " * max(1, width - used - len(right)) + right, "dim"))
    why = status.get("why_not_engageable") or []
    below = f" task {policy.get('task')!r}" if policy.get("task") else " no task"
    second: Line = [(below, "dim")]
    if mode != "engaged":
        second = [(" not engageable: " + "; ".join(why), "warn")] if why else [(below + ": ready to engage", "")]
    return [left, second]


def _plots(status: Mapping[str, Any], history: History, width: int, glyphs: Glyphs) -> list[Line]:
    policy = status.get("policy") or {}
    size = int(policy.get("chunk_size") or 50)
    depth = int(status.get("queue_depth") or 0)
    inference = status.get("t_inference_ms") or {}
    horizon = size * 1000 / float(policy.get("rate_hz") or 30)
    left = (width - 3) // 2
    right = width - 3 - left
    asked = float(policy.get("threshold_ms") or 0) / horizon
    queue = threshold(columns(list(history.depth), left, PLOT_ROWS, size, glyphs), asked, glyphs.rail)
    t_exec = columns(list(history.t_execution_ms), right, PLOT_ROWS, horizon, glyphs)
    times = threshold(t_exec, float(inference.get("predicted") or 0) / horizon, glyphs.marker)
    title: Line = [
        (f" queue {depth} of {size} actions".ljust(left + 2), "bold"),
        (f" T_execution {_ms(status.get('t_execution_ms'))}  T_inference {_ms(inference.get('predicted'))}", "bold"),
    ]
    return [title, *([(" ", ""), *a, ("  ", ""), *b] for a, b in zip(queue, times, strict=True))]


def _figures(status: Mapping[str, Any]) -> list[Line]:
    chunks, servo = status.get("chunks") or {}, status.get("servo") or {}
    policy, execution = status.get("policy") or {}, status.get("execution") or {}
    rejected = chunks.get("rejected") or {}
    bad = ", ".join(f"{n} {why}" for why, n in rejected.items())
    line: Line = [(f" chunks {chunks.get('accepted', 0)} accepted", "")]
    line.append((f", rejected {bad}" if bad else ", none rejected", "warn" if bad else "dim"))
    engaged = execution.get("engaged_ticks") or 0
    if engaged:
        idle = 1 - (execution.get("covered_ticks") or 0) / engaged
        line.append((f"; idle {100 * idle:.2g} %, {execution.get('gaps', 0)} gaps", "warn" if idle > 0.05 else ""))
    ladder = policy.get("ladder") or {}
    rungs = " ".join(f"{name} {rung.get('requests', 0)}" for name, rung in ladder.items())
    stages = status.get("stages_ms") or {}
    latency = "  ".join(f"{stage} {_ms(of.get('p50'))} p99 {_ms(of.get('p99'))}" for stage, of in stages.items())
    wake, bus = servo.get("wake_us") or {}, servo.get("bus_us") or {}
    loop: Line = [
        (f" servo {servo.get('rate_hz', '-')} Hz", ""),
        ("" if servo.get("realtime") else " NOT real-time", "warn"),
        (f"  late p99 {_us(wake.get('p99'))} max {_us(wake.get('max'))}  bus p99 {_us(bus.get('p99'))}"
         f"  overruns {servo.get('overruns', 0)}", ""),
    ]
    second: Line = [(f" rungs {rungs}" if rungs else "", ""), (f"  {latency}" if latency else "", "dim")]
    return [line, second, loop]


def _joints(status: Mapping[str, Any], width: int, glyphs: Glyphs) -> list[Line]:
    joints = (status.get("arm") or {}).get("joints") or {}
    if not joints:
        return [[(" no arm", "bad")]]
    torque = (status.get("arm") or {}).get("torque")
    head = f" {'joint':<14}{'goal':>7}{'now':>8}  "
    tail = f"{'load':>6}{'temp':>6}{'supply':>8}"
    span = width - len(head) - len(tail) - 1
    state = "torque on" if torque else "TORQUE OFF"
    rows: list[Line] = [[(head + state.ljust(span) + tail, "dim")]]
    for name, joint in joints.items():
        hot = joint["temperature_c"]
        style = "bad" if hot >= HOT_C else "warn" if hot >= WARM_C else ""
        rows.append([
            (f" {name[:14]:<14}{joint['goal']:>7.3f}{joint['position']:>8.3f}  ", "bad" if joint["status"] else ""),
            *rail(joint["min"], joint["max"], joint["goal"], joint["position"], width=span - 1, glyphs=glyphs),
            (f"{100 * joint['load']:>6.0f}%", ""), (f"{hot:>4.0f} C", style), (f"{joint['voltage_v']:>6.1f} V", ""),
        ])
    return rows


def _faults(status: Mapping[str, Any], now_ns: int, rows: int) -> list[Line]:
    faults = status.get("faults") or []
    if not faults:
        return [[(" no fault", "good")]]
    shown = faults if len(faults) <= rows else faults[: rows - 1]
    lines: list[Line] = []
    for fault in shown:
        since = (now_ns - fault["since_ns"]) / 1e9
        text = f" F{fault['id']:02d} {fault['name']}: {fault['title']}"
        what = f"  {fault['reaction']}{', latched' if fault['latched'] else ''}, {since:.0f} s"
        lines.append([(text, "bad" if fault["reaction"] not in ("warn", "slow") else "warn"), (what, "")])
    if len(shown) < len(faults):
        lines.append([(f" and {len(faults) - len(shown)} more: vladctl status", "warn")])
    return lines


def screen(
    status: Mapping[str, Any], history: History, *, now_ns: int, width: int, height: int, glyphs: Glyphs = UNICODE,
    paused: bool = False, message: str = "",
) -> list[Line]:
    """The whole view, at most `height` lines of at most `width` characters; faults get what is left."""
    if width < NARROWEST:
        return [[(f"at least {NARROWEST} columns, please"[:width], "warn")]]
    lines = [*_head(status, width, paused), *_plots(status, history, width, glyphs), *_figures(status),
             *_joints(status, width, glyphs)]
    lines += _faults(status, now_ns, max(1, height - len(lines) - 1))
    lines = lines[: height - 1]
    lines += [[] for _ in range(height - 1 - len(lines))]
    lines.append([(f" {message or KEYS}", "warn" if message else "dim")])
    return [clip(line, width) for line in lines]


def clip(line: Line, width: int) -> Line:
    """The first `width` characters; what a terminal would take for a command becomes `?`."""
    out: Line = []
    for text, style in line:
        room = width - sum(len(t) for t, _ in out)
        safe = "".join(c if c.isprintable() else "?" for c in text[:room])
        if safe:
            out.append((safe, style))
    return out
