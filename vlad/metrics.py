"""The status dictionary as Prometheus text, version 0.0.4.

Known keys get a name, a type and a help text from the table below. Every other number of the status
comes out as `vlad_status{key="a.b.c"}`, so that nothing counted is left out. Base units are seconds
and ratios, as Prometheus has it. Text and absent values have no sample.
Source: prometheus.io/docs/instrumenting/exposition_formats/.
"""

# ruff: noqa: E501 - a metric reads best on one line

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal

from vlad.faults import Reaction

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MODES = ("offline", "ready", "holding", "engaged", "stopping", "faulted")

Kind = Literal["counter", "gauge"]


@dataclass(frozen=True, slots=True)
class Metric:
    """How the status key `key` is exported.

    key: dotted; a part in braces stands for any name and becomes a label, or a part of `name` where
    that has it in braces too. scale: what the number is multiplied with.
    """

    key: str
    name: str
    kind: Kind
    help: str
    scale: float = 1

    def match(self, path: tuple[str, ...]) -> tuple[str, dict[str, str]] | None:
        """Name and labels of the sample at `path`, or None."""
        parts = self.key.split(".")
        if len(parts) != len(path):
            return None
        taken: dict[str, str] = {}
        for part, name in zip(parts, path, strict=True):
            if part.startswith("{"):
                taken[part[1:-1]] = name
            elif part != name:
                return None
        labels = {k: v for k, v in taken.items() if f"{{{k}}}" not in self.name}
        name = self.name.format(**taken)
        return (name, labels) if name.isascii() and name.isidentifier() else None


