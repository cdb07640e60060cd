"""Train the sweep policy with LeRobot 0.4.4 and let LeRobot write its checkpoint.

Run it in an environment that has lerobot, after tools/record_sweep.py (assets/sweep/README.md):

    python tools/train_sweep.py build/sweep

It reads what the arm saw and measured (moments.npz, images.npy, episodes.npz), trains a SmolVLA of
2 M parameters in float32 on the CPU from a fixed seed, and writes assets/sweep/checkpoint and
assets/sweep/dataset. The answers to learn are the motion law's (sweep_motion.py). A quarter of an
hour on two idle cores.

Three things differ from lerobot-train, to need so little. The prefix of an observation is computed
once for several draws of noise; flow times are the ten that the sampler visits, not a continuum;
and the loss also weighs the difference between consecutive actions, because a jittery chunk is
worse than a displaced one.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.compute_stats import get_feature_stats
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import (
    SmolVLAPolicy,
    make_att_2d_masks,
    resize_with_pad,
)
from sweep_dataset import write_dataset
from sweep_motion import CAMERAS, CHUNK, TASKS
from torch import Tensor

from vlad.train.exact_positions import use_exact_positions
from vlad.train.small_vlm import IMAGE_SIZE, write_vlm

ROOT = Path(__file__).resolve().parents[1]
ASSETS = Path("assets/sweep")
SEED = 20
OBSERVATIONS = 16
DRAWS = 4
LEARNING_RATE = 3e-3
JITTER = np.array([1.5, 1.5, 1.5, 1.5, 1.5, 2.5])
PADDING_WEIGHT = 0.1
DIFFERENCE_WEIGHT = 1.0


def policy_config() -> SmolVLAConfig:
    image = PolicyFeature(type=FeatureType.VISUAL, shape=(3, 240, 320))
    inputs = {"observation.state": PolicyFeature(type=FeatureType.STATE, shape=(6,))}
    inputs |= {f"observation.images.{camera}": image for camera in CAMERAS}
    return SmolVLAConfig(
        input_features=inputs,
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(6,))},
        vlm_model_name=str(ASSETS / "checkpoint" / "vlm"),
        resize_imgs_with_padding=(IMAGE_SIZE, IMAGE_SIZE),
        chunk_size=CHUNK,
        n_action_steps=CHUNK,
        max_action_dim=8,
        num_vlm_layers=4,
        num_expert_layers=0,
        prefix_length=0,
        pad_language_to="max_length",
        freeze_vision_encoder=False,
        train_expert_only=False,
        optimizer_lr=LEARNING_RATE,
        device="cpu",
        push_to_hub=False,
    )


@dataclass(frozen=True, slots=True)
class Moments:
    """What was recorded: goals and states (n, 6), the task of each (n,), images (n, cameras, 3,
    side, side) uint8.
    """

    goals: np.ndarray
    states: np.ndarray
    tasks: np.ndarray
    images: Tensor

    def batch(self, picked: np.ndarray, shift: np.ndarray) -> dict[str, Any]:
        """A batch in LeRobot's form for `picked` moments, the arm displaced by `shift`
        (len(picked), 6).
        """
        frames = self.images[torch.from_numpy(picked)].float() / 255
        goals = self.goals[picked] + shift
        chunks = np.stack([TASKS[self.tasks[i]].chunk(goal) for i, goal in zip(picked, goals, strict=True)])
        return {
            "observation.state": torch.from_numpy(self.states[picked] + shift).float(),
            **{f"observation.images.{camera}": frames[:, k] for k, camera in enumerate(CAMERAS)},
            "task": [TASKS[self.tasks[i]].instruction for i in picked],
            "action": torch.from_numpy(chunks).float(),
        }

    def statistics(self) -> dict[str, dict[str, np.ndarray]]:
        """LeRobot's statistics of state and of the action at the same moment."""
        actions = np.stack([TASKS[t].chunk(goal)[0] for t, goal in zip(self.tasks, self.goals, strict=True)])
        return {
            "observation.state": get_feature_stats(self.states, axis=0, keepdims=False),
            "action": get_feature_stats(actions, axis=0, keepdims=False),
        }


