"""Lets LeRobot itself write an ACT checkpoint, its dataset's metadata, the chunks that it computes, and what
its temporal ensembler makes of chunks.

    python make_act_checkpoint.py OUT --size small --frames 96x128,96x128

Runs in an environment with LeRobot as its users install it (`pip install 'lerobot[smolvla]==0.4.4'`),
offline. Writes

    OUT/checkpoint/   what save_pretrained of policy, pre- and post-processor write
    OUT/dataset/meta  what LeRobotDatasetMetadata writes
    OUT/reference.npz observations and, for each case, the first camera's normalised pixels and LeRobot's
                      chunk: `chunk` in degrees, `normalised_chunk`; and `ensemble_chunks` [steps, chunk, 6]
                      with `ensemble_C` [steps, 6], what ACTTemporalEnsembler of coefficient C answers

All sizes but `full` have a backbone of the same layers with an eighth of its channels: torchvision's
holds 11 million numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torchvision
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy, ACTTemporalEnsembler
from lerobot.policies.factory import make_pre_post_processors
from make_checkpoint import TASKS, observation, statistics, write_dataset
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

NAMES = ("top", "gripper", "left", "right")
COEFFICIENTS = (0.01, 0.0, -0.2, 0.7)
LAYERS = {"resnet18": [2, 2, 2, 2], "resnet34": [3, 4, 6, 3]}


class ThinResNet(ResNet):
    """torchvision's ResNet with an eighth of the channels."""

    def __init__(self, layers: list[int], norm_layer: type[nn.Module], dilate: list[bool]) -> None:
        super().__init__(BasicBlock, layers, replace_stride_with_dilation=dilate, norm_layer=norm_layer)
        self.inplanes = 8
        self.conv1 = nn.Conv2d(3, 8, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm_layer(8)
        self.layer1 = self._make_layer(BasicBlock, 8, layers[0])
        for stage, width in ((2, 16), (3, 32), (4, 64)):
            setattr(self, f"layer{stage}", self._make_layer(BasicBlock, width, layers[stage - 1], stride=2))
        self.fc = nn.Linear(64, 10)


def thin(name: str):
    """A stand-in for torchvision.models.NAME."""

    def make(replace_stride_with_dilation, weights, norm_layer):
        assert weights is None
        return ThinResNet(LAYERS[name], norm_layer, replace_stride_with_dilation)

    return make


def sharpen(policy: ACTPolicy, generator: torch.Generator) -> None:
    """Unit gain everywhere, so that attention is far from uniform and a wrong position or a wrong border
    shows; batch normalisation that is none of the identity.
    """
    for name, tensor in [*policy.named_parameters(), *policy.named_buffers()]:
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("pos_enc"):
            continue
        if name.endswith("running_var"):
            values = 0.5 + torch.rand(tensor.shape, generator=generator)
        elif tensor.ndim == 4:
            gain = 0.5 if ".conv2." in name else 1.4
            values = noise * gain / tensor[0].numel() ** 0.5
        elif tensor.ndim == 2:
            values = noise * (0.9 if "pos_embed" in name else 1.3 / tensor.shape[1] ** 0.5)
        else:
            is_scale = name.endswith("weight")  # of a normalisation: nothing else has one dimension
            values = noise * 0.15 + (1.0 if is_scale else 0.0)
        tensor.data.copy_(values)


def pixel_statistics(generator: np.random.Generator) -> dict[str, np.ndarray]:
    shape = (3, 1, 1)
    return {
        "mean": generator.uniform(0.3, 0.6, shape).astype(np.float32),
        "std": generator.uniform(0.15, 0.3, shape).astype(np.float32),
        "min": np.zeros(shape, np.float32),
        "max": np.ones(shape, np.float32),
        "count": np.array([900]),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=("full", "small", "tiny"), default="small")
    parser.add_argument("--frames", default="96x128", help="height x width of each camera, in policy order")
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chunk", type=int, help="chunk_size")
    parser.add_argument("--actions", type=int, help="n_action_steps")
    parser.add_argument("--ensemble", type=float, help="temporal_ensemble_coeff")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--encoder-layers", type=int, default=2)
    parser.add_argument("--decoder-layers", type=int, default=1)
    parser.add_argument("--activation", default="relu")
    parser.add_argument("--pre-norm", action="store_true")
    parser.add_argument("--no-vae", action="store_true")
    parser.add_argument("--min-max", action="store_true", help="normalise state and actions by their range")
    parser.add_argument("--raw-pixels", action="store_true", help="do not normalise the images")
    return parser.parse_args()


def configuration(args: argparse.Namespace, frames: list[tuple[int, int]]) -> ACTConfig:
    chunk = args.chunk or (100 if args.size == "full" else 8)
    vector = NormalizationMode.MIN_MAX if args.min_max else NormalizationMode.MEAN_STD
    visual = NormalizationMode.IDENTITY if args.raw_pixels else NormalizationMode.MEAN_STD
    thin_sizes = {"small": (64, 4, 96), "tiny": (32, 4, 48)}
    dim, heads, feedforward = (512, 8, 3200) if args.size == "full" else thin_sizes[args.size]
    return ACTConfig(
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (6,))}
        | {
            f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, height, width))
            for name, (height, width) in zip(NAMES, frames, strict=False)
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
        normalization_mapping={"VISUAL": visual, "STATE": vector, "ACTION": vector},
        device="cpu",
        chunk_size=chunk,
        n_action_steps=1 if args.ensemble is not None else args.actions or chunk,
        temporal_ensemble_coeff=args.ensemble,
        vision_backbone=args.backbone,
        pretrained_backbone_weights=None,
        pre_norm=args.pre_norm,
        dim_model=dim,
        n_heads=heads,
        dim_feedforward=feedforward,
        feedforward_activation=args.activation,
        n_encoder_layers=4 if args.size == "full" else args.encoder_layers,
        n_decoder_layers=args.decoder_layers,
        use_vae=not args.no_vae,
        latent_dim=32 if args.size == "full" else 8,
        n_vae_encoder_layers=4 if args.size == "full" else 1,
    )


