"""What `vladctl status --json` shows: one dictionary from the loop, the scheduler and the stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlad.arm import Joint
from vlad.block_workers import workers_of
from vlad.capture import Capture
from vlad.faults import BY_ID
from vlad.inference import Inference, Loaded
from vlad.latency import quantile
from vlad.scheduler import Scheduler
from vlad.servo import MS, REACTIONS

WHY_TEXT = {
    "bus": "no bus, or a servo has not answered yet",
    "latched": "a fault is latched: `vladctl clear` first",
    "fault": "a fault is active",
    "realtime": "no real-time scheduling or locked memory (allow_non_realtime is off)",
    "limits": "the arm is beyond its joint limits: move it back by hand",
    "moving": "the arm is still stopping or parking",
    "no_policy": "no policy is loaded: `vladctl load PATH`",
    "no_task": "no task is set: `vladctl task TEXT`",
    "too_slow": "the policy is too slow for async",
    "camera": "a camera has no fresh frame",
    "mismatch": "the bundle does not fit this robot",
    "calibration": "the servos' calibration differs from the file",
    "stopping": "the daemon is stopping",
    "memory": "memory is short",
}


def fault_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Active and latched faults, most severe first; `reaction` is the one in force."""
    rows = []
    for fault, (active, latched, since_ns, count, reaction) in report["faults"].items():
        if not (active or latched):
            continue
        row = BY_ID[fault]
        rows.append({
            "id": fault, "name": row.name, "title": row.title,
            "reaction": reaction, "active": active, "latched": latched,
            "since_ns": since_ns, "count": count,
        })
    return sorted(rows, key=lambda r: (-REACTIONS.index(r["reaction"]), r["id"]))


def why_not_engageable(
    report: Mapping[str, Any], details: Mapping[str, str], names: Sequence[str]
) -> list[str]:
    """Reasons in words; `details` sharpens some of them by their short name. names: of the joints."""
    if report["mode"] == "engaged":
        return []
    liars = [name for name, lying in zip(names, report["lying"], strict=True) if lying]
    if liars and report["torque_on"]:  # row 23: `clear` alone is refused while the others hold
        details = {**details, "latched":
                   f"the encoder of {', '.join(liars)} is not believed: support the arm and `vladctl limp` first, "
                   "see to that servo, then `vladctl clear`"}
    return [details.get(name) or WHY_TEXT[name] for name in report["why_not"]]


def ladder_rows(scheduler: Scheduler, loaded: Loaded) -> dict[str, dict[str, Any]]:
    """Every rung by its name, the full pass first: what it cost at load and would cost now (with as
    few cameras encoded as it can), and what became of it."""
    rows = {}
    for rung in scheduler.rungs:
        counts = scheduler.counts.rungs[rung.name]
        accepted = counts.verdicts["accepted"] + counts.verdicts["clamped"]
        rows[rung.name] = {
            "measured_ms": max(loaded.costs_ns[rung]) / MS, "predicted_ms": scheduler.latency.predict_ns(rung) / MS,
            "requests": counts.requests, "accepted": accepted,
            "rejected": counts.verdicts.total() - accepted,
            "too_slow": counts.too_slow, "skipped": dict(counts.skipped),
        }
    return rows


def rtc_row(inference: Inference) -> dict[str, Any] | None:
    """Real-time chunking: how often a chunk was guided, and how well it goes on from the old one."""
    rtc = inference.sampler and inference.sampler.rtc
    if not rtc:
        return None
    counts = rtc.counts
    return {
        "guided": counts.guided, "unguided": dict(counts.unguided),
        "delay_actions": counts.delay, "consumed_actions": counts.consumed,
        "underestimated": counts.underestimated,
        "prefix_rms": {"p50": counts.prefix_rms_quantile(0.5), "p95": counts.prefix_rms_quantile(0.95)},
    }


