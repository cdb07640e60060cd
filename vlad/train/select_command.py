"""`vlad train select DIR`: success of each checkpoint on seen and on held-out starts, and which one to take."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec

from vlad.dataset.reader import read_recording
from vlad.errors import ConfigError
from vlad.train import recipe, selection
from vlad.train.selection import Row, Score, Setting
from vlad.whole_file import write_whole

TABLE, BEST = "selection.json", "best"


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 one is chosen, 2 usage. Raises ConfigError, BundleError."""
    p = argparse.ArgumentParser(
        prog="vlad train select", description="Evaluate each checkpoint of a run and choose one by success: by the "
        "lower of the two 95 % lower bounds (Wilson) of its success rates on training and on held-out starts.",
    )  # fmt: skip
    p.add_argument("run", type=Path, metavar="DIR", help="output directory of vlad train")
    p.add_argument("--episodes", type=int, default=50, metavar="N", help="on training starts and on held-out ones (50)")
    p.add_argument("--task", action="append", choices=("mug", "plate"), help="of the simulation (default: mug)")
    p.add_argument("--seed", type=int, default=1, help="of the starts, the same for each checkpoint")
    p.add_argument("--actions", type=int, default=0, metavar="N", help="of a chunk before the next (n_action_steps)")
    p.add_argument("--from-step", type=int, default=0, metavar="STEP", help="leave earlier checkpoints out")
    p.add_argument("--device", help="default: that of the training")
    p.add_argument("--evaluate", default=selection.ROLLOUT, metavar="MODULE:FUNCTION", help="default: %(default)s")
    options = p.parse_args(argv)
    if options.episodes < 1 or options.actions < 0:
        p.error("--episodes is at least 1, --actions 0 or more")

    from vlad.train import checkpoint

    plan = recipe.read(options.run / recipe.NAME)
    settings = plan.settings
    recording = read_recording(Path(settings.dataset))
    found = {step: path / checkpoint.MODEL for step, path in checkpoint.whole(options.run).items()
             if step >= options.from_step}  # fmt: skip
    if not found:
        raise ConfigError(f"{options.run}: has no checkpoint yet")
    height, width, _ = recording.info["features"][recording.dataset.cameras[0]]["shape"]
    setting = Setting((height, width), settings.image_size, options.actions, options.device or settings.device)
    trained = sorted({e.cluster for e in recording.episodes
                      if e.index in plan.train_episodes and e.cluster is not None})  # fmt: skip
    if not trained:
        raise ConfigError(f"{recording.path}: says of no episode in which cluster it begins")
    tasks = options.task or ["mug"]
    seen = selection.attempts(tasks, trained, options.episodes, options.seed)
    held_out = selection.attempts(tasks, settings.val_clusters, options.episodes, options.seed)
    print(f"{'step':>9}  {'training starts':>28}  {'held-out starts':>28}  worst bound", flush=True)
    rows = selection.evaluated(found, selection.named(options.evaluate), seen, held_out, setting=setting, tell=_tell)
    chosen = selection.best(rows)
    table = {"chosen": chosen.step, "rule": "highest lower bound of both success rates", "clusters": trained,
             "val_clusters": settings.val_clusters, "tasks": tasks, "seed": options.seed,
             "evaluate": options.evaluate, "checkpoints": rows}  # fmt: skip
    write_whole(options.run / TABLE, msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")
    checkpoint.point(options.run, BEST, found[chosen.step].parent)
    print(f"chosen: step {chosen.step}, {options.run}/checkpoints/{BEST} (the highest worst bound; of equal ones the "
          "earliest)")  # fmt: skip
    return 0


def _tell(row: Row) -> None:
    print(f"{row.step:>9}  {_cell(row.training):>28}  {_cell(row.held_out):>28}  {row.worst:.2f}", flush=True)


def _cell(score: Score | None) -> str:
    if score is None:
        return "none"
    return f"{score.successes}/{score.episodes} ({score.low:.2f} .. {score.high:.2f})"
