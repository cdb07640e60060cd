"""Many episodes in simulated time, one after the other, each with its film where it failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vlad.config import Config
from vlad.errors import ConfigError
from vlad.evaluation.latency import MACHINES
from vlad.evaluation.pictures import Pictures
from vlad.evaluation.results import Episode
from vlad.evaluation.subject import ExpertPolicy, Subject
from vlad.evaluation.table import Case, Planner, Table
from vlad.scheduler import Scheduler
from vlad.sim import software_gl
from vlad.sim.environment import POSES
from vlad.sim.start import CLUSTERS, HELD_OUT, TRAINING
from vlad.sim.task import TASKS, Task
from vlad.sim.variation import NONE, Appearance, Variation
from vlad.sim.world import World

Strip = list[tuple[float, bytes]]
"""Seconds since the beginning of an episode, JPEG."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An episode, and its film where there is one."""

    episode: Episode
    film: Strip


def cases(tasks: Sequence[tuple[Task, str]], clusters: Sequence[int], episodes: int, seed: int) -> list[Case]:
    """`episodes` of each task on starts of training clusters, taken in turn, and as many on the held-out one,
    as far as they are among `clusters`."""
    kinds = [[c for c in clusters if c != HELD_OUT], [c for c in clusters if c == HELD_OUT]]
    return [Case(task, text, kind[i % len(kind)], i // len(kind), seed)
            for task, text in tasks for kind in kinds if kind for i in range(episodes)]  # fmt: skip


def clusters_of(text: str) -> tuple[int, ...]:
    """`all`, `training`, `held-out` or numbers with commas between. Raises ConfigError."""
    named = {"all": (*TRAINING, HELD_OUT), "training": TRAINING, "held-out": (HELD_OUT,)}
    if text in named:
        return named[text]
    try:
        numbers = tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or not all(1 <= n <= len(CLUSTERS) for n in numbers):
        raise ConfigError(f"clusters {text!r}: all, training, held-out, or numbers of 1 to {len(CLUSTERS)}, as in 6,7")
    return numbers


def tasks_of(name: str, texts: Sequence[str], instruction: str | None = None) -> list[tuple[Task, str]]:
    """Those named `mug`, `plate` or `both`, or that are `known`, each with the one of a policy's own texts that says
    it; or with `instruction`, whatever that says. Raises ConfigError where a policy knows no such text."""
    if instruction is not None and name not in ("mug", "plate"):
        raise ConfigError("--instruction: say with --task mug or --task plate by what it is judged")
    found = []
    for task in TASKS:
        wanted = instruction or task.instruction
        same = [text for text in texts if _plain(text) == _plain(wanted)]
        if same and name in (task.target, "both", "known"):
            found.append((task, same[0]))
        elif name in (task.target, "both"):
            raise ConfigError(f"the policy knows {list(texts)}, not {wanted!r}: --instruction tells it another")
    if not found:
        raise ConfigError(f"the policy knows {list(texts)}, and none of {[task.instruction for task in TASKS]}: "
                          "with --task and --instruction it is told one, and judged by the other")  # fmt: skip
    return found


def _plain(text: str) -> str:
    return text.strip().rstrip(".").lower()


class SimulatedTime:
    """Runs cases. `close()` it. machine: of vlad.evaluation.latency.MACHINES."""

    def __init__(
        self, config: Config, subject: Subject, *, time_limit_s: float, variation: Variation = NONE,
        machine: str = "steady", planner: Planner = Scheduler,
    ) -> None:
        self._config, self._subject = config, subject
        self._planner = planner
        self._time_limit_s, self._variation, self._machine = time_limit_s, variation, MACHINES[machine]
        self.world = World(0, calibration={j.name: j.calibration for j in config.joints})
        self._appearance = Appearance(self.world.model)
        software_gl.require()
        self.pictures = Pictures({c.name: (c.width, c.height) for c in config.cameras
                                  if c.name in subject.loaded.cameras})  # fmt: skip

    def run(
        self, wanted: Sequence[Case], films: int = 0, said: Callable[[str], None] = lambda name: None
    ) -> Iterator[Attempt]:
        """films: so many failures get one."""
        for case in wanted:
            attempt = self._attempt(case, films > 0)
            films -= bool(attempt.film)
            said(f"{case.task.target}, cluster {case.cluster}")
            yield attempt

    def _attempt(self, case: Case, film: bool) -> Attempt:
        self._appearance.vary(self._variation, case.random(1))
        self.pictures.vary(self._variation, case.random(1))
        self.world.begin(case.start())
        self.world.place(np.asarray(POSES["rest"]).tolist())
        policy = self._subject.loaded.policy
        if isinstance(policy, ExpertPolicy):
            policy.task = case.task
            policy.watch(self.world)
        table = Table(self._config, self._subject, self.world, case, machine=self._machine,
                      pictures=None if self._subject.blind else self.pictures, planner=self._planner)  # fmt: skip
        began_ns = table.now_ns
        episode = table.attempt(case, self._time_limit_s)
        strip = self.pictures.film(table.poses, began_ns) if film and not episode.success else []
        return Attempt(episode, strip)

    def close(self) -> None:
        self.pictures.close()
        self.world.close()