def compose(
    report: dict[str, Any],
    inference: Inference,
    capture: Capture,
    *,
    joints: Sequence[Joint],
    servo_rate_hz: int,
    details: Mapping[str, str],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """The status object. Times in ms unless the name says otherwise; positions in units."""
    counters, names = report["counters"], [joint.name for joint in joints]
    scheduler, loaded = inference.scheduler, inference.loaded
    latency = scheduler.latency if scheduler else None
    workers = workers_of(loaded.policy) if loaded else None
    rejected = {k: v for k, v in counters["rejected"].items() if v}
    return {
        "mode": report["mode"],
        "why_not_engageable": why_not_engageable(report, details, names),
        "t_inference_ms": {
            "p50": latency.quantile_ns(0.5) / MS if latency else None,
            "p99": latency.quantile_ns(0.99) / MS if latency else None,
            "predicted": latency.predict_ns() / MS if latency else None,
            "count": latency.count if latency else 0,
        },
        "stages_ms": {
            stage: {f"p{q}": quantile(values, q / 100) / MS for q in (50, 99)}
            for stage, taken in inference.stages_ns.items() if (values := list(taken))
        },
        "t_execution_ms": report["t_execution_ns"] / MS,
        "queue_depth": report["queue_depth"],
        "chunks": {
            "total": counters["chunks"], "accepted": counters["accepted"],
            "clamped": counters["clamped"], "clamped_elements": counters["clamped_elements"],
            "late": counters["rejected"]["late"],
            "stale": counters["rejected"]["stale"] + counters["rejected"]["frame_age"],
            "rejected": rejected, "tails_dropped": counters["tails_dropped"],
            "negative_frame_ages": counters["negative_ages"], "overdue": counters["overdue"],
        },
        "servo": {
            "rate_hz": servo_rate_hz, "realtime": report["realtime"],
            "wake_us": report["wake_us"], "compute_us": report["compute_us"],
            "bus_us": report["bus_us"],
            **{k: counters[k] for k in (
                "ticks", "overruns", "skipped_periods", "writes", "dropped_writes",
                "write_errors", "wire_limit", "wire_step", "read_errors", "events_dropped",
                "late_wakes", "let_down",
            )},
            "missed": dict(zip(names, counters["missed"], strict=True)),
            "corrupt": dict(zip(names, counters["corrupt"], strict=True)),
            "goals_lost": dict(zip(names, counters["goals_lost"], strict=True)),
            "encoder_jumps": dict(zip(names, counters["encoder_jumps"], strict=True)),
        },
        "execution": {
            "engaged_ticks": counters["engaged_ticks"], "covered_ticks": counters["covered_ticks"],
            "gaps": counters["gaps"], "starved_ticks": counters["starved"],
            "action_age_max_ms": report["wire_age_max_ns"] / MS,
            "engagements": counters["engagements"],
        },
        "faults": fault_rows(report),
        "reaction": report["reaction"],
        "arm": {
            "torque": report["torque_on"], "at_rest": report["at_rest"], "bus": report["bus_up"],
            "parking": report["parking"], "letting_down": report["letting_down"],
            "supply_v": report["supply_mv"] / 1000,
            "joints": {
                joint.name: {
                    "goal": report["goal"][j], "position": report["arm"]["position"][j],
                    "min": joint.min, "max": joint.max,
                    "temperature_c": report["arm"]["temperature_c"][j],
                    "voltage_v": report["arm"]["voltage_mv"][j] / 1000,
                    "load": report["arm"]["load_permille"][j] / 1000,
                    "status": report["arm"]["status"][j], "lying": report["lying"][j],
                    "torque_limit": report["limit_permille"][j] / 1000,
                }
                for j, joint in enumerate(joints)
            },
        },
        "policy": None if loaded is None or scheduler is None else {
            "name": loaded.name, "path": loaded.path, "manifest_sha256": loaded.manifest_sha256,
            "signer": loaded.signer, "mode": loaded.scheduler.mode,
            "task": inference.task_text, "tasks": list(loaded.tasks),
            "rate_hz": 1e9 / loaded.scheduler.period_ns, "chunk_size": loaded.scheduler.chunk_size,
            "threshold_ms": scheduler.threshold_ns() / MS,
            "load_check": {
                "fits": loaded.check.fits, "t_inference_ms": loaded.check.t_inference_ns / MS,
                "horizon_ms": loaded.check.horizon_ns / MS, "reason": loaded.check.reason,
            },
            "requests": scheduler.counts.requests, "cold_starts": scheduler.counts.cold_starts,
            "refused_admissions": scheduler.counts.refused_admissions,
            "tight": scheduler.counts.tight, "failed": scheduler.counts.failed,
            "retries": inference.retries,
            "ladder": ladder_rows(scheduler, loaded),
            "aggregate": None if loaded.merge is None else loaded.merge.aggregate,
            "rtc": rtc_row(inference),
        },
        "workers": workers.status() if workers else {},
        "blocks": workers.placement() if workers else {},
        "cameras": {
            name: {"state": str(eye.state), "reopened": eye.reopened, **eye.camera.counters()}
            for name, eye in capture.eyes.items()
        },
        "capture": {"skewed": capture.skewed},
        **extra,
    }


def scheduler_figures(report: dict[str, Any], inference: Inference) -> dict[str, Any]:
    """What the scheduler decides from, for the flight record."""
    scheduler = inference.scheduler
    return {
        "mode": report["mode"], "queue_depth": report["queue_depth"],
        "t_execution_ms": report["t_execution_ns"] / MS, "task": inference.task_text,
        "reaction": report["reaction"], "at_rest": report["at_rest"], "overruns": report["counters"]["overruns"],
        **({} if scheduler is None else {
            "predicted_ms": scheduler.latency.predict_ns() / MS,
            "threshold_ms": scheduler.threshold_ns() / MS, "cause": scheduler.cause.name.lower(),
            "in_flight": scheduler.in_flight is not None, "requests": scheduler.counts.requests,
            "refused_admissions": scheduler.counts.refused_admissions,
        }),
    }  # fmt: skip
