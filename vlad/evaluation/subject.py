"""What is evaluated: the policy of a bundle, or the scripted expert in a policy's place.

Either is loaded as the daemon loads it: checked against the configuration, its passes measured, its
merging chosen.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad import policy_loading
from vlad.bundle import Bundle
from vlad.config import Config
from vlad.daemon import servo_config
from vlad.errors import ConfigError
from vlad.evaluation.latency import MEASURED, Latency, of_samples
from vlad.inference import STAGE_BOUND_MIN_NS, Loaded, Merge, RunnablePolicy
from vlad.ladder import FULL, Rung, parse_ladder
from vlad.load_check import LoadCheck, check_load
from vlad.pass_cost import measure_pass
from vlad.scheduler import SchedulerConfig
from vlad.servo import MS, Servo, ServoConfig, now_ns
from vlad.sim.environment import carry_out
from vlad.sim.expert import FPS, Expert
from vlad.sim.reach import OutOfReach
from vlad.sim.task import TASKS, Task
from vlad.sim.world import World

EXPERT = "expert"
EXPERT_CHUNK = 50
EXPERT_LATENCY = of_samples("0.1 s", [100.0])
MEASURED_PASSES, MEASURED_NS = 40, 20_000_000_000


@dataclass(frozen=True, slots=True)
class Subject:
    """A policy that is ready to be evaluated. servo: as its timing wants it. latency: of full passes.
    check: whether the daemon would let it drive the arm at that latency."""

    loaded: Loaded
    servo: ServoConfig
    latency: Latency
    check: LoadCheck
    policy_type: str
    blind: bool = False  # it needs no pictures

    def merged(self, mode: str, merge: Merge, ladder: tuple[Rung, ...] | None = None) -> Subject:
        """The same with its chunks asked for and merged in another way, and with no more than `ladder` of its rungs."""
        before = self.loaded.scheduler
        timing = dataclasses.replace(before, mode=mode, every_step=merge.aggregate == "temporal_ensemble",
                                     ladder=before.ladder if ladder is None else ladder)  # fmt: skip
        loaded = dataclasses.replace(self.loaded, scheduler=timing, merge=merge)
        return dataclasses.replace(self, loaded=loaded, check=check_load(timing, self.latency.samples_ns))

    def with_latency(self, latency: Latency) -> Subject:
        """The same, were inference so slow: all that was measured at load scales with it."""
        factor = statistics.median(latency.samples_ns) / statistics.median(self.loaded.measured_ns)
        rungs = {rung: tuple(round(ns * factor) for ns in cost) for rung, cost in self.loaded.rungs_ns.items()}
        loaded = dataclasses.replace(
            self.loaded, measured_ns=latency.samples_ns, rungs_ns=rungs,
            vision_ns=round(self.loaded.vision_ns * factor),
            stage_bound_ns=max(STAGE_BOUND_MIN_NS, 3 * max(latency.samples_ns)),
        )  # fmt: skip
        check = check_load(loaded.scheduler, latency.samples_ns)
        return dataclasses.replace(self, loaded=loaded, latency=latency, check=check)


class FlowSteps:
    """A policy with other flow steps than its own."""

    def __init__(self, policy: RunnablePolicy, steps: int) -> None:
        self._policy = policy
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    @property
    def joint_space(self) -> Any:  # a protocol's isinstance() does not look behind __getattr__
        return self._policy.joint_space  # type: ignore[attr-defined]

    def sample(self, prefix: Any, *, steps: int | None = None, **how: Any) -> NDArray[np.float64]:
        return self._policy.sample(prefix, steps=steps or self._steps, **how)

    def sample_normalised(self, prefix: Any, *, steps: int | None = None, **how: Any) -> NDArray[np.float32]:
        policy: Any = self._policy
        chunk: NDArray[np.float32] = policy.sample_normalised(prefix, steps=steps or self._steps, **how)
        return chunk


def of_bundle(path: Path, config: Config, latency: Latency | None, steps: int | None = None) -> Subject:
    """Raises BundleError, ConfigError or Refused, as the daemon would. latency: None is what this machine
    needs. steps: of the flow, instead of the policy's own."""
    kind = ""

    def factory(bundle: Bundle, config: Config) -> RunnablePolicy:
        nonlocal kind
        kind = bundle.manifest.policy_type
        if steps is not None and kind != "smolvla":
            raise ConfigError(f"--steps: a policy of type {kind} has no flow steps")
        policy = policy_loading.onnx_policy(bundle, config)
        return policy if steps is None else FlowSteps(policy, steps)

    servo = dataclasses.replace(servo_config(config), allow_non_realtime=True)
    loaded = policy_loading.load(path, config, Servo(servo).lookahead_ns, factory=factory)
    subject = Subject(loaded, _timed(servo, loaded), _seen(loaded), loaded.check, kind)
    return subject.with_latency(_measured(loaded, config) if latency is None else latency)


def _seen(loaded: Loaded) -> Latency:
    return Latency(MEASURED, loaded.measured_ns)


