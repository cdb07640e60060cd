"""THE fault table: 50 rows from which FAILSAFE.md, csrc/fault_table.h and the tests derive.

`python -m vlad.faults --write` writes both files; without it, the command says whether they are
current (exit status 1 when not). Nothing else in vlad may state a reaction, a latch or a bound.
"""

# ruff: noqa: E501 - a row reads best with each cell on one line

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

MAX_REPEAT = 8  # VLAD_FAULT_MAX_REPEAT: ring of activation times kept for repeat_n


class Reaction(IntEnum):
    """Ordered: the most severe wins. Same values as enum vlad_reaction in csrc/vlad.h."""

    NONE = 0
    WARN = 1
    SLOW = 2
    HOLD = 3
    PARK = 4
    LIMP = 5


@dataclass(frozen=True, slots=True)
class Fault:
    """One row.

    id: 1..50. name: snake_case, exported as it is (events, status, metrics, VLAD_F_<NAME>).
    latch: latched at the first activation. repeat_n in repeat_window_s: so many activations within
    the window latch it; 0 = never by repetition.
    clear_after_ms: how long the condition must be gone until the fault is no longer active; a
    latched one then still waits for the operator's `clear`.
    react_ms: from the physical fault to the first corrective byte on the bus; rest_ms: until the
    joints stand still. None where no such time exists; `bound` then says what holds instead.
    """

    id: int
    name: str
    title: str
    reaction: Reaction
    detect: str
    response: str
    inject: str
    latch: bool = False
    repeat_n: int = 0
    repeat_window_s: int = 0
    clear_after_ms: int = 0
    react_ms: int | None = None
    rest_ms: int | None = None
    bound: str = ""

    @property
    def test_id(self) -> str:
        return f"F{self.id:02d}"


# Stage whose missed heartbeat raises a row: order of enum vlad_stage in csrc/watchdog.h.
STAGE_FAULTS = {"capture": 2, "vision": 7, "expert": 7, "supervisor": 31, "servo": 24}

NONE, WARN, SLOW = Reaction.NONE, Reaction.WARN, Reaction.SLOW
HOLD, PARK = Reaction.HOLD, Reaction.PARK


