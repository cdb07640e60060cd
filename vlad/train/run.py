"""One training run: LeRobot's update step, over batches that depend on seed and step alone."""

from __future__ import annotations

import contextlib
import fcntl
import platform
import time
from collections.abc import Iterator
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.optim.factory import make_optimizer_and_scheduler
from lerobot.scripts.lerobot_train import update_policy
from lerobot.utils.logging_utils import AverageMeter, MetricsTracker
from lerobot.utils.random_utils import set_seed

import vlad
from vlad.build.safetensors import sha256
from vlad.dataset.reader import Recording
from vlad.errors import ConfigError
from vlad.train import checkpoint, policies, recipe, vision_cache
from vlad.train.curves import Curves
from vlad.train.frame_cache import frames
from vlad.train.objective import Objective
from vlad.train.recipe import Recipe, Settings
from vlad.train.samples import Samples
from vlad.train.split import Order, by_cluster, rows_of
from vlad.train.validation import Validation

_VERSIONS = ("lerobot", "torch", "torchvision", "transformers", "safetensors", "numpy", "av", "tokenizers")
_HELD_OUT, _SEEN = "validation", "training"


def prepare(settings: Settings, recording: Recording) -> Recipe:
    """The recipe of a run that is about to begin. Raises ConfigError, BundleError."""
    training, validation = by_cluster(recording, settings.val_clusters)
    sources = {}
    for what, directory in (("policy", Path(settings.policy)), ("vlm", Path(settings.vlm or ""))):
        if (directory / policies.WEIGHTS).is_file():
            sources[what] = sha256(directory / policies.WEIGHTS)
    versions = {"vlad": vlad.__version__, "python": platform.python_version()}
    versions |= {name: packages.version(name) for name in _VERSIONS}
    on_gpu = settings.device.startswith("cuda")
    return Recipe(
        settings=settings, dataset_sha256=recipe.tree_sha256(recording.path), frames=recording.frames,
        train_episodes=tuple(e.index for e in training), val_episodes=tuple(e.index for e in validation),
        sources=sources, versions=versions,
        device_name=torch.cuda.get_device_name() if on_gpu else f"{settings.device} {platform.machine()}",
    )  # fmt: skip


def train(plan: Recipe, recording: Recording, out: Path, cache: Path) -> None:
    """Train in `out`, which holds the recipe, from the last checkpoint there is. Returns after the last step.

    Raises ConfigError, BundleError, DatasetError; what was saved before stays whole.
    """
    settings = plan.settings
    with _alone(out):
        checkpoint.remove_partial(out)
        torch.set_num_threads(settings.threads)
        set_seed(settings.seed)
        config = policies.configuration(settings, recording, out.resolve() / "vlm")
        meta = policies.metadata(recording)
        made = policies.make(config, settings, meta)
        samples = _samples(plan, recording, made, cache)
        pipeline = _pipeline(plan, config, out)
        rest = make_optimizer_and_scheduler(pipeline, made.policy)
        objective = Objective(made.policy, settings)
        if saved := checkpoint.whole(out):
            checkpoint.resume(saved[max(saved)], objective, made, *rest)
            print(f"resumed after step {objective.steps}", flush=True)
        _steps(settings, pipeline, objective, made, *rest, samples=samples)


def _samples(plan: Recipe, recording: Recording, made: policies.Made, cache: Path) -> Samples:
    config = made.policy.config
    size = policies.picture_size(config, plan.settings)
    cameras = tuple(config.image_features)
    views: Any = frames(recording, cameras, size, plan.dataset_sha256, cache)
    if plan.settings.vision_cache:
        if config.type != "smolvla":
            raise ConfigError("--vision-cache: an ACT trains its vision encoder")
        views = vision_cache.tokens(made.policy, views, f"{plan.dataset_sha256[:16]}-{size.name}", cache)
        vision_cache.accept_tokens(made.policy)
    return Samples(recording, views, config.chunk_size)


