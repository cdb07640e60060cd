"""LeRobot's own asynchronous client and server logic on the latency traces, in simulated time.

    build/reference/venv/bin/python -m bench.lerobot_queue [--json] [--trace NAME] [--threshold 0.5]

What is LeRobot's (0.4.4, unchanged): when an observation is sent and whether it must go
(RobotClient.control_loop_observation, _ready_to_send_observation), which observations the server
takes (PolicyServer._enqueue_observation with its similarity filter), how a chunk is timed
(_time_action_chunk), merged (_aggregate_action_queues, weighted_average) and executed
(control_loop_action). What is not: gRPC and pickle (an observation arrives at once, and so does a
chunk), the policy (bench/latency_traces.py) and the clock: a tick each 1/30 s without jitter, an
inference as long as the trace says. All of that favours LeRobot.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from queue import Queue
from typing import Any

import lerobot.async_inference.robot_client as client_module
import numpy as np
import torch
from lerobot.async_inference.configs import PolicyServerConfig, get_aggregate_function
from lerobot.async_inference.helpers import FPSTracker, TimedAction, TimedObservation
from lerobot.async_inference.policy_server import PolicyServer
from lerobot.async_inference.robot_client import RobotClient

from bench.latency_traces import FULL_MS, HORIZON_NS, JOINTS, PERIOD_NS, RADIUS, S, Trace, circle, traces

THRESHOLDS = (0.5, 0.7, 0.9)  # LeRobot's default in code, that of its documentation, nearly always
DEGREES = 180 / np.pi
NAMES = [f"joint_{j}.pos" for j in range(JOINTS)]


class Clock:
    """Stands in for the module `time` in LeRobot's client: its time stamps are simulated."""

    def __init__(self) -> None:
        self.now_ns = 0

    def time(self) -> float:
        return self.now_ns / S

    perf_counter = time


class Arm:
    """A robot that follows at once. Positions in degrees, as LeRobot's SO-101 has them."""

    action_features = dict.fromkeys(NAMES, float)

    def __init__(self) -> None:
        self.position = {name: 0.0 for name in NAMES}
        self.position[NAMES[0]] = RADIUS * DEGREES

    def get_observation(self) -> dict[str, float]:
        return dict(self.position)

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        self.position = action
        return action


@dataclass(slots=True)
class Outcome:
    """The same measures as bench.latency_comparison.Outcome has, where LeRobot has them."""

    trace: str
    way: str
    idle: float = 0.0
    gaps: int = 0
    longest_gap_s: float = 0.0
    age_p50_s: float = 0.0
    age_p99_s: float = 0.0
    age_max_s: float = 0.0
    chunks: int = 0
    late: int = 0  # chunks that came when the queue was empty, the first one aside; they are executed
    late_actions: int = 0  # executed although their time, t_obs + i/f, was over by a period or more
    stale_actions: int = 0  # executed although the observation was older than N/f
    rungs: dict[str, int] = field(default_factory=dict)


class Pair:
    """A client and a server without their constructors, which open sockets and a robot."""

    def __init__(self, threshold: float, clock: Clock) -> None:
        client: Any = RobotClient.__new__(RobotClient)
        client.config = type("Config", (), {"fps": 30, "environment_dt": 1 / 30})()
        client.robot = Arm()
        client.shutdown_event = threading.Event()
        client.latest_action_lock = threading.Lock()
        client.latest_action = client.action_chunk_size = -1
        client._chunk_size_threshold = threshold
        client.action_queue = Queue()
        client.action_queue_lock = threading.Lock()
        client.action_queue_size = []
        client.fps_tracker = FPSTracker(target_fps=30)
        client.must_go = threading.Event()
        client.must_go.set()
        server: Any = PolicyServer(PolicyServerConfig(fps=30))
        server.lerobot_features = {
            "observation.state": {"dtype": "float32", "shape": (JOINTS,), "names": NAMES},
        }
        client.send_observation = server._enqueue_observation
        self.client, self.server, self.clock = client, server, clock
        self.aggregate = get_aggregate_function("weighted_average")

    def take(self) -> TimedObservation | None:
        """What GetActions does first: the observation that is waiting, if any."""
        if self.server.observation_queue.empty():
            return None
        observation: TimedObservation = self.server.observation_queue.get_nowait()
        self.server._predicted_timesteps.add(observation.get_timestep())
        self.server.last_processed_obs = observation
        return observation

    def chunk(self, observation: TimedObservation) -> list[TimedAction]:
        state = np.array([observation.get_observation()[name] for name in NAMES]) / DEGREES
        actions = torch.from_numpy(circle(0, state) * DEGREES).float()
        timed: list[TimedAction] = self.server._time_action_chunk(
            observation.get_timestamp(), list(actions), observation.get_timestep()
        )
        return timed

    def receive(self, chunk: list[TimedAction]) -> None:
        """What receive_actions does with a chunk."""
        self.client.action_chunk_size = max(self.client.action_chunk_size, len(chunk))
        self.client._aggregate_action_queues(chunk, self.aggregate)
        self.client.must_go.set()