FAULTS: tuple[Fault, ...] = (
    Fault(1, "camera_lost", "Camera unplugged", HOLD,
          "errno of the dequeue (ENODEV), poll flags, or the frame source has vanished",
          "committed actions run on for at most 250 ms, then HOLD; reopened with back-off 0.5 to 8 s; clears to holding, never to motion",
          "the device seam returns ENODEV; the simulated camera is removed",
          clear_after_ms=1000, react_ms=50, rest_ms=600, bound="react: no new observation"),
    Fault(2, "camera_stalled", "Camera delivers no frame", HOLD,
          "no new frame for 5 camera periods (167 ms at 30 fps); missed heartbeat of the capture stage",
          "as row 1", "the simulated camera stops producing (`camera_stall`)",
          clear_after_ms=1000, react_ms=170, rest_ms=750, bound="react: no new observation"),
    Fault(3, "camera_frozen", "Camera repeats one picture", HOLD,
          "sequence or timestamp does not advance, or a sampled 64-bit hash is equal for 15 frames while a joint moved more than 2 degrees",
          "HOLD", "one buffer is replayed with fresh timestamps (`camera_freeze`)",
          clear_after_ms=1000, react_ms=550, rest_ms=900),
    Fault(4, "frame_bad", "Corrupt or short frame, wrong format", HOLD,
          "bytes used, error flag, decoder; raised when more than 20 % of the frames of 1 s were bad",
          "each bad frame is dropped and counted; above 20 % HOLD", "error flags, truncated frames",
          clear_after_ms=1000, react_ms=1000, rest_ms=1400),
    Fault(5, "camera_dark", "Camera dark, saturated or covered", HOLD,
          "mean and spread of sampled pixels for 0.9 s", "WARN; HOLD where `camera.hold_when_dark` says so",
          "a black picture (`camera_dark`)",
          clear_after_ms=1000, react_ms=1000, rest_ms=1400, bound="without the key the arm goes on"),
    Fault(6, "camera_skew", "Cameras out of step", HOLD,
          "no set of newest frames was captured within one period of the slowest camera; raised above 20 % of the sets of 1 s",
          "the set is dropped and counted; above 20 % HOLD", "shifted timestamps",
          clear_after_ms=1000, react_ms=1000, rest_ms=1400),
    Fault(7, "inference_hung", "Inference does not return", HOLD,
          "heartbeat of the vision or expert stage older than its bound (3 x p99, at least 500 ms)",
          "HOLD at the end of the queue or at the bound, whichever is first, until the block works again; a block worker is killed at its own time limit, and restarted after 0.25 to 8 s; a call in the daemon itself, which nothing can end, is abort() after 5 s, and systemd starts it anew",
          "a worker that sleeps for ever, also with all signals blocked; an accelerator's library that does; a policy that does in the daemon",
          repeat_n=3, repeat_window_s=60, clear_after_ms=1000, react_ms=500, rest_ms=800),
    Fault(8, "inference_failed", "Inference returns an error", HOLD,
          "return code or exception of a block; a worker that ended, or whose answer has a wrong length, number, status or shape or is not finite",
          "an error is tried once more when the queue lasts for it, otherwise HOLD; a lost worker is HOLD at once, until another one was started, after 0.25 to 8 s, and has reproduced the golden values; each failed restart counts as well",
          "a worker that fails, is killed, crashes, ends or answers nonsense in motion; an accelerator's library that crashes or fails",
          repeat_n=3, repeat_window_s=60, clear_after_ms=1000, bound="1 inference; at rest by the end of the queue + 300 ms"),
    Fault(9, "queue_drained", "Inference slower than the queue lasts", SLOW,
          "the action queue does not reach to the stopping distance ahead of now",
          "braking begins early enough to stop within the remaining tail; nothing is repeated or extrapolated; a cold start follows",
          "an expert whose latency is ramped up",
          clear_after_ms=500, react_ms=10, rest_ms=300),
    Fault(10, "stale_chunk", "Chunk from an old observation", HOLD,
          "t_obs older than max_observation_age (max_cold_age from rest), or a frame age out of bounds, at arrival",
          "the chunk is rejected and counted; 5 in a row HOLD", "delayed chunks",
          clear_after_ms=1000, bound="at arrival; at rest by the end of the queue"),
    Fault(11, "action_not_finite", "NaN or infinity in an action", WARN,
          "every element is tested in the gate",
          "the whole chunk is rejected; the arm comes to rest when the queue ends; 3 in 60 s latch, and a latched fault holds",
          "an expert that returns NaN; fuzzing of the gate",
          repeat_n=3, repeat_window_s=60, clear_after_ms=1000, bound="at arrival: nothing of it is queued"),
    Fault(12, "action_out_of_limits", "Action or goal out of limits", HOLD,
          "gate: position and per-action step of the raw chunk; wire: limits and one step of each goal",
          "up to 2 % of a joint's range beyond its limit is clamped and counted; beyond that the chunk is rejected, naming joint, action, value and bound; 3 rejections in 10 s, or one goal refused at the wire, HOLD",
          "property tests; a chunk beyond the limits",
          clear_after_ms=1000, bound="at arrival: nothing of it is queued"),
    Fault(13, "chunk_jump", "Jump between chunks", WARN,
          "first step of the merged timeline against the action or command before it",
          "blended over at most 100 ms, otherwise rejected and counted", "a displaced chunk",
          clear_after_ms=1000, bound="at arrival: nothing of it is queued"),
    Fault(14, "following_error", "The arm does not follow (obstacle)", HOLD,
          "body joints: measured position for 100 ms farther than `arm.following_limit_rad` (at a load of 25 % or more; down to half of it at none) from its goal and from every goal meanwhile, so that lagging behind a fast motion is none; the gripper is bounded by torque and current",
          "HOLD; the joint's goal goes back to where it is, one step a tick, and its torque limit to 50 % until somebody engages; a joint that gives way further is not followed down; HOLD never changes the gripper's goal",
          "an obstacle in the simulated plant (`obstacle`)", clear_after_ms=1000, react_ms=110, rest_ms=300,
          bound="the blocked joint's goal within 200 ms"),
    Fault(15, "serial_unplugged", "Serial port gone", HOLD,
          "errno of read or write (EIO, ENODEV), end of file, hang-up; row 16 three times in a row",
          "nothing more is written; the servos hold the last goal, at most one step away; the port is reopened; `clear` and `engage` are needed",
          "the master side of the pseudo-terminal closes (`unplug`)",
          latch=True, clear_after_ms=500, react_ms=10, bound="at rest: 2 ticks and the servo's own deceleration"),
    Fault(16, "short_write", "Goals do not arrive", HOLD,
          "return value against length, half a period after the tick began; the goal registers read back in the next tick",
          "a frame that was not fully written: dropped, counted, the same goal again, WARN; 3 in a row are row 15; a goal register that holds another goal for 3 ticks WARN, for 10 HOLD",
          "a write seam that returns short or EAGAIN; a servo that is deaf to goals", clear_after_ms=1000, react_ms=10, bound="for a frame; 110 ms for a goal that is lost again and again"),
    Fault(17, "reply_corrupt", "Servo replies damaged", HOLD,
          "header, id, length and checksum of every reply; 5 damaged replies of one servo in a row, or more than 5 % of the replies of 1 s damaged or missing",
          "the reply is dropped and counted, the last good state is kept; 5 in a row HOLD, 5 % of 1 s WARN", "flipped bits (`corrupt`)",
          clear_after_ms=1000, react_ms=50, rest_ms=350),
    Fault(18, "bus_garbage", "Garbage or collisions on the bus", HOLD,
          "bytes that belong to no reply; raised at 10 damaged replies of one servo in a row",
          "input is discarded before each request; row 17 holds meanwhile; latch", "random bytes (`garbage`), a wrong baud rate",
          latch=True, clear_after_ms=1000, react_ms=50, rest_ms=350),
    Fault(19, "servo_silent", "One servo does not answer", HOLD,
          "5 missed replies in a row while others answer", "HOLD of all joints, latch; the id is reported; when it answers again, the bus is read anew, because it may have lost its power",
          "one id is silenced (`silence`)", latch=True, clear_after_ms=500, react_ms=50, rest_ms=350),
    Fault(20, "servo_overload", "Servo overload or over-current", PARK,
          "status byte of each reply",
          "HOLD, the joint's torque limit to 50 % until somebody engages; clears itself after 2 s without it; 3 in 60 s latch and PARK; of the gripper, which closes on things, WARN",
          "status bit of the simulated servo (`overload`)",
          repeat_n=3, repeat_window_s=60, clear_after_ms=2000, react_ms=20, rest_ms=350),
    Fault(21, "servo_over_temperature", "Servo too hot", PARK,
          "temperature of 5 replies in a row; the status bit counts as 70 C",
          "WARN from 60 C, SLOW from 65, PARK and latch from 70",
          "a temperature ramp (`heat`)", latch=True, clear_after_ms=5000, react_ms=200, rest_ms=5000),
    Fault(22, "servo_voltage", "Servo voltage out of range", PARK,
          "voltage of 5 replies in a row against `arm.supply_v`, or what the servos saw when their bus was taken over; status bit",
          "15 % off, or the status bit: HOLD; 25 % off: PARK, where it still is once the arm has stopped: its own current has gone then", "a supply ramp (`voltage`)",
          clear_after_ms=2000, react_ms=200, rest_ms=550, bound="of HOLD"),
    Fault(23, "servo_encoder", "Encoder error or impossible position", HOLD,
          "status bit; a step that no servo turns (2 v_max, or its no-load speed) in the time since that joint's last good answer",
          "HOLD of all joints, latch; what it jumped by and has not jumped back after 100 ms (to where its pace would have brought it, in one tick) is a lie, however it reads: torque off for that joint only, the others hold, and its reading is no command; `clear` works once all torque is off (`limp`) and its operator has seen to it",
          "a joint's reading jumps (`encoder_jump`)", latch=True, clear_after_ms=1000, react_ms=20, rest_ms=350,
          bound="the lying joint is limp after 120 ms"),
    Fault(24, "servo_deadline_missed", "Servo loop late", HOLD,
          "wake-up lateness above half a period is counted; above one period it is an overrun, whole periods are skipped; so is a tick that stalled",
          "3 overruns in a row WARN, more than 1 % of the ticks of 10 s SLOW, one above 50 ms HOLD; after skipped ticks still one step",
          "a stalled loop in simulated time", clear_after_ms=1000, react_ms=10, rest_ms=350, bound="from the wake-up"),
    Fault(25, "not_realtime", "No real-time scheduling or locked memory", WARN,
          "the loop asks the kernel at start", "engage is refused unless `servo.allow_non_realtime = true`",
          "a resource limit of zero", bound="at engage"),
    Fault(26, "thread_died", "A Python thread ended by an exception", HOLD,
          "the wrapper of every stage", "HOLD; the process exits non-zero after it; it restarts disengaged",
          "an exception raised in each stage", latch=True, react_ms=20, rest_ms=350),
    Fault(27, "python_stalled", "Python does not run (GIL, garbage collection)", WARN,
          "the supervisor wakes up more than 250 ms late; ages of the heartbeats", "WARN; the servo loop is not affected; the queue drains (row 9), and stages that age beyond their bounds hold (rows 2, 7, 31)",
          "a thread that keeps the GIL; a long garbage collection", clear_after_ms=1000, react_ms=0, bound="the servo loop goes on"),
    Fault(28, "process_crashed", "Segmentation fault, abort", HOLD, "systemd sees the exit",
          "as row 29", "`kill -SEGV`", bound="as row 29"),
    Fault(29, "process_killed", "SIGKILL, out of memory", HOLD,
          "systemd sees the exit; the servo needs no detection",
          "the last goal is at most one step away, so the servo stops there; `vlad-safe-stop` runs from ExecStopPost; the restarted daemon is disengaged and adopts the goal register as the command in force",
          "`kill -9` while the bus is recorded", react_ms=20, rest_ms=350, bound="managed state within 1 s"),
    Fault(30, "stop_requested", "SIGTERM, `systemctl stop`", HOLD, "signal",
          "HOLD; PARK only where a `rest_pose` is configured, torque off only there",
          "SIGTERM in motion", react_ms=20, rest_ms=10000),
    Fault(31, "supervisor_hung", "Main thread hangs", HOLD,
          "heartbeat of the supervisor older than 500 ms, seen by the servo loop",
          "HOLD by the servo loop; systemd's watchdog (2 s) is no longer fed", "the supervisor is stopped in a debug hook",
          clear_after_ms=1000, react_ms=510, rest_ms=850),
    Fault(32, "wall_clock_step", "Wall clock steps", NONE,
          "not needed: only CLOCK_MONOTONIC is used", "none",
          "the wall clock jumps by an hour; a search of the sources for it", react_ms=0, bound="no effect"),
    Fault(33, "suspended", "The host slept", HOLD, "CLOCK_BOOTTIME against CLOCK_MONOTONIC, which stands still meanwhile, before every tick",
          "HOLD of the present pose, latch", "a fake clock; a suspended virtual machine", latch=True, react_ms=10, rest_ms=350),
    Fault(34, "disk_full", "Disk full, read-only or slow", WARN,
          "errno and duration of the log's writes, dropped lines; room in the directories that vlad writes to; 2 s without an answer of theirs or of the calibration file",
          "log lines are dropped and counted; control never waits; `load` is refused",
          "a full tmpfs, /dev/full and a reader that stands still as the log; a look that does not return",
          clear_after_ms=5000, react_ms=0, bound="the arm goes on"),
    Fault(35, "memory_pressure", "Memory short", HOLD,
          "pressure stall information over the last second; working set against the limit of the cgroup",
          "WARN, and engage is refused, above `board.memory_warn_percent`; HOLD at 90 % of the limit",
          "pressure and cgroup files supplied by the test",
          clear_after_ms=5000, react_ms=2000, rest_ms=2300),
    Fault(36, "socket_flood", "Descriptors exhausted, flood of connections", NONE,
          "limit of clients and descriptors", "refused with an error and counted; control is not affected",
          "thousands of connections", react_ms=0, bound="the arm goes on"),
    Fault(37, "socket_abuse", "Control socket abused", NONE,
          "size limit, time limits, credentials of the peer, strict schema",
          "an error or the end of the connection, counted; never a change of state; `hold` is still served",
          "garbage, a line of 1 GiB, half-open and slow clients, wrong user", react_ms=20, bound="`hold` within 20 ms meanwhile"),
    Fault(38, "bundle_malformed", "Policy bundle malformed", NONE,
          "signature where one is required, schema of the manifest, hashes, bounded reads, golden inputs and outputs",
          "the load is refused, the bundle that runs stays", "a corpus of bad bundles", bound="at load"),
    Fault(39, "bundle_mismatch", "Bundle does not fit the robot", WARN,
          "joints, units, cameras and rate of the bundle against the configuration",
          "engage is refused with the reason", "bundles for another robot", bound="at load"),
    Fault(40, "config_invalid", "Configuration wrong", NONE,
          "strict schema, cross-checks", "exit status 78, naming file and key; never a partial start",
          "a table of bad configurations; generated ones", bound="at start"),
    Fault(41, "calibration_changed", "Calibration missing or changed", WARN,
          "homing offset and range read back from every servo whenever the bus is opened, against the file; the file itself, four times a second",
          "no torque comes on; engage, resume and park are refused, naming joint, register and both values; an arm that is engaged while the file changes goes on with what was read at start",
          "other registers in a simulated servo at start, after a power cut and after a swap (`recalibrate`); the file edited, cut, gone",
          bound="before the servo loop gets the bus"),
    Fault(42, "thermal_throttling", "Processor throttles", HOLD,
          "thermal zone, extrapolated at its slope; T_inference above 1.3 x its baseline",
          "WARN when `board.throttle_c` is 30 s away or inference is slow; SLOW when it is 5 s away, or both; HOLD when `board.critical_c` is 2 s away",
          "a thermal zone file supplied by the test; an expert that gets slower", clear_after_ms=10000, react_ms=2000, rest_ms=2300),
    Fault(43, "host_power_lost", "Power loss of the host", NONE, "none possible",
          "the servos keep the last goal while they have power; state files are written by rename; boot is disengaged",
          "the virtual machine is killed while it writes", bound="no reaction is possible"),
    Fault(44, "servo_supply_lost", "Servo supply gone (emergency stop)", HOLD,
          "all servos silent for 5 reads while the port is open; or a servo that answers for 3 reads without the torque it was given",
          "latch, and the bus is given up; once every servo answers again it is read anew what holds them, nothing is written, and torque stays off until somebody engages; servos that come back with torque never lost it: they are left holding",
          "the simulated supply is cut (`cut_supply`)", latch=True, clear_after_ms=500, react_ms=50, bound="no torque"),
    Fault(45, "brown_out", "Supply sags", PARK,
          "mean voltage of all servos more than 7.5 % below nominal and, at the slope of the last 160 ms, 25 % below it within 1 s; more than 100 mV within 20 ms is a step, which a load makes, and no part of that slope",
          "HOLD; PARK and latch when it goes on falling 400 ms later, so that it is not the arm's own current",
          "a falling supply (`voltage`)", latch=True, clear_after_ms=5000, react_ms=200, rest_ms=5000),
    Fault(46, "unexpected_initial_pose", "First chunk starts elsewhere", HOLD,
          "first action of a cold start farther than `policy.max_jump_deg` from the command in force",
          "the chunk is rejected and the engagement ends, naming the joint", "a chunk far from the arm",
          clear_after_ms=1000, bound="at arrival: nothing of it is queued"),
    Fault(47, "policy_stuck", "Policy oscillates or makes no progress", HOLD,
          "six reversals of a joint by over a degree within 1 s; goals within half a degree for `policy.no_progress_s`; time since engage against `policy.episode_timeout_s`",
          "WARN; HOLD at the time-out", "an expert that shakes, and one that repeats itself", clear_after_ms=1000, react_ms=1000, rest_ms=1350),
    Fault(48, "operator_stop", "Operator says stop", HOLD, "control socket",
          "HOLD (`hold`, `stop`) or LIMP (`limp`); `resume` leaves an unlatched hold", "`hold` in motion, under load",
          react_ms=20, rest_ms=350),
    Fault(49, "second_writer", "Second daemon on the bus", NONE, "lock of the port (flock)",
          "start is refused, naming the port", "the daemon is started twice", bound="at start"),
    Fault(50, "abi_mismatch", "C core and Python differ", NONE, "version number of both at import",
          "start is refused", "another number", bound="at start"),
)

BY_ID = {fault.id: fault for fault in FAULTS}
BY_NAME = {fault.name: fault for fault in FAULTS}


def main(argv: list[str] | None = None) -> int:
    from vlad import failsafe

    return failsafe.main(argv)


if __name__ == "__main__":
    raise SystemExit(main())
