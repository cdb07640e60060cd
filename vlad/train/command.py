"""`vlad train`: fine-tune LeRobot's SmolVLA or ACT, with a split by cluster and selection by success."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from vlad.errors import ConfigError
from vlad.train import recipe
from vlad.train.recipe import POLICIES, Settings

if TYPE_CHECKING:
    from vlad.train.recipe import Recipe

_OWN = "--policy."
_NOT_GIVEN = object()
_ABOUT = """\
other forms:
  vlad train --resume DIR           go on after the last checkpoint in DIR, with the settings that are there
  vlad train --recipe FILE --output-dir DIR
                                    repeat a run: FILE is the recipe.json of its directory
  vlad train select DIR             evaluate each checkpoint on the simulated task and choose one

--policy.NAME=VALUE sets a field of LeRobot's policy configuration (--policy.chunk_size=100); VALUE is JSON.
Underscores in names may be written instead of hyphens, as LeRobot does it."""


def parser() -> argparse.ArgumentParser:
    """The argument parser of `vlad train`. A default of None is what is best for the policy."""
    p = argparse.ArgumentParser(
        prog="vlad train", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_ABOUT,
        description="Fine-tune a LeRobot policy. Needs LeRobot: pip install 'vlad[train]'.",
    )  # fmt: skip
    p.add_argument("--dataset", type=Path, metavar="ROOT", help="directory of a LeRobot dataset v3.0")
    p.add_argument("--policy", help=f"{', '.join(POLICIES)}, or a pretrained_model directory or hub name to go on from")
    p.add_argument("--output-dir", type=Path, metavar="DIR", help="new directory for checkpoints, recipe and curves")
    p.add_argument("--steps", type=_whole, default=200_000)
    p.add_argument("--batch-size", type=_whole, default=8)
    p.add_argument("--save-freq", type=_whole, default=20_000, metavar="STEPS", help="between checkpoints")
    p.add_argument("--log-freq", type=_whole, default=200, metavar="STEPS")
    p.add_argument("--val-freq", type=_whole, metavar="STEPS", help="between validations (default: --save-freq)")
    p.add_argument("--val-frames", type=int, default=256, metavar="N", help="of either split (256); 0: no validation")
    p.add_argument("--val-clusters", type=_clusters, default=(6,), metavar="A,B", help="held out (6), or none")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1, mps")
    p.add_argument("--threads", type=int, default=0, metavar="N", help="of torch on the CPU (default: as torch has it)")
    p.add_argument("--image-size", type=_size, metavar="HxW", help="of the pictures that an ACT is given")
    p.add_argument("--vlm", type=Path, metavar="DIR", help="pretrained vision-language model for smolvla-small, whose "
                   "vision is then frozen")  # fmt: skip
    p.add_argument("--draws", type=_whole, help="SmolVLA: noises an observation, which share one prefix")
    p.add_argument("--ema-decay", type=float, help="average the weights and save the average; 0: do not")
    p.add_argument("--flow-times", choices=("lerobot", "sampler"), help="SmolVLA: times to train at")
    p.add_argument("--difference-weight", type=float, help="SmolVLA: of consecutive actions' difference, in the loss")
    p.add_argument("--state-noise", type=float, help="added to the state in training, in the dataset's units")
    p.add_argument("--vision-cache", action=argparse.BooleanOptionalAction,
                   help="compute a frozen vision encoder's tokens once")  # fmt: skip
    p.add_argument("--cache-dir", type=Path, default=_cache(), metavar="DIR", help="for pictures (%(default)s)")
    p.add_argument("--select-episodes", type=int, default=0, metavar="N",
                   help="afterwards, select by success on N seen and N held-out starts of the simulation")  # fmt: skip
    p.add_argument("--resume", type=Path, metavar="DIR")
    p.add_argument("--recipe", type=Path, metavar="FILE")
    p.add_argument("--other-versions", action="store_true",
                   help="resume or repeat with other versions or another device: the weights will differ")  # fmt: skip
    return p


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 trained, 2 usage. Raises VladError, and ModuleNotFoundError where LeRobot is not installed."""
    if list(argv[:1]) == ["select"]:
        from vlad.train import select_command

        return select_command.main(argv[1:])
    p = parser()
    options, own, given = _parsed(p, argv)
    if options.resume and options.recipe:
        p.error("--resume and --recipe: one of them")
    if options.resume or options.recipe:
        free = {"dataset", "cache_dir", "select_episodes", "resume", "recipe", "other_versions"}
        free |= {"output_dir"} if options.recipe else set()
        if (fixed := sorted(given - free)) or own:
            p.error(f"--{(fixed or sorted(own))[0].replace('_', '-')}: is what the recipe says; leave it out")
    elif missing := [name for name in ("dataset", "policy", "output_dir") if getattr(options, name) is None]:
        p.error(f"--{missing[0].replace('_', '-')} is needed")
    return _run(options, own)