def _pipeline(plan: Recipe, config: Any, out: Path) -> TrainPipelineConfig:
    """LeRobot's configuration of the run; train_config.json of each checkpoint."""
    settings = plan.settings
    dataset = DatasetConfig(
        repo_id=Path(settings.dataset).resolve().name, root=settings.dataset, episodes=list(plan.train_episodes)
    )
    pipeline = TrainPipelineConfig(
        dataset=dataset, policy=config, output_dir=out, job_name=out.name, seed=settings.seed, num_workers=0,
        batch_size=settings.batch_size, steps=settings.steps, eval_freq=0, log_freq=settings.log_freq,
        save_freq=settings.save_freq,
    )  # fmt: skip
    pipeline.optimizer, pipeline.scheduler = config.get_optimizer_preset(), config.get_scheduler_preset()
    return pipeline


def _steps(
    settings: Settings, pipeline: TrainPipelineConfig, objective: Objective, made: policies.Made, *rest: Any,
    samples: Samples,
) -> None:  # fmt: skip
    out, step = pipeline.output_dir, objective.steps
    curves = Curves(out, step)
    recording = samples.recording
    training, held_out = by_cluster(recording, settings.val_clusters)
    rows = rows_of(training)
    order = Order(rows, settings.batch_size, settings.seed)
    splits = {_SEEN: rows, _HELD_OUT: rows_of(held_out)}
    validation = Validation(samples, splits, settings.val_frames, settings.batch_size)
    accelerator = Accelerator(cpu=settings.device == "cpu", step_scheduler_with_optimizer=False, mixed_precision="no")
    shown = {"loss": ":.3f", "grad_norm": ":.3f", "lr": ":0.1e", "update_s": ":.3f"}
    meters = {name: AverageMeter(name, form) for name, form in shown.items()}
    metrics = MetricsTracker(settings.batch_size, len(rows), len(training), meters, step, accelerator)
    begun, first = time.monotonic(), step
    print(f"{len(training)} episodes to train on, {len(held_out)} held out; "
          f"{sum(p.numel() for p in made.policy.parameters() if p.requires_grad):,} of "
          f"{sum(p.numel() for p in made.policy.parameters()):,} parameters are trained", flush=True)  # fmt: skip
    while step < settings.steps:
        batch = samples.batch(order.step(step))
        if settings.state_noise:
            state = batch["observation.state"]
            batch["observation.state"] = state + settings.state_noise * torch.randn_like(state)
        update_policy(metrics, objective, made.before(batch), rest[0], pipeline.optimizer.grad_clip_norm, accelerator,
                      lr_scheduler=rest[1])  # fmt: skip
        step += 1
        last = step == settings.steps
        if not torch.isfinite(torch.tensor(metrics.metrics["loss"].val)):
            raise ConfigError(f"the loss of step {step} is not finite; a lower learning rate may help: "
                              "--policy.optimizer_lr")  # fmt: skip
        if step % settings.log_freq == 0 or last:
            curves.training.append({"step": step} | {n: meters[n].avg for n in ("loss", "grad_norm", "lr")})
            each_s = (time.monotonic() - begun) / (step - first)
            print(f"step {step}/{settings.steps}  loss {meters['loss'].avg:.4f}  {each_s:.2f} s a step, "
                  f"{(settings.steps - step) * each_s / 60:.0f} min left", flush=True)  # fmt: skip
            metrics.reset_averages()
        if step % settings.val_freq == 0 or last:
            losses = validation.losses(made, objective)
            curves.validation.append({"step": step, **losses})
            print(f"step {step}  " + "  ".join(f"{k} loss {v:.4f}" for k, v in losses.items()), flush=True)
        if step % settings.save_freq == 0 or last:
            curves.write()  # first: what is beyond the last checkpoint is forgotten by who resumes
            saved = checkpoint.save(out, pipeline, objective, made, *rest)
            curves.plot()
            print(f"step {step}  saved {saved}", flush=True)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{out}: another vlad train is at work there") from None
        yield
