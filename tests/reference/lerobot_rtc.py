"""LeRobot's side of test_rtc.py: what its real-time chunking computes, and where it fails.

    python lerobot_rtc.py DATA OUT.npz

Runs where LeRobot 0.4.4 is installed. DATA is a directory of make_checkpoint.py. Every result is
saved beside what it was computed from.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import RTCAttentionSchedule
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.rtc.action_queue import ActionQueue
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.rtc.latency_tracker import LatencyTracker
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from make_checkpoint import batch_of, ordered_positions
from transformers.models.smolvlm import modeling_smolvlm

SCHEDULES = ("LINEAR", "EXP", "ZEROS", "ONES")
TOTAL, WIDTH = 50, 32
DELAY, HORIZON = 3, 6


def config(schedule: str, debug: bool = False) -> RTCConfig:
    return RTCConfig(enabled=True, prefix_attention_schedule=RTCAttentionSchedule[schedule], debug=debug)


def weights(saved: dict[str, np.ndarray]) -> None:
    """Every schedule at all delays and horizons that a chunk of 12 can have, and beyond."""
    total = 12
    for schedule in SCHEDULES:
        processor = RTCProcessor(config(schedule))
        rows = [
            processor.get_prefix_weights(delay, horizon, total).numpy()
            for delay, horizon in itertools.product(range(15), range(15))
        ]
        saved[f"weights_{schedule}"] = np.stack(rows).reshape(15, 15, total)


def steps(saved: dict[str, np.ndarray], random: np.random.Generator) -> None:
    """Single guided steps from given velocities."""
    processor = RTCProcessor(config("LINEAR"))
    made: dict[str, list[np.ndarray]] = {"x": [], "velocity": [], "leftover": [], "guided": []}
    for step in range(10):
        x, velocity, leftover = (random.standard_normal((TOTAL, WIDTH), dtype=np.float32) for _ in range(3))
        given = torch.from_numpy(velocity)[None]
        guided = processor.denoise_step(
            torch.from_numpy(x), torch.from_numpy(leftover), DELAY, 1.0 - step / 10,
            lambda _, v=given: v, HORIZON + 10,
        )  # fmt: skip
        for name, value in zip(made, (x, velocity, leftover, guided.numpy()), strict=True):
            made[name].append(value)
    saved |= {f"step_{name}": np.stack(values) for name, values in made.items()}


def chunks(saved: dict[str, np.ndarray], data: Path) -> None:
    """Whole chunks of a policy, guided by what an earlier one left over, with its debug steps."""
    policy, pre = load_float(data)
    width = policy.config.max_action_dim
    full_width: list[torch.Tensor] = []
    sample = policy.model.sample_actions

    def remember(*args: object, **options: object) -> torch.Tensor:
        full_width.append(sample(*args, **options))
        return full_width[-1]

    policy.model.sample_actions = remember  # before LeRobot cuts it to the arm's joints
    with np.load(data / "reference.npz") as archive:
        made = {name: archive[name] for name in archive.files}
    batch = pre(batch_of(made, 0, list(policy.config.image_features)))
    random = np.random.default_rng(5)
    noise = random.standard_normal((policy.config.chunk_size, width), dtype=np.float32)
    policy.config.rtc_config = None
    policy.predict_action_chunk(dict(batch), noise=torch.from_numpy(noise)[None])
    leftover = full_width[-1][:, 2:]
    saved |= {"chunk_noise": noise, "chunk_leftover": leftover[0].numpy()}
    for schedule in SCHEDULES:
        policy.config.rtc_config = config(schedule, debug=True)
        policy.init_rtc_processor()
        policy.predict_action_chunk(
            dict(batch), noise=torch.from_numpy(noise[::-1].copy())[None], inference_delay=DELAY,
            prev_chunk_left_over=leftover, execution_horizon=HORIZON,
        )  # fmt: skip
        saved[f"chunk_{schedule}"] = full_width[-1][0].numpy()
        debug = [s for s in policy.rtc_processor.get_all_debug_steps() if s.err is not None]
        same = [bool((s.correction == s.err).all()) for s in debug]
        saved[f"correction_is_error_{schedule}"] = np.array(same)
    # An underrun: 0.4.4 hands over no rows; later versions fill them up with zeros to the horizon.
    policy.config.rtc_config = None
    policy.predict_action_chunk(dict(batch), noise=torch.from_numpy(noise)[None])
    saved["underrun_free"] = full_width[-1][0].numpy()
    policy.config.rtc_config = config("ONES")
    policy.init_rtc_processor()
    for name, rows in (("empty", torch.zeros(1, 0, width)), ("zeros", torch.zeros(1, HORIZON, width))):
        policy.predict_action_chunk(
            dict(batch), noise=torch.from_numpy(noise)[None], inference_delay=DELAY,
            prev_chunk_left_over=rows, execution_horizon=HORIZON,
        )  # fmt: skip
        saved[f"underrun_{name}"] = full_width[-1][0].numpy()


def load_float(data: Path) -> tuple[SmolVLAPolicy, object]:
    """The checkpoint in float32, with the right position ids, and its pre-processor."""
    modeling_smolvlm.SmolVLMVisionEmbeddings.forward = ordered_positions
    checkpoint = data / "checkpoint"
    settings = PreTrainedConfig.from_pretrained(checkpoint)
    settings.vlm_model_name = str(data / "vlm")
    policy = SmolVLAPolicy.from_pretrained(checkpoint, config=settings).eval().float()
    tokenizer = {"tokenizer_processor": {"tokenizer_name": settings.vlm_model_name}}
    pre, _ = make_pre_post_processors(
        settings, pretrained_path=str(checkpoint), preprocessor_overrides=tokenizer
    )
    return policy, pre


def latencies(saved: dict[str, np.ndarray]) -> None:
    """One slow inference of 0.7 s, then a thousand of 0.1 s: what is expected of the next."""
    tracker = LatencyTracker(maxlen=50)
    values = [0.7] + [0.1] * 1000
    seen = []
    for value in values:
        tracker.add(value)
        seen.append((tracker.max(), tracker.p95()))
    saved |= {"latency": np.array(values), "latency_seen": np.array(seen)}


def queue(saved: dict[str, np.ndarray]) -> None:
    """Actions numbered by when they belong; which of them LeRobot's queue hands out.

    `first`: 0.7 s of warm-up at 30 Hz before the first chunk, nothing executed meanwhile.
    `steady`: 3.2 periods of latency, of which the robot consumed 3 actions; ceil() makes it 4.
    """

    def numbered(start: int) -> torch.Tensor:
        return torch.arange(start, start + 30, dtype=torch.float32)[:, None]

    first = ActionQueue(config("LINEAR"))
    first.merge(numbered(0), numbered(0), int(np.ceil(0.7 * 30)), 0)
    saved["queue_first"] = np.array([first.get().item() for _ in range(first.qsize())])
    steady = ActionQueue(config("LINEAR"))
    steady.merge(numbered(0), numbered(0), 0, 0)
    handed: list[float] = []
    for _ in range(8):
        before = steady.get_action_index()
        due = int(steady.get_left_over()[0])  # the observation is of the moment before this one
        handed += [steady.get().item() for _ in range(3)]
        steady.merge(numbered(due), numbered(due), int(np.ceil(3.2)), before)
    saved["queue_steady"] = np.array(handed)


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    saved: dict[str, np.ndarray] = {}
    weights(saved)
    steps(saved, np.random.default_rng(1))
    latencies(saved)
    queue(saved)
    chunks(saved, data)
    np.savez_compressed(out, **saved)


if __name__ == "__main__":
    main()
