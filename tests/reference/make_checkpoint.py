"""Lets LeRobot itself write a SmolVLA checkpoint, its dataset's metadata, and the chunks it
computes from them.

    python make_checkpoint.py OUT --size small --cameras 2

Runs in an environment with LeRobot as its users install it (`pip install
'lerobot[smolvla]==0.4.4'`, or 'lerobot[smolvla,dataset]' of the newest), offline. Writes

    OUT/checkpoint/   what save_pretrained of policy, pre- and post-processor write
    OUT/dataset/meta  what LeRobotDatasetMetadata writes
    OUT/vlm/          the vision-language model's configuration and tokenizer
    OUT/reference.npz observations, the first camera's prepared pixels, noise and, for each case,
                      LeRobot's chunk (in degrees, and normalised): `chunk` in float32, `mixed` in
                      the dtypes LeRobot runs by default, `defect` in float32 with the position
                      ids of transformers 4.55.1 to 4.57 (huggingface/transformers issue 41190)
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import numpy as np
import torch
import transformers
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata

try:
    from lerobot.datasets.utils import write_stats
except ImportError:  # since 0.6
    from lerobot.datasets.io_utils import write_stats
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from seeded_weights import seeded
from stub_vlm import write_vlm
from transformers.models.smolvlm import modeling_smolvlm

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
TASKS = ("wave", "put the tea bag in the mug, slowly")
FPS = 30


def ordered_positions(self, pixel_values, patch_attention_mask):
    """Vision embeddings with the position ids that bfloat16 and transformers 5 compute."""
    embedded = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
    patches, side = embedded.shape[-1], self.num_patches_per_side
    axis = torch.arange(patches) * side // patches
    ids = (axis[:, None] * side + axis[None]).flatten()
    return embedded.flatten(2).transpose(1, 2) + self.position_embedding.weight[ids][None]


def statistics(generator: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """Plausible statistics in degrees (gripper 0..100)."""
    stats = {}
    for feature in ("observation.state", "action"):
        mean = np.append(generator.uniform(-40, 40, 5), 35.0).astype(np.float32)
        std = np.append(generator.uniform(8, 25, 5), 20.0).astype(np.float32)
        low, high = mean - 2.1 * std, mean + 2.2 * std
        low[5], high[5] = 0.4, 99.0
        stats[feature] = {
            "mean": mean,
            "std": std,
            "min": low,
            "max": high,
            "count": np.array([900]),
            "q01": low + 0.1 * std,
            "q10": mean - 1.2 * std,
            "q90": mean + 1.3 * std,
            "q99": high - 0.1 * std,
        }
    return stats


def sharpen(policy: SmolVLAPolicy, generator: torch.Generator) -> None:
    """Give every tensor unit gain, so that attention is far from uniform and a wrong mask or
    position shows.
    """
    for name, parameter in policy.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim >= 2:
            fan_in = parameter[0].numel() if "embed_tokens" not in name else parameter.shape[1]
            values = noise * (0.9 if "position_embedding" in name else 1.3 / fan_in**0.5)
        else:
            values = noise * 0.15 + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        parameter.data.copy_(values)


def observation(
    cameras: int, case: int, frames: list[tuple[int, int]], generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Smooth frames with some noise, and joint positions in degrees."""
    made = {}
    for camera in range(cameras):
        height, width = frames[(camera + case) % len(frames)]
        y, x = np.mgrid[0:height, 0:width]
        waves = [np.sin(generator.uniform(0, 0.1) * x + generator.uniform(0, 0.1) * y + k + case) for k in range(3)]
        frame = 127 + 90 * np.stack(waves, -1) + generator.normal(0, 12, (height, width, 3))
        made[f"image{camera}"] = frame.clip(0, 255).astype(np.uint8)
    made["state"] = np.append(generator.uniform(-60, 60, 5), generator.uniform(5, 95)).astype(np.float32)
    return made


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=("full", "small", "tiny"), default="small")
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--mixed", action="store_true", help="save LeRobot's own mixed dtypes")
    parser.add_argument("--sharp", action="store_true", help="unit gain for the full size as well")
    parser.add_argument("--subsets", action="store_true", help="case i: the first i + 1 cameras")
    parser.add_argument("--frames", default="480x640,240x320,100x60", help="frame sizes, in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="a setting of SmolVLAConfig")
    parser.add_argument("--normalise", default="MEAN_STD", help="state and action")
    parser.add_argument("--seeded", action="store_true", help="weights made of their names: write shapes alone")
    parser.add_argument("--checkpoint", type=Path, help="use this one and write reference.npz only")
    parser.add_argument("--task", action="append", help="tasks of the cases, in turn")
    return parser.parse_args()


def configuration(args: argparse.Namespace, cameras: list[str]) -> SmolVLAConfig:
    size = args.size
    side = {"full": 512, "small": 64, "tiny": 32}[size]
    actions = 50 if size == "full" else 8
    settings = dict(
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (6,))}
        | {name: PolicyFeature(FeatureType.VISUAL, (3, 256, 256)) for name in cameras},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
        vlm_model_name=str(args.out / "vlm"),
        load_vlm_weights=False,
        device="cpu",
        pad_language_to="max_length",
        prefix_length=0,
        num_expert_layers=0,
        num_vlm_layers={"full": 16, "small": 4, "tiny": 3}[size],
        resize_imgs_with_padding=(side, side),
        chunk_size=actions,
        n_action_steps=actions,
        expert_width_multiplier=0.5 if size == "tiny" else 0.75,
    )
    vector = NormalizationMode[args.normalise]
    settings["normalization_mapping"] = {"VISUAL": NormalizationMode.IDENTITY, "STATE": vector, "ACTION": vector}
    for setting in args.set:
        key, value = setting.split("=", 1)
        settings[key] = json.loads(value)
    return SmolVLAConfig(**settings)


