"""One episode in simulated time: the daemon's scheduler, gate, queue and servo loop on the simulated table.

vlad.simulation with another arm, other cameras and another policy: every servo tick the goals that were
written go to the World's servos, it steps one period, and where its joints then are is what the next tick
reads. Pictures are drawn at the cameras' rate and reach the policy as late as they would; a chunk is
computed when it is asked for and arrives when its latency is over. The bus has no errors, and no servo gets
hot.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad.arm import TICKS_PER_TURN, Joint
from vlad.camera import Frame
from vlad.config import Config
from vlad.errors import DeviceError
from vlad.evaluation.latency import Machine
from vlad.evaluation.pictures import Pictures, Pose
from vlad.evaluation.results import HELD_OUT, TRAINING, Episode, rms_jerk
from vlad.evaluation.subject import ExpertPolicy, Subject
from vlad.faults import BY_ID
from vlad.ladder import FULL
from vlad.report_figures import quantile
from vlad.rtc import RealTimeChunking
from vlad.sampler import Sampler
from vlad.scheduler import Request, Scheduler, SchedulerConfig
from vlad.servo import MS, RESUME, STAGES
from vlad.sim import registers as reg
from vlad.sim.start import HELD_OUT as HELD_OUT_CLUSTER
from vlad.sim.start import Start, draw_start
from vlad.sim.task import Task
from vlad.sim.world import World
from vlad.simulation import Arrival, Simulation
from vlad.token_cache import Observation

TRANSPORT_NS = 20 * MS  # from the exposure of a picture to its frame
LOOK_NS = 50 * MS
MAX_HOLDS = 10
RESUME_NS = 500 * MS  # an operator's reaction
WATCHDOG = frozenset(BY_ID[row].name for row in (2, 7, 24, 31))  # those of a heartbeat that is late
STAGE = STAGES.index("expert")
Planner = Callable[[SchedulerConfig], Scheduler]


@dataclass(frozen=True, slots=True)
class Case:
    """What an episode begins with. Of the same `seed`, `cluster` and `index` the start is the same, whatever
    runs on it."""

    task: Task
    text: str  # the instruction
    cluster: int
    index: int
    seed: int

    @property
    def split(self) -> str:
        return HELD_OUT if self.cluster == HELD_OUT_CLUSTER else TRAINING

    def random(self, purpose: int) -> np.random.Generator:
        """A stream of its own for each purpose."""
        return np.random.default_rng([self.seed, self.cluster, self.index, purpose])

    @property
    def start_seed(self) -> int:
        """What draws the start, here and in a running simulator."""
        return int(self.random(0).integers(1 << 62))

    def start(self) -> Start:
        return draw_start(np.random.default_rng(self.start_seed), self.cluster)


class Table(Simulation):
    """The arm of `config` in `world`, which has begun, driven by `subject`.

    pictures: None for a policy that needs none. planner: makes the scheduler.
    """

    def __init__(
        self, config: Config, subject: Subject, world: World, case: Case, *, machine: Machine,
        pictures: Pictures | None, planner: Planner = Scheduler,
    ) -> None:  # fmt: skip
        loaded = subject.loaded
        self._world, self._subject, self._pictures = world, subject, pictures
        self._joints = config.joints
        self._zero, self._scale = ticks_of(config.joints)
        self._machine = machine
        self._random, self._noise = case.random(2), case.random(3)
        self._task = loaded.tasks.index(case.text)
        camera_fps = {camera.name: camera.fps for camera in config.cameras}
        self._frame_ns = round(1e9 / min(camera_fps[name] for name in loaded.cameras))
        self._engaged_ns = 0
        self._torque = 0
        self.goals: list[list[float]] = []
        self.poses: list[Pose] = []
        self.t_inference_ms: list[float] = []
        self._seen: deque[Pose] = deque(maxlen=16)
        merge = loaded.merge
        rtc = None if merge is None or merge.rtc is None else RealTimeChunking(
            merge.rtc, period_ns=loaded.scheduler.period_ns, lookahead_ns=loaded.scheduler.lookahead_ns
        )
        self._sampler = Sampler(loaded.policy, self._noise, rtc)
        start_ns = 1_000_000 * MS
        self._due_ns = start_ns + subject.servo.period_ns
        self._seen.append(Pose(start_ns, world.qpos()))
        super().__init__(
            subject.servo, loaded.scheduler, _no_policy, self._takes_ns, pose=tuple(self.present()), start_ns=start_ns,
            on_arrival=self._arrived, measured_ns=loaded.costs_ns, vision_ns=loaded.vision_ns, cameras=loaded.cameras,
            reuse_change=loaded.max_change, planner=planner,
        )  # fmt: skip
        if merge is not None:
            self.servo.policy_timing(loaded.scheduler.period_ns, loaded.scheduler.horizon_ns, loaded.max_frame_age_ns,
                                     merge.aggregate, merge.coefficient)  # fmt: skip
        self.servo.bound(STAGE, loaded.stage_bound_ns, self.now_ns)

    # --- the arm ----------------------------------------------------------------------------

    def present(self) -> NDArray[np.float64]:
        """Where the encoders say that the joints are, core units."""
        ticks = np.array([servo.present_ticks for servo in self._world.servos])
        return (ticks - self._zero) * self._scale

    def _advance(self, until_ns: int) -> None:
        while self._due_ns <= until_ns:
            self.servo.simulate(self._due_ns)
            self._follow()
            self._due_ns += self.config.period_ns
        self.now_ns = until_ns

    def _follow(self) -> None:
        """One period of the world, on the goals that were written."""
        written, world = self.arm.judge(), self._world
        goal = written["goal"]
        if written["torque_mask"] != self._torque:
            self._torque = written["torque_mask"]
            for index, servo in enumerate(world.servos):
                servo.write(reg.TORQUE_ENABLE, bytes((self._torque >> index & 1,)))
        if self._running is None:  # as a stage that waits; one that computes cannot
            self.servo.beat(STAGE, self._due_ns)
        world.set_goal_ticks({joint.id: joint.to_ticks(at) for joint, at in zip(self._joints, goal, strict=True)})
        world.step(self.config.period_ns / 1e9)
        self.arm.inject(
            # It moves as the world does, and not by itself.
            blocked=(1 << len(self._joints)) - 1, present=self.present().tolist(),
            load_permille=[servo.load_permille for servo in world.servos],
        )  # fmt: skip
        pose = Pose(self._due_ns, world.qpos())
        self._seen.append(pose)
        if self._engaged_ns:
            self.goals.append(goal)
            if len(self.goals) % 10 == 0:
                self.poses.append(pose)

    # --- cameras and policy -----------------------------------------------------------------

    def _frames(self) -> dict[str, Frame]:
        """The newest picture of every camera that has arrived."""
        shot = (self.now_ns - TRANSPORT_NS) // self._frame_ns
        if self._shown[0] != shot:
            t_ns = shot * self._frame_ns
            pose = next((p for p in reversed(self._seen) if p.t_ns <= t_ns), self._seen[0])
            blank = np.full((8, 8, 3), 4 * shot % 256, np.uint8)
            images = dict.fromkeys(self._cameras, blank) if self._pictures is None else self._pictures.draw(pose)
            self._shown = shot, {name: Frame(shot, t_ns, images[name]) for name in self._cameras}
        return self._shown[1]

    def _infer(self, request: Request) -> tuple[Observation, NDArray[np.float64]]:
        policy = self._subject.loaded.policy
        t_obs_ns, _, state = self.servo.joint_state()
        if isinstance(policy, ExpertPolicy):
            policy.goal = self.servo.command()[3]
        prefix, observation = self._cache.assemble(
            policy, request.rung, self._frames(), now_ns=self.now_ns, epoch=request.epoch, task=self._task,
            t_obs_ns=t_obs_ns, state=state,
        )  # fmt: skip
        actions = self._sampler.sample(prefix, request, task=self._task, t_obs_ns=t_obs_ns, now_ns=self.now_ns)
        return observation, actions

    def _judged(self, report: Any) -> None:
        self._sampler.judged(report)

    def _prerequisite(self, rung: Any) -> Any:
        return self._cache.prerequisite(rung, self.now_ns, self.servo.queue_view()[2], self._task, self._frames())

    def _takes_ns(self, request: Request) -> int:
        """The machine's slowness now, times what was drawn for a full pass, times the rung's share of it."""
        slower, stall_s = self._machine((self.now_ns - self._engaged_ns) / 1e9, self._random)
        known = self.scheduler.latency
        share = known.load_ns(request.rung, request.encode) / known.load_ns(FULL, self.scheduler.config.cameras)
        return max(1, round(self._subject.latency.draw_ns(self._random) * share * slower + stall_s * 1e9))

    def _arrived(self, arrival: Arrival) -> None:
        self.t_inference_ms.append((arrival.t_arrival_ns - arrival.request.admitted_ns) / MS)

    # --- the episode ------------------------------------------------------------------------

    def attempt(self, case: Case, time_limit_s: float) -> Episode:
        """Engage, and look until the task is done or the time is over. Raises DeviceError where the loop does
        not engage."""
        self._engaged_ns = self.now_ns
        if self.engage() != "engaged":
            raise DeviceError(f"the servo loop does not engage: {self.servo.report()['why_not']}")
        end_ns, holds, ended = self._engaged_ns + round(time_limit_s * 1e9), 0, "time limit"
        ages_ms: list[float] = []
        longest_ns = 0
        while self.now_ns < end_ns:
            self.run(min(end_ns, self.now_ns + LOOK_NS))
            if case.task.done(self._world):
                ended = "success"
                break
            report = self.servo.report()
            if report["queue_depth"] and not report["at_rest"]:
                ages_ms.append(report["wire_age_ns"] / MS)
            longest_ns = max(longest_ns, self._longest_gap_ns())
            if report["mode"] == "engaged":
                continue
            if report["latched"] or report["mode"] == "faulted":
                ended = "fault"
                break
            if report["mode"] == "holding" and not report["why_not"]:
                holds += 1
                if holds > MAX_HOLDS:
                    ended = "holds"
                    break
                self.run(min(end_ns, self.now_ns + RESUME_NS))
                self.servo.request(RESUME)
        return self._episode(case, ended, holds, ages_ms, max(longest_ns, self._longest_gap_ns()))

    def _longest_gap_ns(self) -> int:
        """Of those that ended since the last look."""
        longest = 0
        while (event := self.servo.next_event()) is not None:
            if event[1] == "gap":
                longest = max(longest, event[4])
        return longest

    def _episode(self, case: Case, ended: str, holds: int, ages_ms: Sequence[float], longest_ns: int) -> Episode:
        report, counts = self.servo.report(), self.scheduler.counts
        counters, seconds = report["counters"], (self.now_ns - self._engaged_ns) / 1e9
        rejected = {reason: n for reason, n in counters["rejected"].items() if n}
        if counters["overdue"]:
            rejected["late"] = rejected.get("late", 0) + counters["overdue"]
        faults = {BY_ID[f].name: n for f, (_, _, _, n, _) in report["faults"].items()}
        engaged = counters["engaged_ticks"]
        return Episode(
            task=case.task.target, cluster=case.cluster, index=case.index, split=case.split,
            success=ended == "success", ended=ended, duration_s=round(seconds, 3),
            time_s=round(seconds, 3) if ended == "success" else None,
            idle=1 - counters["covered_ticks"] / engaged if engaged else 0.0,
            gaps=counters["gaps"], longest_gap_s=longest_ns / 1e9, requests=counts.requests,
            cold_starts=counts.cold_starts, refused=counts.refused_admissions, accepted=counters["accepted"],
            clamped=counters["clamped"], rejected=rejected,
            rungs={name: c.requests for name, c in counts.rungs.items() if c.requests}, holds=holds, faults=faults,
            watchdog=sum(n for name, n in faults.items() if name in WATCHDOG),
            jerk=rms_jerk(np.array(self.goals)[:, :-1], self.config.period_ns / 1e9),
            age_ms={"p50": quantile(ages_ms, 0.5), "p99": quantile(ages_ms, 0.99)} if ages_ms else {},
            t_inference_ms=self.t_inference_ms,
        )  # fmt: skip


def _no_policy(t_obs_ns: int, present: NDArray[np.float64]) -> NDArray[np.float64]:
    raise AssertionError("the table asks its own policy")


def ticks_of(joints: Sequence[Joint]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tick of position 0, and units of one tick, of each joint; the inverse of Joint.to_ticks."""
    ranges = np.array([(j.range_min, j.range_max) for j in joints], float)
    gripper = np.array([j.gripper for j in joints])
    zero = np.where(gripper, ranges[:, 0], ranges.mean(axis=1))
    return zero, np.where(gripper, 1 / (ranges[:, 1] - ranges[:, 0]), math.tau / TICKS_PER_TURN)