def batch_of(saved: dict[str, np.ndarray], case: int, names: list[str]) -> dict[str, torch.Tensor]:
    """One observation as LeRobot's pre-processor takes it."""
    batch = {"observation.state": torch.from_numpy(saved[f"state_{case}"])}
    for camera, name in enumerate(names):
        batch[name] = torch.from_numpy(saved[f"image{camera}_{case}"]).permute(2, 0, 1).float() / 255
    return batch


def ensembles(generator: np.random.Generator, chunk: int) -> dict[str, np.ndarray]:
    """Chunks, one a step, and what LeRobot's ensembler answers at each."""
    chunks = np.cumsum(generator.normal(0, 0.01, (3 * chunk, chunk, 6)), axis=1).astype(np.float32)
    made: dict[str, np.ndarray] = {"ensemble_chunks": chunks}
    for coefficient in COEFFICIENTS:
        ensembler = ACTTemporalEnsembler(coefficient, chunk)
        answers = [ensembler.update(torch.from_numpy(actions)[None])[0].numpy() for actions in chunks]
        made[f"ensemble_{coefficient}"] = np.stack(answers)
    return made


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(args.seed)
    frames = [tuple(int(n) for n in size.split("x")) for size in args.frames.split(",")]
    if args.size != "full":
        setattr(torchvision.models, args.backbone, thin(args.backbone))
    torch.manual_seed(args.seed)
    config = configuration(args, frames)
    policy = ACTPolicy(config).eval()
    sharpen(policy, torch.Generator().manual_seed(args.seed))
    names = list(config.image_features)
    stats = statistics(generator)
    write_dataset(args.out / "dataset", names, stats)
    stats |= {name: pixel_statistics(generator) for name in names}
    tensors = {k: {n: torch.from_numpy(np.asarray(v)) for n, v in s.items()} for k, s in stats.items()}
    pre, post = make_pre_post_processors(config, dataset_stats=tensors)
    for part in (policy, pre, post):
        part.save_pretrained(args.out / "checkpoint")

    saved: dict[str, np.ndarray] = {}
    for case in range(args.cases):
        made = {"state": observation(0, case, frames, generator)["state"]}
        for camera, size in enumerate(frames):
            made[f"image{camera}"] = observation(1, case, [size], generator)["image0"]
        saved |= {f"{key}_{case}": value for key, value in made.items()} | {f"task_{case}": np.array(TASKS[0])}
        batch = pre(batch_of(saved, case, names))
        with torch.inference_mode():
            actions = policy.predict_action_chunk(batch)
        if args.size != "full":
            saved[f"pixels_{case}"] = batch[names[0]][0].numpy()
        saved[f"normalised_chunk_{case}"] = actions[0].numpy()
        saved[f"chunk_{case}"] = post(actions)[0].numpy()
    if args.size != "full":
        saved |= ensembles(generator, config.chunk_size)
    np.savez_compressed(args.out / "reference.npz", **saved)


if __name__ == "__main__":
    main()