def read_moments(recording: Path) -> Moments:
    """Load a recording; its pictures are resized as the policy does it, once instead of in every
    batch.
    """
    images = np.load(recording / "images.npy", mmap_mode="r")
    count, cameras = images.shape[:2]
    small = torch.empty((count, cameras, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8)
    for i in range(count):
        frames = torch.from_numpy(np.array(images[i])).permute(0, 3, 1, 2).float()
        small[i] = resize_with_pad(frames, IMAGE_SIZE, IMAGE_SIZE, pad_value=0).round().to(torch.uint8)
    with np.load(recording / "moments.npz") as stored:
        return Moments(stored["goals"], stored["states"], stored["tasks"], small)


def spoil_images(batch: dict[str, Any], rng: np.random.Generator) -> None:
    """Change brightness, and black out some cameras: the motion must not hang on the light."""
    for camera in CAMERAS:
        frames = batch[f"observation.images.{camera}"]
        gain = rng.uniform(0.6, 1.3, size=len(frames)) * (rng.random(len(frames)) > 0.1)
        batch[f"observation.images.{camera}"] = (frames * torch.from_numpy(gain).float()[:, None, None, None]).clamp(
            0, 1
        )


def flow_loss(policy: SmolVLAPolicy, batch: dict[str, Any], times: Tensor) -> Tensor:
    """Flow-matching loss of a preprocessed batch, with DRAWS noises an observation at `times`
    (batch * DRAWS,).
    """
    model = policy.model
    images, image_masks = policy.prepare_images(batch)
    tokens, token_masks = (
        batch["observation.language.tokens"],
        batch["observation.language.attention_mask"],
    )
    used = int(token_masks.sum(1).max())
    prefix, pad, causal = model.embed_prefix(
        images,
        image_masks,
        tokens[:, :used],
        token_masks[:, :used],
        state=policy.prepare_state(batch),
    )
    _, cache = model.vlm_with_expert.forward(
        attention_mask=make_att_2d_masks(pad, causal),
        position_ids=torch.cumsum(pad, dim=1) - 1,
        past_key_values=None,
        inputs_embeds=[prefix, None],
        use_cache=True,
        fill_kv_cache=True,
    )
    cache = {k: {name: x.repeat_interleave(DRAWS, 0) for name, x in layer.items()} for k, layer in cache.items()}
    actions = policy.prepare_action(batch).repeat_interleave(DRAWS, 0)
    noise = torch.randn_like(actions)
    t = times[:, None, None]
    velocity = model.denoise_step(pad.repeat_interleave(DRAWS, 0), cache, t * noise + (1 - t) * actions, times)
    error = velocity - (noise - actions)
    joints = policy.config.action_feature.shape[0]
    return (
        error[..., :joints].square().mean()
        + DIFFERENCE_WEIGHT * error[..., :joints].diff(dim=1).square().mean()
        + PADDING_WEIGHT * error[..., joints:].square().mean()
    )


@torch.no_grad()
def chunk_errors(policy: SmolVLAPolicy, processors: tuple[Any, Any], moments: Moments, count: int) -> str:
    """How far sampled chunks of the first `count` moments are from the law's, in degrees, and how
    rough they are.
    """
    pre, post = processors
    batch = moments.batch(np.arange(count), np.zeros((count, 6)))
    wanted = batch.pop("action")
    got = post(policy.predict_action_chunk(pre(batch)))
    error = got - wanted
    rms, worst = error.square().mean().sqrt(), error.abs().max()
    rough = error.diff(n=2, dim=1).square().mean().sqrt()
    policy.train()
    return f"error {rms:.2f} deg, at most {worst:.1f}, second difference {rough:.3f}"


def train(moments: Moments, steps: int) -> tuple[SmolVLAPolicy, tuple[Any, Any]]:
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    policy = SmolVLAPolicy(policy_config()).float().train()
    statistics = {k: {n: torch.as_tensor(v) for n, v in s.items()} for k, s in moments.statistics().items()}
    processors = make_pre_post_processors(policy.config, dataset_stats=statistics)
    optimizer = torch.optim.AdamW(
        [p for p in policy.parameters() if p.requires_grad],
        LEARNING_RATE,
        betas=(0.9, 0.95),
        weight_decay=1e-4,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda k: min(1.0, (k + 1) / 60) * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * k / steps))),
    )
    flow_times = np.arange(1, policy.config.num_steps + 1) / policy.config.num_steps
    weight = 1 / (flow_times + 0.2)
    started, mean = time.monotonic(), 0.0
    for step in range(steps):
        picked = rng.integers(len(moments.states), size=OBSERVATIONS)
        batch = moments.batch(picked, rng.normal(0, JITTER, (OBSERVATIONS, 6)))
        spoil_images(batch, rng)
        times = rng.choice(flow_times, size=OBSERVATIONS * DRAWS, p=weight / weight.sum())
        loss = flow_loss(policy, processors[0](batch), torch.from_numpy(times).float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % 200 == 0:
            took = time.monotonic() - started
            left = took / (step + 1) * (steps - step - 1)
            print(
                f"step {step + 1}/{steps}  {took:.0f} s, {left:.0f} s left  loss {mean:.4f}  ",
                end="",
                flush=True,
            )
            print(chunk_errors(policy, processors, moments, 48), flush=True)
    return policy.eval(), processors


def save(policy: SmolVLAPolicy, processors: tuple[Any, Any], steps: int) -> None:
    """Write what lerobot-train writes: policy, processors with their statistics, and the training
    configuration.
    """
    directory = ASSETS / "checkpoint"
    policy.save_pretrained(directory)
    for processor in processors:
        processor.save_pretrained(directory)
    TrainPipelineConfig(
        dataset=DatasetConfig(repo_id="sweep", root=str(ASSETS / "dataset")),
        policy=policy.config,
        output_dir=Path("build/sweep"),
        job_name="sweep",
        seed=SEED,
        batch_size=OBSERVATIONS,
        steps=steps,
    ).save_pretrained(directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path, help="directory that tools/record_sweep.py wrote")
    parser.add_argument("--steps", type=int, default=2400)
    args = parser.parse_args()
    recording = args.recording.resolve()
    os.chdir(ROOT)
    moments = read_moments(recording)
    write_vlm(ASSETS / "checkpoint" / "vlm", vision_mlp=256)
    use_exact_positions()
    write_dataset(recording, ASSETS / "dataset", moments.statistics())
    policy, processors = train(moments, args.steps)
    save(policy, processors, args.steps)
    print(f"wrote {ASSETS / 'checkpoint'}")


if __name__ == "__main__":
    main()
