"""The simulated task as a rig of `vlad record`, and its scripted expert as the teleoperator.

Nothing here is real time: an episode of 5 s is recorded in less than one. Every episode is drawn from the seed and
its own number, so that a recording that is resumed goes on as if it had not been interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlad.arm import Joint, Kind, span
from vlad.errors import ConfigError
from vlad.record.rig import Floats, Moment, Outcome
from vlad.sim.environment import POSES, TeaBag
from vlad.sim.expert import EMPTY_RAD, FPS, Expert
from vlad.sim.reach import OutOfReach
from vlad.sim.start import CLUSTERS, PAN_AXIS_M, TRAINING, Start, draw_start
from vlad.sim.task import TASKS
from vlad.sim.world import CAMERAS, JOINTS

PERIOD_NS = 10**9 // FPS
AFTERWARDS_S = 1.0
"""How long an episode goes on once the task is done: the arm draws back."""
MISS_M = (0.045, 0.07)
"""How far the expert reaches past the tea bag in an episode that shows how to recover, m: beyond its jaws."""
REACH_M = (0.13, 0.31)
"""From the pan axis: where the expert may reach past the tea bag."""
SEEN_S = 5.0
"""By when it knows, if its jaws have not closed on nothing before."""
POSE_NOISE_RAD = 0.03


@dataclass(frozen=True, slots=True)
class _Draw:
    """What the seed says of one episode."""

    cluster: int
    miss_m: tuple[float, float]

    @property
    def recovery(self) -> bool:
        return any(self.miss_m)


class EnvironmentRig:
    """A TeaBag environment that is begun, stepped and judged by a recording.

    seed: of all episodes. clusters: drawn from, one after another in turn, so that each has its share. recovery_share:
    of the episodes that begin with a miss. cameras, size: what is drawn, and its width and height. Its times are
    simulated ns since the first episode.
    """

    robot_type, live, fps = "so101_follower", False, FPS

    def __init__(
        self,
        env: TeaBag,
        seed: int,
        clusters: Sequence[int],
        recovery_share: float,
        *,
        cameras: Sequence[str],
        size: tuple[int, int],
    ) -> None:
        self._env = env
        self._seed, self._clusters, self._recovery_share = seed, tuple(clusters), recovery_share
        self.joints = tuple(_joint(name, env) for name in JOINTS)
        self._expert: Expert | None = None
        self._draw = _Draw(0, (0.0, 0.0))
        self._now_ns = self._begun_ns = self._done_ns = 0
        self._over = False
        self._size = size
        self.cameras = {name: (size[1], size[0]) for name in cameras}

    def start(self) -> None: ...

    def begin(self, episode: int) -> None:
        random = np.random.default_rng([self._seed, episode])
        cluster = self._clusters[episode % len(self._clusters)]
        start = draw_start(random, cluster)
        miss = _miss(random, start) if random.random() < self._recovery_share else (0.0, 0.0)
        self._draw = _Draw(cluster, miss)
        pose = POSES["rest"] + np.append(random.normal(0, POSE_NOISE_RAD, len(JOINTS) - 1), 0.0)
        options = {"start": start, "pose": pose}
        self._env.reset(seed=int(random.integers(2**31)), options=options)
        self._expert = self._env.expert(miss)
        self._begun_ns, self._done_ns, self._over = self._now_ns, 0, False

    def observe(self) -> Moment:
        shown = {name: self._env.world.render(name, *self._size) for name in self.cameras}
        state = self._env.to_core(self._env.world.joint_rad())
        return Moment(self._now_ns, state, shown, (self._now_ns,) * (1 + len(shown)))

    def act(self, goal: Floats | None) -> Floats:
        env = self._env
        action = env.to_degrees(env.goal_rad) if goal is None else env.units.from_core(goal)
        _, _, done, over, _ = env.step(action.astype(np.float32))
        self._now_ns += PERIOD_NS
        if done and not self._done_ns:
            self._done_ns = self._now_ns
        self._over = over
        return self.pose

    @property
    def pose(self) -> Floats:
        return self._env.to_core(self._env.goal_rad)

    @property
    def ready(self) -> bool:
        return True

    def next_goal(self) -> Floats | None:
        """Where the expert would go; None where it cannot: the tea bag is out of its reach."""
        assert self._expert is not None
        elapsed_s = (self._now_ns - self._begun_ns) / 1e9
        closed = self._env.world.data.qpos[5] < EMPTY_RAD and elapsed_s > 1.0
        if closed or elapsed_s > SEEN_S:
            self._expert.offset_m = np.zeros(2)
        try:
            return self._env.to_core(self._expert.next_goal(self._env.goal_rad))
        except OutOfReach:
            return None

    def outcome(self) -> Outcome | None:
        ended = self._done_ns and self._now_ns - self._done_ns >= AFTERWARDS_S * 1e9
        if not ended and not self._over:
            return None
        start = self._env.world.start
        where = {"start_x_m": start.bag_m[0], "start_y_m": start.bag_m[1], "start_yaw_rad": start.bag_yaw_rad}
        return Outcome(bool(self._done_ns), self._draw.recovery, self._draw.cluster, where)

    def hold(self) -> None: ...

    def resume(self) -> None: ...

    def report(self) -> Mapping[str, object]:
        return {"simulated_s": round(self._now_ns / 1e9, 1)}

    def close(self) -> None:
        self._env.close()


class ScriptedExpert:
    """The expert of the rig's environment as a teleoperator.

    Where it cannot go on, the arm stays where it is and the episode ends as a failure.
    """

    name, problem = "expert", ""

    def __init__(self, rig: EnvironmentRig) -> None:
        self._rig = rig

    def start(self) -> None: ...

    def begin(self, pose: Floats) -> None: ...

    def goals_rad(self, now_ns: int) -> Floats | None:
        goal = self._rig.next_goal()
        return self._rig.pose if goal is None else goal

    def close(self) -> None: ...


def _miss(random: np.random.Generator, start: Start) -> tuple[float, float]:
    """A displacement (x, y), m, to a place that the jaws can reach as well."""
    angle, far = random.uniform(0, 2 * np.pi), random.uniform(*MISS_M)
    miss = far * np.array([np.cos(angle), np.sin(angle)])
    away = np.subtract(start.bag_m, PAN_AXIS_M)
    if not REACH_M[0] < np.hypot(*(away + miss)) < REACH_M[1]:
        miss = -miss
    return float(miss[0]), float(miss[1])


def _joint(name: str, env: TeaBag) -> Joint:
    motor = env.world.calibration[name]
    kind: Kind = "gripper" if name == "gripper" else "body"
    low, high = span(kind, motor)
    return Joint(name, motor.id, kind, motor, low, high, v_max=2.5, a_max=40.0, j_max=1600.0)


def open_environment(arguments: argparse.Namespace) -> tuple[EnvironmentRig, ScriptedExpert]:
    """What `vlad record --teleop expert` records. Raises ConfigError for a task, rate or camera that is not there."""
    if arguments.fps != FPS:
        raise ConfigError(f"--fps {arguments.fps}: the simulated task runs at {FPS}")
    said = arguments.single_task.strip().rstrip(".").lower()
    task = next((task for task in TASKS if task.instruction.rstrip(".").lower() == said), None)
    if task is None:
        known = " or ".join(repr(task.instruction) for task in TASKS)
        raise ConfigError(f"--single-task {arguments.single_task!r}: the expert knows {known}")
    unknown = set(arguments.cameras) - set(CAMERAS)
    if unknown:
        raise ConfigError(f"--cameras {', '.join(sorted(unknown))}: the simulated ones are {', '.join(CAMERAS)}")
    clusters = arguments.clusters or TRAINING
    if bad := [cluster for cluster in clusters if not 1 <= cluster <= len(CLUSTERS)]:
        raise ConfigError(f"--clusters: there are 1 to {len(CLUSTERS)}, not {bad[0]}")
    env = TeaBag(task.target, variation=arguments.variation, cameras=False)
    size = (arguments.width, arguments.height)
    shown = arguments.cameras or CAMERAS
    rig = EnvironmentRig(env, arguments.seed, clusters, arguments.recovery_share, cameras=shown, size=size)
    return rig, ScriptedExpert(rig)