@dataclass(slots=True)
class _Watch:
    """What was executed, and when nothing was."""

    outcome: Outcome
    ages_s: list[float] = field(default_factory=list)
    idle_ticks: int = 0
    ticks: int = 0
    idle_since_ns: int | None = None

    def executed(self, now_ns: int, action: TimedAction, t_obs_s: float) -> None:
        age_s = now_ns / S - t_obs_s
        self.ages_s.append(age_s)
        self.outcome.stale_actions += age_s > HORIZON_NS / S
        self.outcome.late_actions += now_ns / S - action.get_timestamp() > PERIOD_NS / S
        if self.idle_since_ns is not None:
            self.outcome.gaps += 1
            self.outcome.longest_gap_s = max(self.outcome.longest_gap_s, (now_ns - self.idle_since_ns) / S)
            self.idle_since_ns = None

    def idle(self, now_ns: int) -> None:
        self.idle_ticks += 1
        self.idle_since_ns = now_ns if self.idle_since_ns is None else self.idle_since_ns


def run(trace: Trace, threshold: float, full_ms: float = FULL_MS) -> Outcome:
    """One threshold on one trace, from its start to its end."""
    clock = Clock()
    client_module.time = clock  # type: ignore[attr-defined]
    pair = Pair(threshold, clock)
    outcome = Outcome(trace.name, f"lerobot {threshold:g}")
    watch = _Watch(outcome)
    observed_s: dict[int, float] = {}  # timestep -> t_obs of the newest chunk that has it
    running: tuple[int, TimedObservation] | None = None
    for tick in range(trace.seconds * 30):
        clock.now_ns = tick * PERIOD_NS
        if running is not None and running[0] <= clock.now_ns:
            arrival_ns, observation = running
            clock.now_ns, running = arrival_ns, None
            outcome.late += pair.client.action_queue.empty() and outcome.chunks > 0
            outcome.chunks += 1
            chunk = pair.chunk(observation)
            observed_s |= {action.get_timestep(): observation.get_timestamp() for action in chunk}
            pair.receive(chunk)
            running = start(pair, trace, arrival_ns, full_ms)
            clock.now_ns = tick * PERIOD_NS
        watch.ticks += 1
        if pair.client.actions_available():
            action = pair.client.action_queue.queue[0]
            pair.client.control_loop_action()
            watch.executed(clock.now_ns, action, observed_s[action.get_timestep()])
        else:
            watch.idle(clock.now_ns)
        if pair.client._ready_to_send_observation():
            pair.client.control_loop_observation("circle")
        if running is None:
            running = start(pair, trace, clock.now_ns, full_ms)
    outcome.idle = watch.idle_ticks / watch.ticks
    p50, p99 = np.quantile(watch.ages_s, [0.5, 0.99])
    outcome.age_p50_s, outcome.age_p99_s, outcome.age_max_s = float(p50), float(p99), max(watch.ages_s)
    outcome.rungs = {"full": outcome.chunks}
    return outcome


def start(pair: Pair, trace: Trace, now_ns: int, full_ms: float) -> tuple[int, TimedObservation] | None:
    """The server takes what is waiting; (when its chunk will be there, the observation)."""
    observation = pair.take()
    if observation is None:
        return None
    return now_ns + trace.latency_ns(now_ns, round(full_ms * 1e6)), observation


def main(argv: Sequence[str] | None = None) -> int:
    names = [trace.name for trace in traces()]
    parser = argparse.ArgumentParser(prog="python -m bench.lerobot_queue", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON list instead of the table")
    parser.add_argument("--full-ms", type=float, default=FULL_MS, help=f"a full pass at load ({FULL_MS})")
    parser.add_argument("--trace", choices=names, action="append", help="only this one; may be repeated")
    parser.add_argument("--threshold", type=float, action="append", help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    outcomes = [
        run(trace, threshold, options.full_ms)
        for name in options.trace or names
        for threshold in options.threshold or THRESHOLDS
        for trace in traces(options.seed) if trace.name == name
    ]  # fmt: skip
    if options.json:
        print(json.dumps([asdict(o) for o in outcomes], indent=1))
        return 0
    for o in outcomes:
        print(f"{o.trace:14} {o.way:12} idle {o.idle:6.1%}, {o.gaps:4} gaps up to {o.longest_gap_s:5.2f} s; age "
              f"{o.age_p50_s:.2f} {o.age_p99_s:.2f} {o.age_max_s:.2f} s; {o.chunks} chunks, {o.late} late; executed: "
              f"{o.late_actions} actions late, {o.stale_actions} stale")  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
