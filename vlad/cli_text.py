"""What vladctl shows a person: the status and the events in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLOURS = {"engaged": "32", "holding": "36", "stopping": "33", "faulted": "1;31", "offline": "31"}


def status_text(status: Mapping[str, Any], now_ns: int, colour: bool) -> str:
    """The status object of docs/protocol.md in a dozen lines. Absent numbers show as `-`."""
    mode = str(status.get("mode"))
    rows = [("mode", _painted(mode, COLOURS.get(mode) if colour else None) + _reaction(status))]
    why = list(status.get("why_not_engageable") or ())
    if mode != "engaged":
        rows.append(("engageable", "no: " + why[0] if why else "yes"))
        rows += [("", "    " + reason) for reason in why[1:]]
    rows.append(("policy", _policy(status.get("policy"))))
    if previous := status.get("previous_policy"):
        rows.append(("", f"rollback to {previous.get('name')}"))
    ladder = (status.get("policy") or {}).get("ladder") or {}
    if len(ladder) > 1:
        rows += [("ladder" if i == 0 else "", _rung(*item)) for i, item in enumerate(ladder.items())]
    if rtc := (status.get("policy") or {}).get("rtc"):
        rows.append(("rtc", _rtc(rtc)))
    inference = status.get("t_inference_ms") or {}
    rows.append(("T_inference", ", ".join(f"{k} {_number(inference.get(k), 'ms')}"
                                          for k in ("p50", "p99", "predicted"))))  # fmt: skip
    rows.append(("T_execution", f"{_number(status.get('t_execution_ms'), 'ms')}, "
                                f"{status.get('queue_depth', '-')} actions queued"))  # fmt: skip
    rows.append(("chunks", _chunks(status.get("chunks") or {})))
    rows.append(("servo", _servo(status.get("servo") or {})))
    if workers := status.get("workers") or {}:
        rows.append(("workers", ", ".join(_worker(name, worker) for name, worker in workers.items())))
    for name, where in (status.get("blocks") or {}).items():
        if any(w.get("nodes") is not None for w in where.values()):  # it was to be on an accelerator
            rows.append(("placed", f"{name}: " + ", ".join(f"{w['nodes']} nodes on {on}" for on, w in where.items())))
    faults = status.get("faults") or []
    rows.append(("faults", _painted("none", None) if not faults else f"{len(faults)}"))
    for fault in faults:
        since_s = (now_ns - fault["since_ns"]) / 1e9
        text = (f"  F{fault['id']:02d} {fault['name']}: {fault['reaction']}"
                f"{', latched' if fault['latched'] else ''}, for {since_s:.1f} s")  # fmt: skip
        rows.append(("", _painted(text, "31" if colour else None)))
    return "\n".join(f"{name:<12} {text}".rstrip() for name, text in rows)


def event_text(event: Mapping[str, Any]) -> str:
    """One line: number, time since boot, name, fields."""
    fields = " ".join(f"{k}={_field(v)}" for k, v in event.items()
                      if k not in ("seq", "t_ns", "event"))  # fmt: skip
    t_s = event.get("t_ns", 0) / 1e9
    return f"{event.get('seq', 0):>7} {t_s:12.3f} {event.get('event')} {fields}".rstrip()


def _field(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = text.translate({i: "?" for i in (*range(32), 127)})
    return f'"{text}"' if " " in text else text


def _painted(text: str, code: str | None) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if code else text


def _number(value: object, unit: str) -> str:
    return f"{value:.4g} {unit}" if isinstance(value, (int, float)) else "-"


def _reaction(status: Mapping[str, Any]) -> str:
    reaction = status.get("reaction")
    return f" (reaction {reaction})" if reaction not in (None, "none") else ""


def _policy(policy: Mapping[str, Any] | None) -> str:
    if not policy:
        return "none"
    task = policy.get("task")
    return (f"{policy.get('name')}, {policy.get('mode')}, {_number(policy.get('rate_hz'), 'Hz')}, "
            f"{policy.get('chunk_size')} actions; task "
            + (repr(task) if task else "none"))  # fmt: skip


def _rung(name: str, rung: Mapping[str, Any]) -> str:
    passed = {"too slow": rung.get("too_slow"), **(rung.get("skipped") or {})}
    reasons = ", ".join(f"{why} {count}" for why, count in passed.items() if count)
    return (f"{name}: {_number(rung.get('predicted_ms'), 'ms')} predicted, "
            f"{_number(rung.get('measured_ms'), 'ms')} at load; {rung.get('requests', 0)} requests, "
            f"{rung.get('rejected', 0)} rejected" + (f"; passed by: {reasons}" if reasons else ""))  # fmt: skip


def _rtc(rtc: Mapping[str, Any]) -> str:
    unguided = ", ".join(f"{cause} {count}" for cause, count in (rtc.get("unguided") or {}).items() if count)
    return (f"{rtc.get('guided', 0)} chunks guided" + (f", not {unguided}" if unguided else "")
            + f"; {rtc.get('consumed_actions')} actions meanwhile, {rtc.get('delay_actions')} predicted; "
            f"off by {_number((rtc.get('prefix_rms') or {}).get('p95'), 'at 95 %')}")  # fmt: skip


def _chunks(chunks: Mapping[str, Any]) -> str:
    rejected = chunks.get("rejected") or {}
    reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.items())
    return (f"{chunks.get('accepted', 0)} accepted, {chunks.get('late', 0)} late, "
            f"{chunks.get('stale', 0)} stale, {sum(rejected.values())} rejected"
            + (f" ({reasons})" if reasons else ""))  # fmt: skip


def _worker(name: str, worker: Mapping[str, Any]) -> str:
    text = name if worker.get("up") else f"{name} DOWN ({worker.get('last_error')})"
    restarts = worker.get("restarts")
    return text + (f" ({restarts} restarts)" if restarts else "")


def _servo(servo: Mapping[str, Any]) -> str:
    wake, compute = servo.get("wake_us") or {}, servo.get("compute_us")
    p99 = compute.get("p99") if isinstance(compute, Mapping) else compute
    return (f"{_number(servo.get('rate_hz'), 'Hz')}, "
            f"{'real-time' if servo.get('realtime') else 'NOT real-time'}, wake "
            + " ".join(f"{k} {_number(wake.get(k), 'us')}" for k in ("p50", "p99", "max"))
            + f", compute {_number(p99, 'us')}, {servo.get('overruns', 0)} overruns")  # fmt: skip
