"""T_inference of a policy on a board, predicted block by block, and what the load check says to it.

    each = max(operations / rate(type, reuse), bytes / bandwidth) + call
    T_inference = pictures * frame + sum over blocks of calls * each

The judgement is that of the daemon: `check_load` and the threshold of the scheduler, as configured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vlad.errors import Refused
from vlad.ladder import FULL, Rung
from vlad.load_check import LoadCheck, check_load
from vlad.plan.board import Board
from vlad.plan.work import PolicyWork, Work
from vlad.scheduler import Scheduler, SchedulerConfig
from vlad.servo import MAX_ACTIONS, JointLimits, Servo, ServoConfig

S = 1_000_000_000
LEAST_HZ = 1.0  # of the action queue
RUNTIME_BYTES = 330_000_000  # Python, ONNX Runtime, activations
COPIES = 1.3  # of the weights: ONNX Runtime packs some matrices anew beside the file's

# A SO-101's limits by default; they decide how far ahead the arm brakes.
JOINTS = (*(JointLimits(-1.9, 1.9) for _ in range(5)), JointLimits(0.0, 1.0, 2.0, 32.0, 1280.0, 400_000, gripper=True))


@dataclass(frozen=True, slots=True)
class Setup:
    """What is asked: a policy on a board, or a T_inference that is known (latency_ns).

    on: block -> unit; absent: the board's first. threshold, mode, ladder: as in `[policy]`.
    """

    rate_hz: float
    chunk_size: int
    policy: PolicyWork | None = None
    board: Board | None = None
    latency_ns: int | None = None
    on: Mapping[str, str] = field(default_factory=dict)
    threshold: float | str = "auto"
    mode: str = "async"
    ladder: tuple[Rung, ...] = ()

    @property
    def period_ns(self) -> int:
        """1/f."""
        return round(S / self.rate_hz)

    @property
    def horizon_ns(self) -> int:
        """N/f."""
        return self.chunk_size * self.period_ns

    @property
    def servo(self) -> ServoConfig:
        """Of a SO-101 at this rate."""
        return ServoConfig(JOINTS, self.period_ns, self.chunk_size, allow_non_realtime=True)

    def with_policy(self, policy: PolicyWork) -> Setup:
        """The same with another variant of the policy."""
        return replace(self, policy=policy, chunk_size=policy.chunk_size)


@dataclass(frozen=True, slots=True)
class BlockTime:
    """One block on its unit. Times of one call, in ns."""

    work: Work
    unit: str
    compute_ns: float
    stream_ns: float
    call_ns: float

    @property
    def each_ns(self) -> float:
        """One call."""
        return max(self.compute_ns, self.stream_ns) + self.call_ns

    @property
    def total_ns(self) -> float:
        """All calls for a chunk."""
        return self.work.calls * self.each_ns

    @property
    def bound(self) -> str:
        """What most of it goes into."""
        parts = {"operations": self.compute_ns, "weights": self.stream_ns, "call": self.call_ns}
        return max(parts, key=lambda name: parts[name])


@dataclass(frozen=True, slots=True)
class Pass:
    """What a pass on a rung costs. A T_inference that was given has no parts."""

    rung: Rung
    blocks: tuple[BlockTime, ...]
    frames_ns: float  # from the cameras' pictures to the input of the vision block
    given_ns: int = 0

    @property
    def total_ns(self) -> int:
        """T_inference."""
        return self.given_ns or max(1, round(self.frames_ns + sum(b.total_ns for b in self.blocks)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What comes of a setup. Times in ns.

    threshold_ns: T_execution at which the scheduler asks for the next chunk; 0 in sync. idle: least share
    of the time without motion, when requests follow one another back to back (async) or each waits for
    the last chunk to end (sync).
    """

    setup: Setup
    full: Pass
    rungs: tuple[Pass, ...]
    check: LoadCheck
    threshold_ns: int
    moves: bool  # False: every chunk would be stale on arrival

    @property
    def t_inference_ns(self) -> int:
        """Of a full pass."""
        return self.full.total_ns

    @property
    def fits(self) -> bool:
        """Whether the board holds it, the daemon would engage, and the arm move."""
        return self.check.fits and self.moves and self.held_in_memory

    @property
    def held_in_memory(self) -> bool:
        """Whether the board's memory suffices; True where it is not asked."""
        board = self.setup.board
        return board is None or self.resident_bytes < board.memory.gb * 1e9

    @property
    def slack_ns(self) -> int:
        """T_execution at the request minus T_inference, without any margin."""
        return self.threshold_ns - self.t_inference_ns

    @property
    def idle(self) -> float:
        """See above."""
        t, horizon = self.t_inference_ns, self.setup.horizon_ns
        return t / (t + horizon) if self.setup.mode == "sync" else max(0.0, 1 - horizon / t)

    @property
    def weights_bytes(self) -> float:
        """Of all blocks; 0 without a policy."""
        return self.setup.policy.weights_bytes if self.setup.policy is not None else 0.0

    @property
    def resident_bytes(self) -> float:
        """What the daemon needs with them, roughly; 0 without a policy."""
        return RUNTIME_BYTES + COPIES * self.weights_bytes if self.weights_bytes else 0.0