def _measured(loaded: Loaded, config: Config) -> Latency:
    """As many passes as there is time for: eight have no tail."""
    sizes = {c.name: (c.height, c.width) for c in config.cameras}
    frames = [np.zeros((*sizes[name], 3), np.uint8) for name in loaded.cameras]
    state = np.zeros(len(config.joints))
    samples, begun = list(loaded.measured_ns), now_ns()
    while len(samples) < MEASURED_PASSES and now_ns() - begun < MEASURED_NS:
        samples += measure_pass(loaded.policy, frames, 0, state)
    return Latency(MEASURED, tuple(samples))


def _timed(servo: ServoConfig, loaded: Loaded) -> ServoConfig:
    timing = loaded.scheduler
    return dataclasses.replace(servo, action_period_ns=timing.period_ns, chunk_size=timing.chunk_size,
                               max_frame_age_ns=loaded.max_frame_age_ns)  # fmt: skip


class ExpertPolicy:
    """The scripted expert as a policy: its chunk is what it would do, tried out on a copy of the world.

    watch() a world, and set `goal` (that in force, core units) before it is asked. It sees the state of the world and
    no picture.
    """

    def __init__(self) -> None:
        self.world: World | None = None
        self.task: Task = TASKS[0]
        self.goal: Sequence[float] = ()
        self._rehearsal = World(0)
        self._experts: dict[str, Expert] = {}

    def watch(self, world: World) -> None:
        """Another episode begins there."""
        self.world = world
        if world.calibration != self._rehearsal.calibration:
            self._rehearsal.close()
            self._rehearsal = World(0, calibration=world.calibration)
            self._experts.clear()
        self._rehearsal.model.geom_friction[:] = world.model.geom_friction

    def encode_image(self, camera_index: int, image: NDArray[np.uint8]) -> None: ...

    def prefill(self, tokens_by_camera: Sequence[Any], task: Any, state: Any) -> None: ...

    def refresh_state(self, prefix: Any, state: Any) -> None: ...

    def warm_up(self) -> None: ...

    def sample(self, prefix: Any, **how: Any) -> NDArray[np.float64]:
        """[50, 6] in core units."""
        assert self.world is not None, "an expert without a world"
        table = self._rehearsal
        table.take_state(self.world)
        expert = self._experts.setdefault(self.task.target, Expert(table, self.task))
        closed_rad, span_rad = table.gripper_span_rad
        goal = np.array(self.goal)
        goal[-1] = closed_rad + goal[-1] * span_rad
        chunk = np.empty((EXPERT_CHUNK, len(goal)))
        for action in chunk:
            try:
                following = expert.next_goal(goal)
            except OutOfReach:
                following = goal
            carry_out(table, goal, following)
            goal = following
            action[:] = goal
        chunk[:, -1] = np.clip((chunk[:, -1] - closed_rad) / span_rad, 0.0, 1.0)
        return chunk

    def close(self) -> None:
        self._rehearsal.close()


def of_expert(
    config: Config, latency: Latency | None, policy: RunnablePolicy | None = None,
    costs_ns: Mapping[str, int] | None = None,
) -> Subject:
    """The expert, or `policy`, at 30 Hz with chunks of 50. Nothing is measured: without a latency it takes
    100 ms. costs_ns: of the rungs of the configured ladder, by name; without them each costs a full pass."""
    aggregate = "weighted_average" if config.policy.aggregate in ("auto", "rtc") else config.policy.aggregate
    servo = dataclasses.replace(servo_config(config), allow_non_realtime=True, aggregate=aggregate)
    ladder = parse_ladder(config.policy.ladder)
    given = latency or EXPERT_LATENCY
    timing = SchedulerConfig(
        period_ns=round(1e9 / FPS), chunk_size=EXPERT_CHUNK, mode=config.policy.mode,
        threshold=config.policy.threshold, lookahead_ns=Servo(servo).lookahead_ns,
        quantile=config.policy.quantile, window=config.policy.window, safety=config.policy.safety_factor,
        ladder=ladder, cameras=len(config.cameras),
    )  # fmt: skip
    full = round(statistics.median(given.samples_ns))
    loaded = Loaded(
        policy=policy or ExpertPolicy(), name=EXPERT, path=EXPERT, cameras=tuple(c.name for c in config.cameras),
        tasks=tuple(task.instruction for task in TASKS), scheduler=timing,
        check=check_load(timing, given.samples_ns), measured_ns=given.samples_ns,
        stage_bound_ns=max(STAGE_BOUND_MIN_NS, 3 * max(given.samples_ns)),
        max_frame_age_ns=67 * MS, max_change=config.policy.reuse_change,
        rungs_ns={rung: ((costs_ns or {}).get(rung.name, full),) for rung in ladder if rung != FULL},
        merge=Merge(aggregate, config.policy.temporal_ensemble_coeff or policy_loading.PAPER_COEFFICIENT
                    if aggregate == "temporal_ensemble" else 0.0),
    )  # fmt: skip
    return Subject(loaded, _timed(servo, loaded), given, loaded.check, EXPERT, blind=True)
