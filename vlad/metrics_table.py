"""Every metric of vlad: the status key it comes from, its name, type, meaning, and what a bad value says.

docs/metrics.md is written from here: `python -m vlad.metrics --write-doc`. Base units are seconds,
bytes and ratios, as Prometheus has it; positions are rad, the gripper's 0..1 of its range.
"""

# ruff: noqa: E501 - a metric reads best on one line

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "summary"]
UNITS = {"_seconds": "s", "_seconds_max": "s", "_celsius": "°C", "_volts": "V", "_ratio": "ratio", "_hertz": "1/s", "_bytes": "B",
         "_bytes_total": "B", "_seconds_total": "s", "_celsius_per_second": "°C/s"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Metric:
    """How the status key `key` is exported.

    key: dotted; a part in braces stands for any name and becomes a label. bad: what to watch for, ""
    where any value is a fact and no more. scale: what the number is multiplied with. labels: only of
    metrics that are not made from one number each.
    """

    key: str
    name: str
    kind: Kind
    help: str
    bad: str = ""
    scale: float = 1
    labels: tuple[str, ...] = ()

    def match(self, path: tuple[str, ...]) -> dict[str, str] | None:
        """Labels of the sample at `path`, or None."""
        parts = self.key.split(".")
        if len(parts) != len(path):
            return None
        labels: dict[str, str] = {}
        for part, name in zip(parts, path, strict=True):
            if part.startswith("{"):
                labels[part[1:-1]] = name
            elif part != name:
                return None
        return labels

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.labels or tuple(part[1:-1] for part in self.key.split(".") if part.startswith("{"))

    @property
    def unit(self) -> str:
        for suffix, unit in UNITS.items():
            if self.name.endswith(suffix):
                return unit
        if self.help.startswith("1 "):
            return "1 or 0"
        return "count" if self.kind == "counter" else "rad; 0..1" if "osition" in self.help else "number"


def _counters(key: str, name: str, rows: dict[str, tuple[str, str]]) -> tuple[Metric, ...]:
    """A counter for each name that stands for {} in `key` and `name`."""
    return tuple(Metric(key.format(row), name.format(row), "counter", *texts) for row, texts in rows.items())


# Not from one number of the status each: vlad.metrics fills them in.
STATES = (
    Metric("version, board", "vlad_info", "gauge", "1 with what runs as labels", labels=("version", "board")),
    Metric("mode", "vlad_mode", "gauge", "1 for the mode of the arm", "mode=\"faulted\" is 1: a latched fault, somebody is needed", labels=("mode",)),
    Metric("reaction", "vlad_reaction", "gauge", "1 for the reaction in force", "hold, park or limp is 1", labels=("reaction",)),
    Metric("why_not_engageable", "vlad_engageable", "gauge", "1 when `engage` would be granted, or is in force", "0 for long on an arm that should work: `vladctl status` says why"),
    Metric("faults", "vlad_fault", "gauge", "1 for a fault that is active or latched", "any sample with reaction hold, park or limp: FAILSAFE.md has the row", labels=("id", "name", "reaction")),
    Metric("faults", "vlad_fault_latched", "gauge", "1 when it is latched", "1: it waits for `vladctl clear`", labels=("id", "name", "reaction")),
)  # fmt: skip
# Histograms of the loop {count, min, mean, max, p50, p99, p999} in us become summaries in seconds.
SUMMARIES = (
    Metric("servo.wake_us", "vlad_servo_wake_seconds", "summary", "Lateness of the servo loop's wake-up", "p99 above 0.001: no real-time rights, or the core is shared", 1e-6),
    Metric("servo.compute_us", "vlad_servo_compute_seconds", "summary", "A tick without its time on the bus", "p99 above 0.001: the core is throttled or shared", 1e-6),
    Metric("servo.bus_us", "vlad_servo_bus_seconds", "summary", "Time of a tick on the bus", "near the period: the adapter's latency timer, or servos that do not answer", 1e-6),
)  # fmt: skip
_GREATEST = tuple(
    Metric(f"{m.key}.max", f"{m.name}_max", "gauge", f"{m.help}: greatest since start", "above the period", m.scale)
    for m in SUMMARIES
)

_LATE = "rises: chunks are asked for and not used: see vlad_rung_predicted_seconds"
SECTIONS: dict[str, tuple[Metric, ...]] = {
    "Inference and the action queue": (
        Metric("t_execution_ms", "vlad_t_execution_seconds", "gauge", "T_execution: motion left in the queue", "at or below vlad_t_inference_seconds{estimate=\"predicted\"} while engaged: the arm is about to stop", 1e-3),
        Metric("t_inference_ms.{estimate}", "vlad_t_inference_seconds", "gauge", "T_inference: p50 and p99 of the window, and the prediction", "p99 near vlad_policy_threshold_seconds: no reserve left", 1e-3),
        Metric("t_inference_ms.count", "vlad_inferences_remembered", "gauge", "Inference times in the window"),
        Metric("stages_ms.{stage}.{estimate}", "vlad_stage_seconds", "gauge", "p50 and p99 of the newest requests: from admission to the prefix, and from there to the arrival", "grows: which half of T_inference got slower", 1e-3),
        Metric("queue_depth", "vlad_queue_depth", "gauge", "Actions left in the queue", "0 while engaged: the arm stands"),
        Metric("chunks.total", "vlad_chunks_total", "counter", "Chunks that reached the gate", "does not rise while engaged: inference hangs"),
        Metric("chunks.rejected.{reason}", "vlad_chunks_rejected_total", "counter", "Chunks rejected by the gate, whole", "rises: late and stale is a slow machine, everything else a policy that does not fit the arm"),
        *_counters("chunks.{}", "vlad_chunks_{}_total", {
            "accepted": ("Chunks accepted by the gate", "does not rise while engaged"),
            "clamped": ("Chunks with actions slightly beyond a limit, pulled to it", "rises: the policy was trained on other limits"),
            "clamped_elements": ("Single numbers so clamped", "as above"),
            "late": ("Chunks that came after the last action of their predecessor", _LATE),
            "stale": ("Chunks from an observation or a frame that is too old", _LATE),
            "tails_dropped": ("Actions of old chunks dropped because they were over one step from the end of the newer one", ""),
            "negative_frame_ages": ("Frames that claim to be from the future", "rises: the driver's clock"),
            "overdue": ("Timelines that were published too late and not executed", "rises: the expert thread loses its core"),
        }),
    ),
    "Execution": (
        Metric("execution.starved_ticks.{cause}", "vlad_starved_ticks_total", "counter", "Ticks of an engaged arm without an action, by cause", "its rate over that of vlad_execution_engaged_ticks_total is the idle share: above 0.01, other than cold, look at the cause"),
        Metric("execution.action_age_max_ms", "vlad_action_age_max_seconds", "gauge", "Greatest age of an observation behind a written goal", "above twice the duration of a chunk", 1e-3),
        *_counters("execution.{}", "vlad_execution_{}_total", {
            "engaged_ticks": ("Ticks of an engaged arm", ""),
            "covered_ticks": ("Engaged ticks with an action", "falls behind vlad_execution_engaged_ticks_total"),
            "gaps": ("Times that actions ran out under an engaged arm", "rises: each is a stop, its cause is in the event `gap`"),
            "engagements": ("Times that the policy was given the arm", ""),
        }),
    ),
    "Servo loop": (
        *_GREATEST,
        Metric("servo.rate_hz", "vlad_servo_rate_hertz", "gauge", "Rate of the servo loop, as configured"),
        Metric("servo.realtime", "vlad_servo_realtime", "gauge", "1 when SCHED_FIFO and locked memory were granted", "0 on a real arm"),
        Metric("servo.missed.{joint}", "vlad_servo_missed_replies_total", "counter", "Replies that a servo did not send", "rises: wiring, or a bus that is too slow; rows 17 and 19"),
        Metric("servo.corrupt.{joint}", "vlad_servo_corrupt_replies_total", "counter", "Replies of a servo that were damaged", "rises: wiring, termination, noise"),
        Metric("servo.goals_lost.{joint}", "vlad_servo_goals_lost_total", "counter", "Ticks in which a goal register held another goal than was written", "rises: writes get lost on the bus"),
        Metric("servo.encoder_jumps.{joint}", "vlad_servo_encoder_jumps_total", "counter", "Steps of a position reading that no servo can turn", "rises: the encoder lies; row 23"),
        *_counters("servo.{}", "vlad_servo_{}_total", {
            "ticks": ("Ticks of the loop", "rate below vlad_servo_rate_hertz: the loop loses its core"),
            "overruns": ("Ticks that took longer than the period", "rises: the bus or the core is too slow; row 24"),
            "skipped_periods": ("Periods that were left out because a tick overran", "rises"),
            "late_wakes": ("Wake-ups later than half of the period", "rises: the core is shared"),
            "writes": ("Goals written, one for all joints", "does not rise while engaged"),
            "dropped_writes": ("Goals that the bus did not take in time; the same goal goes out in the next tick", "rises: bus or adapter too slow"),
            "write_errors": ("Writes that the bus refused", "above 0: rows 15 and 18"),
            "read_errors": ("Reads that the bus refused", "above 0: row 15"),
            "wire_limit": ("Goals refused at the wire: beyond a limit", "above 0: a bug of vlad, please report it"),
            "wire_step": ("Goals refused at the wire: more than one step", "above 0: a bug of vlad, please report it"),
            "events_dropped": ("Events lost because the supervisor did not fetch them", "above 0: the supervisor hung"),
            "let_down": ("PARKs that let the torque fade instead of moving to the rest pose", ""),
        }),
    ),
    "Arm": (
        Metric("arm.torque", "vlad_torque", "gauge", "1 when the servos have torque"),
        Metric("arm.at_rest", "vlad_at_rest", "gauge", "1 when the goal stands still"),
        Metric("arm.bus", "vlad_bus_up", "gauge", "1 when the servo bus is open", "0"),
        Metric("arm.parking", "vlad_parking", "gauge", "1 on the way to the rest pose"),
        Metric("arm.letting_down", "vlad_letting_down", "gauge", "1 while the torque fades: PARK without a sweep"),
        Metric("arm.supply_v", "vlad_supply_nominal_volts", "gauge", "Nominal supply voltage; 0: not known yet"),
        Metric("arm.joints.{joint}.lying", "vlad_servo_encoder_lies", "gauge", "1 for a joint whose encoder is not believed, and which has no torque", "1: repair it; row 23"),
        Metric("arm.joints.{joint}.torque_limit", "vlad_servo_torque_limit_ratio", "gauge", "Torque limit asked for, of what the servo is configured for", "below 1: reduced after heat or an obstacle; rows 14 and 21"),
        Metric("arm.joints.{joint}.temperature_c", "vlad_servo_temperature_celsius", "gauge", "Temperature of a servo", "above 60: it carries too much, or stands against something; row 21"),
        Metric("arm.joints.{joint}.voltage_v", "vlad_servo_voltage_volts", "gauge", "Supply voltage at a servo", "15 % off vlad_supply_nominal_volts: supply or cable; row 22"),
        Metric("arm.joints.{joint}.load", "vlad_servo_load_ratio", "gauge", "Load of a servo, signed", "for seconds above 0.5: an obstacle"),
        Metric("arm.joints.{joint}.status", "vlad_servo_error_status", "gauge", "Error byte of a servo", "not 0: row 20"),
        Metric("arm.joints.{joint}.goal", "vlad_joint_goal", "gauge", "Goal position"),
        Metric("arm.joints.{joint}.position", "vlad_joint_position", "gauge", "Present position", "far from vlad_joint_goal: it does not follow; row 14"),
        Metric("arm.joints.{joint}.min", "vlad_joint_min", "gauge", "Least allowed position"),
        Metric("arm.joints.{joint}.max", "vlad_joint_max", "gauge", "Greatest allowed position"),
    ),
    "Policy and scheduler": (
        Metric("policy.rate_hz", "vlad_policy_rate_hertz", "gauge", "Rate of the policy's actions"),
        Metric("policy.chunk_size", "vlad_policy_chunk_size", "gauge", "Actions of a chunk"),
        Metric("policy.threshold_ms", "vlad_policy_threshold_seconds", "gauge", "Motion left when the next chunk is requested", "", 1e-3),
        Metric("policy.load_check.fits", "vlad_policy_fits", "gauge", "1 when the load check lets the policy run", "0: too slow for this machine"),
        Metric("policy.load_check.t_inference_ms", "vlad_policy_load_check_seconds", "gauge", "T_inference that the load check calculated with", "near half of vlad_policy_horizon_seconds", 1e-3),
        Metric("policy.load_check.horizon_ms", "vlad_policy_horizon_seconds", "gauge", "Motion of a whole chunk", "", 1e-3),
        *_counters("policy.{}", "vlad_policy_{}_total", {
            "requests": ("Chunks requested", ""),
            "cold_starts": ("Chunks requested at rest with an empty queue", "rises while engaged: each is a stop before it"),
            "refused_admissions": ("Requests not made: T_inference would not fit into T_execution", "rises: the machine is too slow now"),
            "tight": ("Requests on the fastest rung, because none was sure to arrive before the arm brakes", "rises"),
            "failed": ("Inferences that failed", "above 0: row 8"),
            "retries": ("Failed inferences that were tried once more before a hold", "above 0"),
        }),
        Metric("policy.ladder.{rung}.measured_ms", "vlad_rung_measured_seconds", "gauge", "T_inference of a rung at load: the greatest", "", 1e-3),
        Metric("policy.ladder.{rung}.predicted_ms", "vlad_rung_predicted_seconds", "gauge", "T_inference of a rung: the prediction", "twice vlad_rung_measured_seconds: heat, or load on the same cores", 1e-3),
        Metric("policy.ladder.{rung}.skipped.{lacking}", "vlad_rung_skipped_total", "counter", "Requests that passed a rung by for what it lacked"),
        *_counters("policy.ladder.{{rung}}.{}", "vlad_rung_{}_total", {
            "requests": ("Requests made on a rung", "most not on `full`: the machine is too slow for it"),
            "accepted": ("Chunks of a rung that the gate accepted", ""),
            "rejected": ("Chunks of a rung that the gate rejected", "rises"),
            "too_slow": ("Times that a rung was passed by as too slow", "rises"),
        }),
        *_counters("policy.rtc.{}", "vlad_rtc_{}_total", {
            "guided": ("Chunks sampled to go on from the one before", "does not rise with `aggregate = \"rtc\"`: jumps between chunks"),
            "underestimated": ("Guided chunks that came later than predicted", "rises: T_inference varies; the chunk was guided over too few actions"),
        }),
        Metric("policy.rtc.unguided.{cause}", "vlad_rtc_unguided_total", "counter", "Chunks that had nothing to go on from, by cause", "rises for `changed` or `elapsed`"),
        Metric("policy.rtc.prefix_rms.{estimate}", "vlad_rtc_prefix_distance", "gauge", "Distance of guided chunks from the one before, over what was executed meanwhile: rms, in normalised actions", "grows: the guidance does not hold"),
        Metric("policy.rtc.delay_actions", "vlad_rtc_delay_actions", "gauge", "Of the newest guided chunk: actions predicted to be executed during its inference"),
        Metric("policy.rtc.consumed_actions", "vlad_rtc_consumed_actions", "gauge", "Of the newest guided chunk: actions that were", "above vlad_rtc_delay_actions"),
    ),
    "Block workers": (
        Metric("workers.{block}.up", "vlad_worker_up", "gauge", "1 when the worker of a block is up", "0"),
        Metric("workers.{block}.pid", "vlad_worker_process_id", "gauge", "Process id of the worker; absent: none", "changes: another worker"),
        Metric("workers.{block}.calls", "vlad_worker_calls_total", "counter", "Computations by the worker of a block"),
        Metric("workers.{block}.restarts", "vlad_worker_restarts_total", "counter", "Workers of a block that replaced a lost one", "rises: driver or model; rows 7 and 8"),
        Metric("workers.{block}.failures.{kind}", "vlad_worker_failures_total", "counter", "Failures of a block's worker", "rises"),
        Metric("workers.{block}.timeout_ms", "vlad_worker_timeout_seconds", "gauge", "A call that takes longer ends its worker", "", 1e-3),
        Metric("workers.{block}.call_ms.{estimate}", "vlad_worker_call_seconds", "gauge", "p50 and p99 of a block's calls", "p99 near vlad_worker_timeout_seconds", 1e-3),
        Metric("workers.{block}.overhead_us.{estimate}", "vlad_worker_overhead_seconds", "gauge", "p50 and p99 of what a call takes beside the computation", "p50 above 0.0003: the cores are full", 1e-6),
    ),
    "Cameras": (
        *_counters("cameras.{{camera}}.{}", "vlad_camera_{}_total", {
            "frames": ("Good frames", "rate below the camera's: rows 2 and 4"),
            "bad": ("Frames dropped as damaged, short or undecodable", "rises: cable, USB bandwidth; row 4"),
            "corrupt": ("Frames that the driver flagged", "rises"),
            "short": ("Frames with too few bytes", "rises: USB bandwidth"),
            "undecodable": ("JPEGs that did not decode", "rises"),
            "torn": ("Frames of the simulator that changed while they were read", "rises"),
            "superseded": ("Good frames that a newer one replaced before anyone wanted them", ""),
            "sequence_gaps": ("Frames that the driver numbered and never delivered", "rises: USB bandwidth"),
            "negative_age": ("Frames stamped ahead of now", "rises: the driver's clock"),
            "stamped_here": ("Frames that the driver gave no usable time", "rises: their age is a guess"),
            "timeouts": ("Waits of 50 ms without a frame", ""),
            "eagain": ("Wake-ups without a frame", ""),
            "errors": ("Other errors of the device", "rises: row 1"),
            "refused": ("Frames not lent because too many were out", "rises: a bug of vlad, please report it"),
            "lost": ("Times that the camera was lost", "rises: row 1"),
            "reopened": ("Times that it was opened again", "rises"),
            "reopen_failed": ("Times that this failed", "rises: it is unplugged"),
            "beats": ("Rounds of the capture thread", "does not rise: it hangs"),
        }),
        Metric("capture.skewed", "vlad_capture_skewed_total", "counter", "Sets of frames too far apart in time, and not used", "rises steadily: row 6"),
    ),
    "Bus": _counters("bus.{}", "vlad_bus_{}_total", {
        "frames_tx": ("Packets sent", ""),
        "frames_rx": ("Packets received that were good and asked for", ""),
        "bytes_tx": ("Bytes sent", ""),
        "bytes_rx": ("Bytes received", ""),
        "timeouts": ("Requests that at least one servo left unanswered", "rises: row 17"),
        "missing_replies": ("Servos that did so", "rises"),
        "checksum_errors": ("Packets with a wrong checksum", "rises: wiring, noise"),
        "wrong_id": ("Packets of a servo that was not asked, or had answered", "rises: two servos with one id, or late answers"),
        "short_replies": ("Packets cut off or with too few bytes", "rises"),
        "resync_bytes": ("Bytes dropped in search of a packet", "rises: noise"),
        "stale_bytes": ("Bytes found in the input before a request", "rises: answers come late"),
        "status_errors": ("Answers with an error bit of the servo", "rises: row 20"),
        "short_writes": ("Writes that took a part", "rises"),
        "aborted_frames": ("Packets not fully written in time", "rises: the adapter is too slow"),
        "echo_missing": ("Requests that did not come back first, on a bus with echo", "rises: another kind of adapter"),
        "hangups": ("Times that the adapter went away", "rises: row 15"),
        "eagain": ("Writes or reads that would have blocked", ""),
        "eintr": ("Calls that a signal interrupted", ""),
        "errors": ("Calls that failed otherwise", "rises"),
        "unencodable_goals": ("Goals that have no ticks", "above 0: a bug of vlad, please report it"),
        "reopened": ("Times that the bus was opened again", "rises: row 15"),
    }),
    "Flight record": (
        Metric("flight.enabled", "vlad_flight_enabled", "gauge", "1 when the flight record is on", "0: nothing will be left after a fault"),
        Metric("flight.survives_crash", "vlad_flight_survives_crash", "gauge", "1 when a killed daemon leaves its record in memory"),
        Metric("flight.locked", "vlad_flight_locked", "gauge", "1 when the memory that the servo loop records to is locked", "0 on a real arm"),
        Metric("flight.fill.{ring}", "vlad_flight_fill_ratio", "gauge", "How full a ring of the flight record is; 1 is usual"),
        *_counters("flight.{}", "vlad_flight_{}_total", {
            "written": ("Files written", "rises: something held the arm, look at them: `vlad report FILE`"),
            "failed": ("Files that could not be written", "above 0: disk full or read-only"),
            "postponed": ("Files that waited because another had just been written", ""),
            "same_episode": ("Faults of an episode that has its file already", ""),
            "recovered": ("Files made of what a killed daemon had left", "rises: the daemon was killed"),
            "kept": ("Memories of a killed daemon that this version cannot read, kept as they are", "rises: `vlad flight recover` of the version that left it"),
            "replaced": ("Memories of a killed daemon that the next one's took the place of", "rises: files could not be written after the first"),
            "removed": ("Old files that gave way", ""),
            "refused": ("Records too large for their ring", "above 0"),
            "notes_refused": ("Notes too large for their ring", "above 0"),
            "pictures_failed": ("Rounds of thumbnails that failed", "rises"),
        }),
    ),
    "Surroundings": (
        Metric("memory.stalled_share", "vlad_memory_stalled_ratio", "gauge", "Part of the last second in which something waited for memory", "above 0.1: row 35"),
        Metric("memory.cgroup_share", "vlad_memory_cgroup_ratio", "gauge", "Memory in use, of the cgroup's limit", "above 0.9: row 35"),
        Metric("thermal.celsius", "vlad_board_temperature_celsius", "gauge", "Temperature of the board, where a zone is configured", "near the throttling point: row 42"),
        Metric("thermal.slope_c_s", "vlad_board_temperature_slope_celsius_per_second", "gauge", "How fast that rises", "above 0.1 for a minute"),
        Metric("thermal.drift", "vlad_inference_drift", "gauge", "T_inference now, over what it was at first", "above 1.3: the processor throttles, or its cores are shared; row 42"),
        *_counters("thermal.{}", "vlad_board_temperature_{}_total", {
            "unreadable": ("Times that the temperature could not be read", "rises: it is not watched"),
        }),
        *_counters("progress.{}", "vlad_progress_{}_total", {
            "oscillations": ("Times that a joint swung to and fro", "rises: row 47"),
            "stills": ("Times that an engaged arm did not get on", "rises: row 47"),
            "timeouts": ("Times that an arm was engaged for too long", "rises: row 47"),
        }),
    ),
    "Control socket": (
        Metric("control.clients", "vlad_control_clients", "gauge", "Clients that are connected", "near `control.max_clients`: somebody does not hang up"),
        Metric("control.longest_pass_ns", "vlad_control_longest_pass_seconds", "gauge", "Longest round of all clients: a stop waits no longer than two", "above 0.1", 1e-9),
        Metric("control.longest_lower_ns", "vlad_control_longest_lower_seconds", "gauge", "Longest from the readiness of a stop to its request word", "above 0.01", 1e-9),
        *_counters("control.{}", "vlad_control_{}_total", {
            "connections": ("Connections", ""),
            "refused_clients": ("Connections refused, because too many were there", "rises"),
            "evicted": ("Connections of the reserve that a newer one replaced", "rises"),
            "fd_exhausted": ("Connections that met no file descriptor", "above 0"),
            "accept_failures": ("Connections that failed otherwise", "above 0"),
            "lines": ("Requests, as lines", ""),
            "malformed": ("Lines that are no request", "rises: another program talks to the socket"),
            "oversize": ("Lines over 64 KiB", "rises"),
            "half_open": ("Connections dropped because no whole line came in time", "rises"),
            "slow_readers": ("Connections dropped because their replies were not read", "rises"),
            "broken": ("Connections that failed in the middle", ""),
            "not_permitted": ("hold, stop or limp of somebody who is no operator", "rises: somebody's stop does not work; `control.operator_groups`"),
            "holds": ("hold and stop", ""),
            "limps": ("limp", ""),
            "untold": ("hold, stop and limp that were obeyed and are not among the events: too many at once", "rises"),
            "forwarded": ("Requests handed to Python", ""),
            "busy": ("Requests refused because too many waited", "rises"),
            "abandoned": ("Requests whose client was gone before they were taken up", ""),
            "replies": ("Replies", ""),
            "orphan_replies": ("Replies whose client was gone", ""),
        }),
    ),
    "Process and log": (
        Metric("uptime_s", "vlad_uptime_seconds", "gauge", "Since the start of the daemon", "falls: it was restarted"),
        Metric("process.resident_bytes", "vlad_process_resident_bytes", "gauge", "Memory of the daemon that is resident", "grows for hours"),
        Metric("process.cpu_s", "vlad_process_cpu_seconds_total", "counter", "Processor time of the daemon, without workers"),
        Metric("process.descriptors", "vlad_process_descriptors", "gauge", "File descriptors in use", "grows for hours"),
        Metric("process.threads", "vlad_process_threads", "gauge", "Threads", "grows for hours"),
        *_counters("log.{}", "vlad_log_{}_total", {
            "written": ("Lines of the log", ""),
            "dropped": ("Lines dropped because the writer did not keep up", "rises: a slow disk or journal"),
            "failed": ("Lines that could not be written", "rises"),
            "disk_errors": ("Errors of the disk under the log", "rises: row 34"),
        }),
        Metric("log.stalled_ms", "vlad_log_stalled_seconds", "gauge", "For how long the writer has waited for the disk", "above 1: row 34", 1e-3),
    ),
}  # fmt: skip
TABLE = tuple(metric for metrics in SECTIONS.values() for metric in metrics)
EVERYTHING_ELSE = Metric("any other number", "vlad_status", "gauge", "A number of the status object without a row here, by its dotted key", labels=("key",))
