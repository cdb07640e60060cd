"""What can go wrong in simulated time: how it is injected, which rows may answer, how it ends."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlad.faults import BY_NAME, FAULTS, Reaction
from vlad.servo import CLEAR, ENGAGE, HOLD, LIMP, MS, PARK, RESUME, STAGES

if TYPE_CHECKING:
    from tools.soak.simulated import Hour

Act = Callable[["Hour", random.Random], None]
N = 6
BUS = ("servo_silent", "servo_supply_lost", "servo_encoder", "following_error", "servo_voltage", "brown_out",
       "servo_overload", "reply_corrupt", "bus_garbage", "serial_unplugged", "short_write")


def nothing(hour: Hour, rng: random.Random) -> None: ...


@dataclass(frozen=True, slots=True)
class Injection:
    """rows: one of them must become active unless `may` (then it depends on the moment). along: what may
    come with it. lasts_ms: from, to. engaged: the arm must be in motion first."""

    name: str
    begin: Act
    rows: tuple[str, ...] = ()
    end: Act = nothing
    lasts_ms: tuple[int, int] = (50, 3000)
    along: tuple[str, ...] = ()
    may: bool = False

    @property
    def grace_ms(self) -> int:
        """For how long after its end its rows may still be raised."""
        return 45_000 if self.name.startswith("latency") else 11_000


def _some(rng: random.Random, count: int) -> int:
    return sum(1 << j for j in rng.sample(range(N), count))


# --- bus and servos ----------------------------------------------------------------------------


def silent(hour: Hour, rng: random.Random) -> None:
    hour.sim.arm.inject(silent=_some(rng, rng.randrange(1, N)))


def supply_cut(hour: Hour, rng: random.Random) -> None:
    hour.sim.arm.inject(silent=(1 << N) - 1)
    hour.torque_lost = True


def heard_again(hour: Hour, rng: random.Random) -> None:
    hour.sim.arm.inject(silent=0)


def corrupt(hour: Hour, rng: random.Random) -> None:
    hour.sim.arm.inject(corrupt=_some(rng, rng.randrange(1, N + 1)))


def whole_again(hour: Hour, rng: random.Random) -> None:
    hour.sim.arm.inject(corrupt=0)


def read_error(hour: Hour, rng: random.Random) -> None:
    hour.sim.arm.inject(read_error=rng.choice((errno.EIO, errno.ENODEV, errno.EBADF)))


def write_error(hour: Hour, rng: random.Random) -> None:
    hour.sim.arm.inject(write_error=rng.choice((errno.EIO, errno.ENODEV, errno.EPIPE)))


def port_back(hour: Hour, rng: random.Random) -> None:
    hour.sim.arm.inject(read_error=0, write_error=0)


def short_writes(hour: Hour, rng: random.Random) -> None:
    hour.sim.arm.inject(drop_writes=rng.randrange(1, 3))


def many_short_writes(hour: Hour, rng: random.Random) -> None:
    hour.sim.arm.inject(drop_writes=rng.randrange(3, 9))


def status_bit(bit: int) -> Act:
    def act(hour: Hour, rng: random.Random) -> None:
        at = rng.randrange(N)
        hour.sim.arm.inject(status=[bit if j == at else 0 for j in range(N)])
    return act


def status_clear(hour: Hour, rng: random.Random) -> None:
    hour.sim.arm.inject(status=[0] * N, temperature_c=30, voltage_mv=7400)


def heat(hour: Hour, rng: random.Random) -> None:
    hour.sim.arm.inject(temperature_c=rng.randrange(70, 120))


def low_voltage(hour: Hour, rng: random.Random) -> None:
    hour.sim.arm.inject(voltage_mv=rng.randrange(2000, 4900))


def encoder_jump(hour: Hour, rng: random.Random) -> None:
    """The arm is somewhere else from one reading to the next: knocked, or its encoder slipped. Inside the
    limits: from beyond them only a hand brings it back."""
    present = hour.sim.arm.judge()["present"]
    at = rng.randrange(N)
    limit = hour.servo_config.joints[at]
    present[at] = min(limit.max, max(limit.min, present[at] + rng.choice((-1, 1)) * rng.uniform(0.2, 1.0)))
    hour.sim.arm.inject(present=present)


# --- policy ------------------------------------------------------------------------------------


def spoil(change: Callable[[NDArray[np.float64], random.Random], NDArray[np.float64]]) -> Act:
    def act(hour: Hour, rng: random.Random) -> None:
        hour.spoil = lambda chunk: change(np.array(chunk), rng)
    return act


def unspoilt(hour: Hour, rng: random.Random) -> None:
    hour.spoil = None


def not_finite(chunk: NDArray[np.float64], rng: random.Random) -> NDArray[np.float64]:
    chunk[rng.randrange(len(chunk)), rng.randrange(N)] = rng.choice((np.nan, np.inf, -np.inf))
    return chunk


def beyond(chunk: NDArray[np.float64], rng: random.Random) -> NDArray[np.float64]:
    chunk[rng.randrange(len(chunk)):, rng.randrange(N)] = rng.choice((-1, 1)) * 10 ** rng.uniform(0.5, 300)
    return chunk


def a_little_beyond(chunk: NDArray[np.float64], rng: random.Random) -> NDArray[np.float64]:
    """Up to 2 % beyond a limit is clamped; on the way there the steps are small."""
    at = rng.randrange(5)
    target = rng.choice((-1, 1)) * 1.9 * rng.uniform(1.0, 1.03)
    chunk[:, at] += np.clip((np.arange(len(chunk)) - 8) / 38, 0, 1) * (target - chunk[-1, at])
    return chunk


def steep(chunk: NDArray[np.float64], rng: random.Random) -> NDArray[np.float64]:
    chunk[rng.randrange(1, len(chunk)):, rng.randrange(5)] += rng.choice((-1, 1)) * rng.uniform(0.1, 1.5)
    return chunk


def displaced(chunk: NDArray[np.float64], rng: random.Random) -> NDArray[np.float64]:
    chunk[:, rng.randrange(5)] += rng.choice((-1, 1)) * rng.uniform(0.05, 1.2)
    return chunk


def misshapen(chunk: NDArray[np.float64], rng: random.Random) -> NDArray[np.float64]:
    return rng.choice((chunk[:, :5], np.zeros((400, N)), np.zeros((0, N))))


def noisy(chunk: NDArray[np.float64], rng: random.Random) -> NDArray[np.float64]:
    noise = np.random.default_rng(rng.randrange(1 << 30))
    return np.clip(chunk + noise.normal(0, 0.02, chunk.shape), [-1.9] * 5 + [0.0], [1.9] * 5 + [1.0])


def old_frames(hour: Hour, rng: random.Random) -> None:
    hour.frame_age_ns = rng.randrange(70, 5000) * MS


def fresh_frames(hour: Hour, rng: random.Random) -> None:
    hour.frame_age_ns = 0


def future_frames(hour: Hour, rng: random.Random) -> None:
    hour.frame_age_ns = -rng.randrange(1, 500) * MS


def inference_fails(hour: Hour, rng: random.Random) -> None:
    hour.failing = True


def inference_works(hour: Hour, rng: random.Random) -> None:
    hour.failing = False


def stray_chunks(hour: Hour, rng: random.Random) -> None:
    """Chunks that no request is waiting for: of another engagement, from the future, from the past."""
    now = hour.sim.now_ns
    epoch = hour.sim.servo.queue_view()[2]
    for _ in range(rng.randrange(1, 12)):
        hour.push(
            hour.policy(now, hour.sim.servo.joint_state()[2]), seq=rng.randrange(1, 1 << 40),
            epoch=rng.choice((epoch, epoch, epoch + 1, max(0, epoch - 1))), cold=rng.random() < 0.3,
            t_obs_ns=now + rng.choice((-12_000, -5_000, -1_700, -500, 50, 40_000)) * MS,
            frame_age_ns=rng.choice((0, 0, -MS, 80 * MS)), reuse_age_ns=rng.choice((0, 0, 3_000 * MS)),
        )


# --- time --------------------------------------------------------------------------------------


def latency(low_ms: int, high_ms: int, share: float = 1.0) -> Act:
    def act(hour: Hour, rng: random.Random) -> None:
        hour.latency_ms = lambda: (rng.uniform(low_ms, high_ms) if rng.random() < share else 150.0)
    return act


def latency_ramp(hour: Hour, rng: random.Random) -> None:
    """From normal to a top within half a minute, as a throttling processor does; then it stays there."""
    began, top = hour.sim.now_ns, rng.uniform(400, 4000)
    hour.latency_ms = lambda: min(top, 150 + (top - 150) * (hour.sim.now_ns - began) / 30e9)


def latency_normal(hour: Hour, rng: random.Random) -> None:
    hour.latency_ms = lambda: rng.uniform(120, 180)


def overrun(hour: Hour, rng: random.Random) -> None:
    hour.late_tick(rng.randrange(51, 400))


def small_overruns(hour: Hour, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 6)):
        hour.late_tick(rng.randrange(10, 40))


def stalled(stage: str) -> Act:
    def act(hour: Hour, rng: random.Random) -> None:
        hour.stalled.add(STAGES.index(stage))
    return act


def all_stalled(hour: Hour, rng: random.Random) -> None:
    hour.stalled.update(range(len(STAGES) - 1))


def none_stalled(hour: Hour, rng: random.Random) -> None:
    hour.stalled.clear()


def pulse(fault: int) -> Act:
    return lambda hour, rng: hour.sim.servo.pulse_fault(fault)


def held(fault: int, condition: bool) -> Act:
    return lambda hour, rng: hour.sim.servo.hold_fault(fault, condition)


# --- operators ---------------------------------------------------------------------------------


def ask(requests: int) -> Act:
    return lambda hour, rng: hour.ask(requests)


def storm(hour: Hour, rng: random.Random) -> None:
    """Any requests in any mixture, tick by tick."""
    for _ in range(rng.randrange(5, 60)):
        hour.ask(rng.randrange(64) if rng.random() < 0.3 else rng.choice((HOLD, LIMP, PARK, CLEAR, RESUME, ENGAGE)))
        hour.advance(rng.choice((10, 10, 20, 50)))


def doubt(hour: Hour, rng: random.Random) -> None:
    """A fault and clear, engage, resume in the very same tick, again and again."""
    for _ in range(10):
        hour.sim.servo.pulse_fault(BY_NAME[rng.choice(("suspended", "inference_failed", "policy_stuck"))].id)
        hour.ask(rng.choice((CLEAR, CLEAR | ENGAGE, ENGAGE, RESUME, CLEAR | RESUME)))
        hour.advance(rng.choice((10, 20, 100)))


# Rows whose condition a stage or the supervisor reports: the same words are set here. Those that the
# loop itself sees are injected where it looks.
OWN = {"queue_drained", "servo_deadline_missed", "serial_unplugged", "short_write", "reply_corrupt",
       "bus_garbage", "servo_silent", "servo_supply_lost", "servo_overload", "servo_over_temperature",
       "servo_encoder"}
REPORTED = tuple(f for f in FAULTS if f.reaction > Reaction.NONE and f.name not in OWN)
PLAIN = ("camera_stalled", "inference_hung", "supervisor_hung", "servo_deadline_missed")

INJECTIONS: tuple[Injection, ...] = (
    Injection("silent_some", silent, ("servo_silent",), heard_again, (70, 2000), BUS),
    Injection("silent_moment", silent, (), heard_again, (10, 40), BUS),
    Injection("supply_cut", supply_cut, ("servo_supply_lost",), heard_again, (100, 4000), BUS),
    Injection("corrupt_moment", corrupt, ("reply_corrupt",), whole_again, (60, 90), BUS),
    Injection("corrupt_long", corrupt, ("bus_garbage",), whole_again, (120, 2000), BUS),
    Injection("read_error", read_error, ("serial_unplugged",), port_back, (20, 4000), BUS),
    Injection("write_error", write_error, ("serial_unplugged",), port_back, (20, 4000), BUS),
    Injection("short_writes", short_writes, ("short_write",), along=BUS, lasts_ms=(100, 300)),
    Injection("short_writes_many", many_short_writes, ("serial_unplugged",), along=BUS, lasts_ms=(200, 500)),
    Injection("overload_bit", status_bit(1 << 5), ("servo_overload",), status_clear, along=BUS),
    Injection("current_bit", status_bit(1 << 3), ("servo_overload",), status_clear, along=BUS),
    Injection("voltage_bit", status_bit(1), ("servo_voltage",), status_clear, along=BUS, lasts_ms=(400, 3000)),
    Injection("temperature_bit", status_bit(1 << 2), ("servo_over_temperature",), status_clear, along=BUS,
              lasts_ms=(400, 3000)),
    Injection("encoder_bit", status_bit(1 << 1), ("servo_encoder",), status_clear, along=BUS),
    Injection("heat", heat, ("servo_over_temperature",), status_clear, along=BUS, lasts_ms=(400, 3000)),
    Injection("low_voltage", low_voltage, ("servo_voltage", "brown_out"), status_clear, along=BUS, may=True),
    Injection("encoder_jump", encoder_jump, ("servo_encoder", "following_error"), along=BUS, may=True),
    Injection("not_finite", spoil(not_finite), ("action_not_finite",), unspoilt, (3000, 9000)),
    Injection("beyond_limits", spoil(beyond), ("action_out_of_limits",), unspoilt, (6000, 12000), may=True),
    Injection("clamped", spoil(a_little_beyond), ("action_out_of_limits",), unspoilt, (2000, 9000), may=True),
    Injection("steep", spoil(steep), ("action_out_of_limits",), unspoilt, (6000, 12000), may=True),
    Injection("displaced", spoil(displaced), ("chunk_jump",), unspoilt, (2000, 9000),
              ("action_out_of_limits",), may=True),
    Injection("misshapen", spoil(misshapen), ("action_out_of_limits",), unspoilt, (6000, 12000), may=True),
    Injection("noisy", spoil(noisy), ("action_out_of_limits", "chunk_jump"), unspoilt, (2000, 20000), may=True),
    Injection("old_frames", old_frames, ("stale_chunk",), fresh_frames, (4000, 15000), may=True),
    Injection("future_frames", future_frames, (), fresh_frames),
    Injection("inference_fails", inference_fails, ("inference_failed",), inference_works, (3000, 6000)),
    Injection("stray_chunks", stray_chunks,
              along=("stale_chunk", "action_out_of_limits", "chunk_jump", "unexpected_initial_pose")),
    Injection("latency_random", latency(0, 10_000), ("queue_drained",), latency_normal, (5000, 60_000),
              ("inference_hung",), may=True),
    Injection("latency_spike", latency(1000, 8000, 0.2), ("queue_drained",), latency_normal, (5000, 30_000),
              ("inference_hung",), may=True),
    Injection("latency_hang", latency(15_000, 40_000), ("queue_drained", "inference_hung"), latency_normal,
              (4000, 20_000), ("inference_hung",), may=True),
    Injection("latency_doubled", latency(280, 330), ("queue_drained",), latency_normal, (20_000, 90_000), may=True),
    Injection("latency_ramp", latency_ramp, ("queue_drained",), latency_normal, (20_000, 60_000),
              ("inference_hung",), may=True),
    Injection("overrun", overrun, ("servo_deadline_missed",), lasts_ms=(20, 1000), along=PLAIN),
    Injection("small_overruns", small_overruns, (), lasts_ms=(20, 1000), along=PLAIN),
    *(Injection(f"stalled_{stage}", stalled(stage), (row,), none_stalled, (900, 4000), PLAIN,
                may=stage == "expert")  # its bound is drawn with the seed
      for stage, row in (("capture", "camera_stalled"), ("vision", "inference_hung"),
                         ("expert", "inference_hung"), ("supervisor", "supervisor_hung"))),
    Injection("stalled_all", all_stalled, ("supervisor_hung",), none_stalled, (900, 4000), PLAIN),
    *(Injection(f"reported_{f.name}", held(f.id, True), (f.name,), held(f.id, False), (20, 2000))
      for f in REPORTED),
    Injection("reported_moment", pulse(BY_NAME["suspended"].id), ("suspended",)),
    Injection("hold", ask(HOLD)),
    Injection("limp", ask(LIMP)),
    Injection("park", ask(PARK), lasts_ms=(50, 6000)),
    Injection("hold_and_engage", ask(HOLD | ENGAGE)),
    Injection("clear_engage", ask(CLEAR | ENGAGE)),
    Injection("storm", storm),
    Injection("doubt", doubt, along=("suspended", "inference_failed", "policy_stuck")),
)