TABLE = (
    Metric("t_execution_ms", "vlad_t_execution_seconds", "gauge", "T_execution: motion left in the queue", 1e-3),
    Metric("t_inference_ms.{estimate}", "vlad_t_inference_seconds", "gauge", "T_inference: p50 and p99 of the window, and the prediction", 1e-3),
    Metric("t_inference_ms.count", "vlad_inferences_remembered", "gauge", "Inference times in the window"),
    Metric("queue_depth", "vlad_queue_depth", "gauge", "Actions left in the queue"),
    Metric("chunks.total", "vlad_chunks_total", "counter", "Chunks that reached the gate"),
    Metric("chunks.rejected.{reason}", "vlad_chunks_rejected_total", "counter", "Chunks rejected by the gate"),
    Metric("chunks.{counter}", "vlad_chunks_{counter}_total", "counter", "Chunks, or actions of them, at the gate"),
    Metric("servo.rate_hz", "vlad_servo_rate_hertz", "gauge", "Rate of the servo loop"),
    Metric("servo.realtime", "vlad_servo_realtime", "gauge", "1 when SCHED_FIFO and locked memory were granted"),
    Metric("servo.missed.{joint}", "vlad_servo_missed_replies_total", "counter", "Replies that a servo did not send"),
    Metric("servo.corrupt.{joint}", "vlad_servo_corrupt_replies_total", "counter", "Replies of a servo that were damaged"),
    Metric("servo.goals_lost.{joint}", "vlad_servo_goals_lost_total", "counter", "Ticks in which a goal register held another goal than was written"),
    Metric("servo.encoder_jumps.{joint}", "vlad_servo_encoder_jumps_total", "counter", "Steps of a position reading that no servo can turn"),
    Metric("servo.{counter}", "vlad_servo_{counter}_total", "counter", "Of the servo loop since start"),
    Metric("execution.starved_ticks.{cause}", "vlad_starved_ticks_total", "counter", "Ticks of an engaged arm without an action, by cause"),
    Metric("execution.action_age_max_ms", "vlad_action_age_max_seconds", "gauge", "Greatest age of an observation behind a written goal", 1e-3),
    Metric("execution.{counter}", "vlad_execution_{counter}_total", "counter", "Of motion under the policy"),
    Metric("arm.torque", "vlad_torque", "gauge", "1 when the servos have torque"),
    Metric("arm.at_rest", "vlad_at_rest", "gauge", "1 when the goal stands still"),
    Metric("arm.bus", "vlad_bus_up", "gauge", "1 when the servo bus is open"),
    Metric("arm.parking", "vlad_parking", "gauge", "1 on the way to the rest pose"),
    Metric("arm.letting_down", "vlad_letting_down", "gauge", "1 while the torque fades: PARK without a sweep"),
    Metric("arm.supply_v", "vlad_supply_nominal_volts", "gauge", "Nominal supply voltage; 0: not known yet"),
    Metric("arm.joints.{joint}.lying", "vlad_servo_encoder_lies", "gauge", "1 for a joint whose encoder is not believed, and which has no torque"),
    Metric("arm.joints.{joint}.torque_limit", "vlad_servo_torque_limit_ratio", "gauge", "Torque limit asked for, of what the servo is configured for"),
    Metric("arm.joints.{joint}.temperature_c", "vlad_servo_temperature_celsius", "gauge", "Temperature of a servo"),
    Metric("arm.joints.{joint}.voltage_v", "vlad_servo_voltage_volts", "gauge", "Supply voltage at a servo"),
    Metric("arm.joints.{joint}.load", "vlad_servo_load_ratio", "gauge", "Load of a servo, signed"),
    Metric("arm.joints.{joint}.status", "vlad_servo_status_bits", "gauge", "Error byte of a servo"),
    Metric("arm.joints.{joint}.{value}", "vlad_joint_{value}", "gauge", "Goal and present position (rad; 0..1 for the gripper)"),
    Metric("policy.rate_hz", "vlad_policy_rate_hertz", "gauge", "Rate of the policy's actions"),
    Metric("policy.chunk_size", "vlad_policy_chunk_size", "gauge", "Actions of a chunk"),
    Metric("policy.threshold_ms", "vlad_policy_threshold_seconds", "gauge", "Motion left when the next chunk is requested", 1e-3),
    Metric("policy.load_check.fits", "vlad_policy_fits", "gauge", "1 when the load check lets the policy run"),
    Metric("policy.requests", "vlad_policy_requests_total", "counter", "Chunks requested"),
    Metric("policy.cold_starts", "vlad_policy_cold_starts_total", "counter", "Chunks requested at rest with an empty queue"),
    Metric("policy.refused_admissions", "vlad_policy_refused_admissions_total", "counter", "Requests not made: T_inference would not fit into T_execution"),
    Metric("policy.tight", "vlad_policy_tight_total", "counter", "Requests on the fastest rung, because none was sure to arrive before the arm brakes"),
    Metric("policy.failed", "vlad_policy_failed_total", "counter", "Inferences that failed"),
    Metric("policy.ladder.{rung}.measured_ms", "vlad_rung_measured_seconds", "gauge", "T_inference of a rung at load: the greatest", 1e-3),
    Metric("policy.ladder.{rung}.predicted_ms", "vlad_rung_predicted_seconds", "gauge", "T_inference of a rung: the prediction", 1e-3),
    Metric("policy.ladder.{rung}.skipped.{lacking}", "vlad_rung_skipped_total", "counter", "Requests that passed a rung by for what it lacked"),
    Metric("policy.ladder.{rung}.{counter}", "vlad_rung_{counter}_total", "counter", "Requests by rung of the ladder: made, accepted, rejected, passed by as too slow"),
    Metric("policy.rtc.guided", "vlad_rtc_guided_total", "counter", "Chunks sampled to go on from the one before"),
    Metric("policy.rtc.unguided.{cause}", "vlad_rtc_unguided_total", "counter", "Chunks that had nothing to go on from, by cause"),
    Metric("policy.rtc.underestimated", "vlad_rtc_underestimated_total", "counter", "Guided chunks that came later than predicted"),
    Metric("policy.rtc.prefix_rms.{estimate}", "vlad_rtc_prefix_distance", "gauge", "Distance of guided chunks from the one before, over what was executed meanwhile: rms, normalised actions"),
    Metric("policy.rtc.{count}", "vlad_rtc_{count}", "gauge", "Of the newest guided chunk: actions predicted to be executed during its inference, and what it came to"),
    Metric("policy.retries", "vlad_policy_retries_total", "counter", "Failed inferences that were tried once more before a hold"),
    Metric("workers.{block}.up", "vlad_worker_up", "gauge", "1 when the worker of a block is up"),
    Metric("workers.{block}.calls", "vlad_worker_calls_total", "counter", "Computations by the worker of a block"),
    Metric("workers.{block}.restarts", "vlad_worker_restarts_total", "counter", "Workers of a block that replaced a lost one"),
    Metric("workers.{block}.failures.{kind}", "vlad_worker_failures_total", "counter", "Failures of a block's worker"),
    Metric("workers.{block}.timeout_ms", "vlad_worker_timeout_seconds", "gauge", "A call that takes longer ends its worker", 1e-3),
    Metric("workers.{block}.call_ms.{estimate}", "vlad_worker_call_seconds", "gauge", "p50 and p99 of a block's calls", 1e-3),
    Metric("workers.{block}.overhead_us.{estimate}", "vlad_worker_overhead_seconds", "gauge", "p50 and p99 of what a call takes beside the computation", 1e-6),
    Metric("cameras.{camera}.{counter}", "vlad_camera_{counter}_total", "counter", "Of one camera since start"),
    Metric("capture.skewed", "vlad_capture_skewed_total", "counter", "Sets of frames too far apart in time, and not used"),
    Metric("bus.{counter}", "vlad_bus_{counter}_total", "counter", "Of the servo bus since start"),
    Metric("flight.enabled", "vlad_flight_enabled", "gauge", "1 when the flight record is on"),
    Metric("flight.locked", "vlad_flight_locked", "gauge", "1 when the memory that the servo loop records to is locked"),
    Metric("flight.survives_crash", "vlad_flight_survives_crash", "gauge", "1 when a killed daemon leaves its record in memory"),
    Metric("flight.fill.{ring}", "vlad_flight_fill_ratio", "gauge", "How full a ring of the flight record is"),
    Metric("flight.{counter}", "vlad_flight_{counter}_total", "counter", "Files of the flight record: written, failed, postponed, removed ..."),
    Metric("log.{counter}", "vlad_log_{counter}_total", "counter", "Lines of the log"),
    Metric("uptime_s", "vlad_uptime_seconds", "gauge", "Since the start of the daemon"),
)  # fmt: skip

