"""The simulated table as a Gymnasium environment, in simulated time: no daemon, no bus, no clock.

    import gymnasium
    import gymnasium, vlad.sim.environment
    env = gymnasium.make("vlad/TeaBagInMug-v0", cluster=6)

Observations and actions are LeRobot's: degrees from the middle of a joint's calibrated range, 0 to 100 for
the gripper, pictures in RGB; the names are those that LeRobot's `preprocess_observation` expects of an
environment. One step is 1 / FPS s, in which the goals go to the action in a straight line, as the servo
loop's trajectory does. The reward is 1 for the step in which the task is done, else 0.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from vlad.errors import ConfigError
from vlad.sim.expert import FPS, READY_RAD, Expert
from vlad.sim.start import TRAINING, Start, draw_start
from vlad.sim.task import TASKS, TIME_LIMIT_S, Task
from vlad.sim.variation import FULL, NONE, Appearance, Variation
from vlad.sim.world import CAMERAS, JOINTS, REST_POSE_RAD, World
from vlad.units import JointRange, JointUnits

Floats = npt.NDArray[np.float32]
_GOALS_PER_STEP = 4
POSES = {"rest": np.array(REST_POSE_RAD), "ready": READY_RAD}
_VIEW = (640, 480)


class TeaBag(gymnasium.Env[dict[str, Any], Floats]):
    """One arm, one tea bag, one instruction.

    Observation: `agent_pos` float32 (6,), degrees and 0..100, JOINTS order; `pixels`: uint8 (height, width,
    3) of each of CAMERAS (absent with cameras=False). Action: goals, float32 (6,), as `agent_pos`.
    info: `is_success`, `instruction`, `cluster`, `time_s`.

    Args:
        task: which of vlad.sim.task.TASKS, by its target: "mug" or "plate".
        cluster: where the tea bag lies; None draws from `clusters` at each reset.
        clusters: what is drawn from; the training clusters by default.
        variation: domain randomisation, drawn at each reset; True is FULL, False NONE.
        pose: where the arm begins: "rest" (folded, as it lies without torque) or "ready".
        cameras, width, height: whether pictures are in the observation, and their size.
        time_limit_s: when an episode is truncated.
        render_mode: "rgb_array", or "human" for a window.

    reset(options={"start": Start, "pose": ...}) begins at a place of the caller's choice.
    Raises ConfigError for what is not so.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array", "human"],
        "render_fps": FPS,
    }

    def __init__(
        self,
        task: str = "mug",
        *,
        cluster: int | None = None,
        clusters: Sequence[int] = TRAINING,
        variation: Variation | bool = False,
        pose: str = "rest",
        cameras: bool = True,
        width: int = 160,
        height: int = 120,
        time_limit_s: float = TIME_LIMIT_S,
        render_mode: str | None = None,
    ) -> None:
        by_target = {known.target: known for known in TASKS}
        if task not in by_target:
            raise ConfigError(f"task {task!r}: there are {', '.join(by_target)}")
        if pose not in POSES:
            raise ConfigError(f"pose {pose!r}: there are {', '.join(POSES)}")
        self.task: Task = by_target[task]
        self.render_mode = render_mode
        self._clusters = tuple(clusters) if cluster is None else (cluster,)
        self._variation = variation if isinstance(variation, Variation) else (FULL if variation else NONE)
        self._pose = pose
        self._size = (width, height) if cameras else None
        self._steps_allowed = round(time_limit_s * FPS)
        self._viewer: Any = None
        self.world = World(0)
        self._appearance = Appearance(self.world.model)
        ranges = {n: JointRange(c.range_min, c.range_max, c.drive_mode) for n, c in self.world.calibration.items()}
        self.units = JointUnits("degrees", JOINTS, [name == "gripper" for name in JOINTS], ranges)
        self._goal_rad = np.zeros(len(JOINTS))
        self._steps = 0
        limits = self.world.model.jnt_range[: len(JOINTS)]
        low, high = (self.to_degrees(limits[:, side]).astype(np.float32) for side in (0, 1))
        self.action_space = spaces.Box(low, high, dtype=np.float32)
        # Physics may press a joint a little beyond its stop.
        seen: dict[str, spaces.Space[Any]] = {"agent_pos": spaces.Box(low - 5, high + 5, dtype=np.float32)}
        if self._size is not None:
            picture = spaces.Box(0, 255, (height, width, 3), np.uint8)
            seen["pixels"] = spaces.Dict(dict.fromkeys(CAMERAS, picture))
        self.observation_space = spaces.Dict(seen)

    @property
    def goal_rad(self) -> npt.NDArray[np.float64]:
        """The goals in force (6,), rad."""
        return self._goal_rad.copy()

    def to_core(self, angles_rad: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The model's joint angles (..., 6), rad, in vlad's units: rad, the gripper 0..1."""
        core = np.array(angles_rad, np.float64)
        closed, span = self.world.gripper_span_rad
        core[..., -1] = (core[..., -1] - closed) / span
        return core

    def to_degrees(self, angles_rad: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The model's joint angles (..., 6), rad, in LeRobot's units."""
        return self.units.from_core(self.to_core(angles_rad))

    def to_rad(self, degrees: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The inverse of to_degrees()."""
        angles = self.units.to_core(np.asarray(degrees, np.float64))
        closed, span = self.world.gripper_span_rad
        angles[..., -1] = angles[..., -1] * span + closed
        return angles

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        self._appearance.vary(self._variation, self.np_random)
        start = options.get("start") or draw_start(self.np_random, int(self.np_random.choice(self._clusters)))
        if not isinstance(start, Start):
            raise ConfigError(f"options['start']: a vlad.sim.start.Start, not {type(start).__name__}")
        pose = options.get("pose", POSES[self._pose])
        self.world.begin(start)
        self.world.place(pose)
        self._goal_rad = self.world.joint_rad()
        self.world.set_goal_rad(self._goal_rad.tolist())
        self.world.set_torque(True)
        self._steps = 0
        return self._observation(), self._info()

    def step(self, action: Floats) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        given = np.asarray(action, np.float64)
        if given.shape != (len(JOINTS),) or not np.isfinite(given).all():
            raise ConfigError(f"an action is {len(JOINTS)} finite numbers, not {action!r}")
        space = self.action_space
        assert isinstance(space, spaces.Box)
        goal = self.to_rad(np.clip(given, space.low, space.high))
        carry_out(self.world, self._goal_rad, goal)
        self._goal_rad = goal
        self._steps += 1
        done = self.task.done(self.world)
        if self.render_mode == "human":
            self.render()
        return self._observation(), float(done), done, self._steps >= self._steps_allowed, self._info()

    def expert(self, offset_m: npt.ArrayLike = (0.0, 0.0)) -> Expert:
        """The scripted expert of this task in this world; see expert_action()."""
        return Expert(self.world, self.task, offset_m)

    def expert_action(self, expert: Expert) -> Floats:
        """What the expert would do now, as an action. Raises OutOfReach."""
        return self.to_degrees(expert.next_goal(self._goal_rad)).astype(np.float32)

    def _observation(self) -> dict[str, Any]:
        seen: dict[str, Any] = {"agent_pos": self.to_degrees(self.world.joint_rad()).astype(np.float32)}
        if self._size is not None:
            seen["pixels"] = {camera: self.world.render(camera, *self._size).copy() for camera in CAMERAS}
        return seen

    def _info(self) -> dict[str, Any]:
        return {
            "is_success": self.task.done(self.world),
            "instruction": self.task.instruction,
            "cluster": self.world.start.cluster,
            "time_s": self._steps / FPS,
        }

    def render(self) -> Any:
        """The left camera's picture, 640 x 480; or the window brought up to date.

        Raises:
            ConfigError: where there is no display for a window.
        """
        if self.render_mode == "human":
            if self._viewer is None:
                self._viewer = _window(self.world)
            self._viewer.sync()
            return None
        return self.world.render("left", *_VIEW)

    def close(self) -> None:
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None
        self.world.close()


def carry_out(world: World, before_rad: npt.NDArray[np.float64], goal_rad: npt.NDArray[np.float64]) -> None:
    """One period of 1 / FPS, in which the goals (6,) go from `before_rad` to `goal_rad` in a straight line."""
    for part in range(1, _GOALS_PER_STEP + 1):
        world.set_goal_rad((before_rad + (goal_rad - before_rad) * part / _GOALS_PER_STEP).tolist())
        world.step(1 / FPS / _GOALS_PER_STEP)


def _window(world: World) -> Any:
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise ConfigError("no window can be opened: there is no display; use render_mode='rgb_array'")
    import mujoco.viewer

    return mujoco.viewer.launch_passive(world.model, world.data)


for _name, _target in (("TeaBagInMug", "mug"), ("TeaBagOnPlate", "plate")):
    gymnasium.register(f"vlad/{_name}-v0", entry_point="vlad.sim.environment:TeaBag", kwargs={"task": _target})