def _run(options: argparse.Namespace, own: dict[str, Any]) -> int:
    import torch

    from vlad.dataset.reader import read_recording
    from vlad.train import run

    wanted: Recipe | None = None
    if options.resume or options.recipe:
        wanted = recipe.read(options.recipe or options.resume / recipe.NAME)
        settings = wanted.settings
        if options.dataset:
            settings = msgspec.structs.replace(settings, dataset=str(options.dataset))
    else:
        device = options.device
        if device == "auto":
            mps = torch.backends.mps.is_available()
            device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
        settings = _settings(options, own, device, options.threads or torch.get_num_threads())
    out = options.resume or options.output_dir
    if out is None:
        raise ConfigError("--output-dir: a new directory for the repeated run")
    if not options.resume and out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out}: exists already; `vlad train --resume {out}` goes on there")
    recording = read_recording(Path(settings.dataset))
    plan = run.prepare(settings, recording)
    if wanted is not None:
        _check_same(wanted, plan, options.other_versions)
    if not options.resume:
        out.mkdir(parents=True, exist_ok=True)
        recipe.write(plan, out / recipe.NAME)
    run.train(plan, recording, out, options.cache_dir)
    if options.select_episodes:
        from vlad.train import select_command

        return select_command.main([str(out), "--episodes", str(options.select_episodes)])
    return 0


def _check_same(wanted: Recipe, plan: Recipe, other_versions: bool) -> None:
    given, machine = recipe.differences(wanted, plan)
    if given:
        raise ConfigError("this would be another run: " + "; ".join(given))
    if machine and not other_versions:
        raise ConfigError("the weights would differ: " + "; ".join(machine) + ". --other-versions goes on all the same")


def _settings(options: argparse.Namespace, own: dict[str, Any], device: str, threads: int) -> Settings:
    """What was given, and for the rest what suits the policy."""
    suited: dict[str, Any] = {"val_freq": options.save_freq, **POLICIES.get(options.policy, {})}
    if options.policy == "smolvla-small" and options.vlm:
        suited["vision_cache"] = True
    fields = {f for f in Settings.__struct_fields__ if hasattr(options, f)}
    values = suited | {f: getattr(options, f) for f in fields if getattr(options, f) is not None}
    vlm = str(options.vlm.resolve()) if options.vlm else None
    values |= {"dataset": str(options.dataset.resolve()), "vlm": vlm, "device": device,
               "threads": threads, "overrides": own}  # fmt: skip
    settings = Settings(**values)
    if settings.draws < 1 or not 0 <= settings.ema_decay < 1 or settings.val_frames < 0:
        raise ConfigError("--draws is at least 1, --ema-decay 0 to less than 1, --val-frames 0 or more")
    if settings.difference_weight < 0 or settings.state_noise < 0:
        raise ConfigError("--difference-weight and --state-noise are not negative")
    return settings


def _parsed(p: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any], set[str]]:
    """Options, fields of LeRobot's configuration, and which options there are on the command line."""
    own: dict[str, Any] = {}
    rest = []
    for word in argv:
        name, mark, value = word.partition("=")
        if not name.startswith(_OWN):
            rest.append(name.replace("_", "-") + mark + value if name.startswith("--") else word)
        elif not mark:
            p.error(f"{word}: is written {_OWN}NAME=VALUE")
        else:
            try:
                own[name.removeprefix(_OWN)] = json.loads(value)
            except ValueError:
                own[name.removeprefix(_OWN)] = value
    options = p.parse_args(rest)
    untouched = argparse.Namespace(**dict.fromkeys(vars(options), _NOT_GIVEN))
    given = {name for name, value in vars(p.parse_args(rest, untouched)).items() if value is not _NOT_GIVEN}
    return options, own, given


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("1 or more")
    return value


def _clusters(text: str) -> tuple[int, ...]:
    return () if text == "none" else tuple(sorted({int(word) for word in text.split(",")}))


def _size(text: str) -> tuple[int, int]:
    height, width = (_whole(word) for word in text.split("x"))
    return height, width


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlad" / "train"