# Histograms of the loop {count, min, mean, max, p50, p99, p999} in us become summaries in seconds.
SUMMARIES = {
    ("servo", "wake_us"): ("vlad_servo_wake_seconds", "Lateness of the servo loop's wake-up"),
    ("servo", "compute_us"): ("vlad_servo_compute_seconds", "A tick without its time on the bus"),
    ("servo", "bus_us"): ("vlad_servo_bus_seconds", "Time of a tick on the bus"),
}
QUANTILES = {"p50": "0.5", "p99": "0.99", "p999": "0.999"}


@dataclass(slots=True)
class _Family:
    kind: str
    help: str
    samples: dict[str, str] = field(default_factory=dict)  # name and labels -> value; each once


class _Exposition:
    """Families in the order of their first sample, the samples of each together."""

    def __init__(self) -> None:
        self._families: dict[str, _Family] = {}

    def add(self, name: str, kind: str, text: str, value: float, suffix: str = "", /, **labels: str) -> None:
        family = self._families.setdefault(name, _Family(kind, text))
        family.samples[f"{name}{suffix}{_labels(labels)}"] = _number(value)

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
        if path[:2] in SUMMARIES:
            continue
        for metric in TABLE:
            if found := metric.match(path):
                out.add(found[0], metric.kind, metric.help, value * metric.scale, **found[1])
                break
        else:
            text = "A number of the status object, by its key"
            out.add("vlad_status", "gauge", text, value, key=".".join(path))
    return out.text()


def _add_states(out: _Exposition, status: Mapping[str, Any]) -> None:
    for mode in MODES:
        now = status.get("mode") == mode
        out.add("vlad_mode", "gauge", "1 for the mode of the arm", now, mode=mode)
    for reaction in Reaction:
        name = reaction.name.lower()
        now = status.get("reaction") == name
        out.add("vlad_reaction", "gauge", "1 for the reaction in force", now, reaction=name)
    if isinstance(why := status.get("why_not_engageable"), list):
        out.add("vlad_engageable", "gauge", "1 when `engage` would be granted", not why)
    for fault in status.get("faults", ()):
        who = {"id": str(fault["id"]), "name": fault["name"], "reaction": fault["reaction"]}
        out.add("vlad_fault", "gauge", "1 for a fault that is active or latched", 1, **who)
        out.add("vlad_fault_latched", "gauge", "1 when it is latched", fault["latched"], **who)


def _add_summaries(out: _Exposition, status: Mapping[str, Any]) -> None:
    for (group, key), (name, text) in SUMMARIES.items():
        histogram = status.get(group, {}).get(key)
        if not isinstance(histogram, Mapping):
            continue
        for share, quantile in QUANTILES.items():
            if share in histogram:
                out.add(name, "summary", text, histogram[share] * 1e-6, quantile=quantile)
        count = histogram.get("count", 0)
        out.add(name, "summary", text, histogram.get("mean", 0) * count * 1e-6, "_sum")
        out.add(name, "summary", text, count, "_count")
        out.add(f"{name}_max", "gauge", f"{text}: greatest", histogram.get("max", 0) * 1e-6)


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