def write_dataset(root: Path, cameras: list[str], stats: dict[str, dict[str, np.ndarray]]) -> None:
    vector = {"dtype": "float32", "shape": (6,), "names": [f"{j}.pos" for j in JOINTS]}
    image = {"dtype": "video", "shape": (480, 640, 3), "names": ["height", "width", "channels"]}
    meta = LeRobotDatasetMetadata.create(
        "local/reference",
        fps=FPS,
        features={"observation.state": vector, "action": vector} | dict.fromkeys(cameras, image),
        robot_type="so101_follower",
        root=root,
    )
    meta.save_episode_tasks(list(TASKS))
    write_stats(stats, root)


def batch_of(saved: dict[str, np.ndarray], case: int, cameras: list[str]) -> dict[str, object]:
    """One observation as LeRobot's pre-processor takes it; a camera without a frame is left out."""
    batch = {
        "observation.state": torch.from_numpy(saved[f"state_{case}"]),
        "task": str(saved[f"task_{case}"]),
    }
    for camera, name in enumerate(cameras):
        frame = saved.get(f"image{camera}_{case}")
        if frame is not None:
            batch[name] = torch.from_numpy(frame).permute(2, 0, 1).float() / 255
    return batch


def create(args: argparse.Namespace, generator: np.random.Generator) -> tuple[SmolVLAPolicy, object, object]:
    """A new policy with its processors, saved with its dataset's metadata."""
    write_vlm(args.out / "vlm", args.size)
    names = [f"observation.images.camera{i + 1}" for i in range(args.cameras)]
    torch.manual_seed(args.seed)
    config = configuration(args, names)
    policy = SmolVLAPolicy(config).eval()
    if args.seeded:
        for name, parameter in policy.named_parameters():
            parameter.data = torch.from_numpy(seeded(name, tuple(parameter.shape)))
    elif args.size != "full" or args.sharp:
        sharpen(policy, torch.Generator().manual_seed(args.seed))
    if not args.mixed:
        policy = policy.float()
    stats = statistics(generator)
    write_dataset(args.out / "dataset", names, stats)
    tensors = {k: {n: torch.from_numpy(np.asarray(v)) for n, v in s.items()} for k, s in stats.items()}
    pre, post = make_pre_post_processors(config, dataset_stats=tensors)
    for part in (policy, pre, post):
        part.save_pretrained(args.out / "checkpoint")
    return policy, pre, post


def load(checkpoint: Path) -> tuple[SmolVLAPolicy, object, object]:
    """A checkpoint that exists, with its language model in its own `vlm` directory."""
    config = PreTrainedConfig.from_pretrained(checkpoint)
    config.vlm_model_name = str(checkpoint / "vlm")
    policy = SmolVLAPolicy.from_pretrained(checkpoint, config=config).eval().float()
    tokenizer = {"tokenizer_processor": {"tokenizer_name": config.vlm_model_name}}
    pre, post = make_pre_post_processors(config, pretrained_path=str(checkpoint), preprocessor_overrides=tokenizer)
    return policy, pre, post


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(args.seed)
    policy, pre, post = load(args.checkpoint) if args.checkpoint else create(args, generator)
    names = [name for name in policy.config.image_features if ".empty_camera_" not in name]
    tasks = args.task or TASKS
    saved: dict[str, np.ndarray] = {}
    frames = [tuple(int(n) for n in size.split("x")) for size in args.frames.split(",")]
    shape = (policy.config.chunk_size, policy.config.max_action_dim)
    for case in range(args.cases):
        cameras = min(case + 1, len(names)) if args.subsets else len(names)
        made = observation(cameras, case, frames, generator)
        made["task"] = np.array(tasks[case % len(tasks)])
        made["noise"] = generator.standard_normal(shape, dtype=np.float32)
        saved |= {f"{key}_{case}": value for key, value in made.items()}

    def run(kind: str) -> None:
        for case in range(args.cases):
            batch = pre(batch_of(saved, case, names))
            policy.reset()
            if args.size != "full":
                pixels = policy.prepare_images(dict(batch))[0][0]
                saved[f"pixels_{case}"] = pixels[0].float().numpy()
            started = time.perf_counter()
            noise = torch.from_numpy(saved[f"noise_{case}"])[None]
            actions = policy.predict_action_chunk(batch, noise=noise)
            print(f"case {case} {kind}: {time.perf_counter() - started:.2f} s", flush=True)
            saved[f"normalised_{kind}_{case}"] = actions[0].float().numpy()
            saved[f"{kind}_{case}"] = post(actions).float().numpy()[0]

    embeddings = modeling_smolvlm.SmolVLMVisionEmbeddings
    own, is_defective = embeddings.forward, transformers.__version__.startswith("4.")
    if is_defective:
        embeddings.forward = ordered_positions
    if args.mixed:
        run("mixed")
        policy = policy.float()
    run("chunk")
    if args.size != "full" and is_defective:
        embeddings.forward = own
        run("defect")
    if args.seeded:
        keep_shapes(args.out, policy)
        left_out = ("defect", "normalised_defect", "pixels")
        saved = {name: values for name, values in saved.items() if not name.startswith(left_out)}
    np.savez_compressed(args.out / "reference.npz", **saved)


def keep_shapes(out: Path, policy: SmolVLAPolicy) -> None:
    """Of a checkpoint whose weights anybody can make: their names and shapes; no language model either."""
    shapes = {name: list(tensor.shape) for name, tensor in policy.state_dict().items()}
    (out / "checkpoint/shapes.json").write_text(json.dumps(shapes))
    (out / "checkpoint/model.safetensors").unlink()
    shutil.rmtree(out / "vlm")


if __name__ == "__main__":
    main()