def predict(policy: PolicyWork, board: Board, on: Mapping[str, str], rung: Rung = FULL) -> Pass:
    """What a pass costs, a rung that may reuse tokens reusing all of them. Raises ConfigError for a unit
    that the board does not have, or that cannot take a block."""
    times = []
    for work in policy.of_rung(rung):
        unit = board.find(on.get(work.block, board.unit[0].name))
        shares = [(unit.gflop_s(dtype, work.reuse), share) for dtype, share in work.shares.items() if share]
        compute_s = sum(share * work.flops / (gflop_s * 1e9) for gflop_s, share in shares)
        stream_s = work.bytes / (unit.bandwidth.gb_s * 1e9)
        times.append(BlockTime(work, unit.name, compute_s * S, stream_s * S, unit.call.us * 1e3))
    return Pass(rung, tuple(times), frame_ns(policy, board) * rung.least_encoded(policy.cameras))


def frame_ns(policy: PolicyWork, board: Board) -> float:
    """From a camera's picture to the input of the vision block."""
    return board.frame.ms * 1e6 * policy.picture


def timing(setup: Setup, lookahead_ns: int) -> SchedulerConfig:
    """The scheduler's configuration, the rest as in `[policy]` by default."""
    cameras = setup.policy.cameras if setup.policy is not None else 1
    return SchedulerConfig(setup.period_ns, setup.chunk_size, setup.mode, setup.threshold, lookahead_ns,
                           ladder=setup.ladder, cameras=cameras)  # fmt: skip


def evaluate(setup: Setup) -> Outcome:
    """Predicts and judges. Raises Refused or ConfigError for what cannot be asked."""
    if not LEAST_HZ <= setup.rate_hz <= 1000:
        raise Refused(f"{setup.rate_hz:g} Hz: the action queue takes {LEAST_HZ:g} to 1000 Hz")
    if not 1 <= setup.chunk_size <= MAX_ACTIONS:
        raise Refused(f"a chunk of {setup.chunk_size} actions: 1 to {MAX_ACTIONS} fit into the queue")
    rungs: tuple[Pass, ...] = ()
    if setup.latency_ns is not None:
        full = Pass(FULL, (), 0.0, setup.latency_ns)
    else:
        if setup.policy is None or setup.board is None:
            raise Refused("a policy and a board are needed, or --latency")
        policy, board, on = setup.policy, setup.board, setup.on
        full, rungs = predict(policy, board, on), tuple(predict(policy, board, on, rung) for rung in setup.ladder)
    servo = setup.servo
    config = timing(setup, Servo(servo, S).lookahead_ns)
    scheduler = Scheduler(config)
    scheduler.latency.warm({FULL: [full.total_ns]})
    threshold_ns = 0 if setup.mode == "sync" else scheduler.threshold_ns()
    moves = full.total_ns < servo.max_cold_age_ns
    return Outcome(setup, full, rungs, check_load(config, [full.total_ns]), threshold_ns, moves)
