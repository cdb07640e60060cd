"""The servo loop (csrc/servo_loop.c), its simulated arm, and the requests it takes.

Times are int ns of CLOCK_MONOTONIC; positions are units: rad for body joints, 0..1 for the gripper.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlad.arm import Joint

ABI: int
MAX_JOINTS: int
MAX_ACTIONS: int
NU: int
LIMP: int
HOLD: int
PARK: int
CLEAR: int
RESUME: int
ENGAGE: int
MODES: tuple[str, ...]
REACTIONS: tuple[str, ...]
AGGREGATES: tuple[str, ...]
STAGES: tuple[str, ...]
STARVES: tuple[str, ...]
REASONS: tuple[str, ...]
EVENTS: tuple[str, ...]
WHY_NOT: dict[int, str]
WHY_BIT: dict[str, int]

def now_ns() -> int:
    """CLOCK_MONOTONIC, as the C core reads it."""

class Report(TypedDict):
    """The gate's verdict on one chunk. joint and action are -1 where they do not apply; value and
    bound are in units for positions and in seconds for ages."""

    verdict: Literal["accepted", "clamped", "rejected"]
    reason: str
    joint: int
    action: int
    value: float
    bound: float
    n_clamped: int
    n_tail_dropped: int
    n_blended: int
    t0_ns: int  # accepted: when action 0 of the chunk is, or was, due
    now_ns: int

class MemoryArm:
    """An arm in memory; judges every goal written to it. Its clock is simulated from now_ns on, or
    without now_ns the machine's: then Servo.start() can drive it, and bus_ns costs no time."""

    def __init__(self, pose: Sequence[float], now_ns: int | None = None) -> None: ...
    def inject(
        self,
        *,
        silent: int | None = None,
        corrupt: int | None = None,
        read_error: int | None = None,
        write_error: int | None = None,
        drop_writes: int | None = None,
        refuse_torque: int | None = None,
        status: Sequence[int] | None = None,
        temperature_c: int | None = None,
        voltage_mv: int | None = None,
        bus_ns: int | None = None,
        present: Sequence[float] | None = None,
        blocked: int | None = None,
        offset: Sequence[float] | None = None,
        load_permille: Sequence[int] | None = None,
        deaf: int | None = None,
        drop_limits: int | None = None,
        torque_mask: int | None = None,
    ) -> None:
        """silent, corrupt, blocked (by an obstacle), deaf (to goals), torque_mask: joint bit masks.
        read_error, write_error: an errno, 0 = none. offset: of the encoders, units. drop_limits: so
        many writes of torque limits do not arrive. drop_writes, refuse_torque: so many goal frames,
        torque commands, end with EAGAIN."""
    def watch(self, function: int, watcher: int) -> None:
        """Addresses of void (*)(void *watcher) and its argument: called after each simulated tick."""
    def address(self) -> int:
        """Of the struct vlad_memory_arm, for such a watcher."""
    def judge(self) -> dict[str, Any]: ...

class Servo:
    """One servo loop. ValueError for limits that cannot be served; MemoryError."""

    def __init__(self, config: Any, now_ns: int | None = None) -> None:
        """config: vlad.servo.ServoConfig."""
    def adopt_memory(self, arm: MemoryArm, torque_on: bool, command: Sequence[float]) -> None: ...
    def adopt_feetech(
        self,
        fd: int,
        baud: int,
        joints: Sequence[Joint],
        command_nu: Sequence[int],
        torque_mask: int,
        write_budget_ns: int,
        read_budget_ns: int,
        max_torque_permille: Sequence[int],
    ) -> None:
        """Hands the loop an open bus and the command in force (nano-units) that it is to adopt.
        joints: in order, as configured. max_torque_permille: their Max_Torque registers. The
        descriptor stays the caller's. OSError EBUSY while the last hand-over is not taken."""
    def bus_counters(self) -> dict[str, int]:
        """Every counter of the serial bus in use, by the name csrc/serial_bus.h gives it."""
    def request(self, requests: int) -> None: ...
    def refusals(self, why_not: int) -> None: ...
    def starve(self, cause: int) -> None: ...
    def slept(self, slept_ns: int) -> None:
        """In simulated time: how long the machine has slept in all. The thread reads it itself."""
    def beat(self, stage: int, now_ns: int | None = None) -> None: ...
    def bound(self, stage: int, bound_ns: int, now_ns: int | None = None) -> None: ...
    def hold_fault(self, fault: int, condition: bool) -> None:
        """The condition of a fault holds, or does not: it reacts as its row says."""
    def level_fault(self, fault: int, level: str) -> None:
        """It holds at a level of REACTIONS: the fault reacts with that, or as its row says if that
        is less, and only at the row's own reaction latches at once. "none": it does not hold."""
    def pulse_fault(self, fault: int) -> None: ...
    def all_fresh(self, now_ns: int | None = None) -> bool: ...
    def lower_callback_address(self) -> int:
        """Address of void (*)(void *ctx, uint32_t requests) for the control socket's C thread."""
    def lower_context_address(self) -> int: ...
    def keep(self, thing: object) -> None: ...
    def policy_timing(
        self, period_ns: int, horizon_ns: int, max_frame_age_ns: int, aggregate: str | None = None,
        coefficient: float = 0.0,
    ) -> None:
        """The timing of another policy: 1/f, N/f, oldest fresh frame; and how its chunks are merged
        (None: as configured), with the coefficient of `temporal_ensemble`. Empties the queue. Only
        while no push is under way. OSError EINVAL, ValueError for no aggregate."""
    def push(
        self,
        actions: ArrayLike,
        *,
        seq: int,
        epoch: int,
        t_obs_ns: int,
        frame_age_ns: int = 0,
        reuse_age_ns: int = 0,
        cold: bool = False,
        now_ns: int | None = None,
    ) -> Report:
        """Gate, merge, gate, queue. actions: [n_actions, n_joints] in units."""
    def command(self) -> tuple[int, bool, int, list[float]]:
        """(epoch or 0, at_rest, rest_since_ns, goal)."""
    def step_limits(self) -> list[int]:
        """Largest change of a written goal in one tick, nano-units per joint."""
    @property
    def lookahead_ns(self) -> int: ...
    def joint_state(self) -> tuple[int, int, NDArray[np.float64]]:
        """(t_ns, mask of joints that answered, positions [n_joints])."""
    def queue_view(self) -> tuple[int, str, int, bool, int | None, int, int, int]:
        """(t_ns, mode, epoch or 0, at_rest, last_due_ns or None, depth, t_execution_ns, why_not).

        at_rest: and all joints were read since, so that a chunk observed now is one observed at rest."""
    def report(self) -> dict[str, Any]: ...
    def next_event(self) -> tuple[int, str, int, int, int] | None:
        """(t_ns, kind, a, b, value) of enum vlad_event_kind; None when there is none."""
    def tick(self, now_ns: int, late_ns: int = 0) -> None: ...
    def simulate(self, until_ns: int) -> None: ...
    def start(self, priority: int, cpu: int = -1) -> str:
        """Starts the thread. Returns why real time was not granted, "" when it was."""
    def stop(self) -> None: ...
    def trim_heap(self) -> str:
        """Gives unused memory of the heap back to the kernel; not while the arm moves. Returns "", or why the
        memory could not be locked again: then the loop counts as not real time."""
