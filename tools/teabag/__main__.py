"""python -m tools.teabag DIRECTORY [--set NAME=VALUE ...]

Makes the tea bag policy from nothing: DIRECTORY/checkpoint and DIRECTORY/dataset, for `vlad build`. Run again, it goes
on with what is not there yet. Run it where LeRobot 0.4.4 is installed; `make teabag-policy` does.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from functools import partial
from pathlib import Path

from tools.teabag.places import Places
from tools.teabag.settings import Settings, changed
from vlad.errors import VladError


def main(argv: list[str] | None = None) -> int:
    about, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(usage=about, description=rest)
    parser.add_argument("directory", type=Path, help="what is made goes there: some 8 GB, most of it pictures")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="words",
                        help=f"of {', '.join(Settings.__struct_fields__)}")  # fmt: skip
    args = parser.parse_args(argv)
    try:
        make(args.directory, changed(args.words))
    except VladError as error:
        print(f"teabag: {error}", file=sys.stderr)
        return 1
    return 0


def make(out: Path, settings: Settings) -> None:
    """All stages, in `out`. Raises VladError, and what a stage raises."""
    from tools.teabag import expert_episodes, export, motion, policy, rollins, vision
    from tools.teabag.peers import together
    from tools.teabag.run import Run

    run, places, count = Run(out, settings), Places(out, settings), settings.processes
    policy.write_backbone(places.vlm)
    if not all(shard.exists() for shard in places.expert):
        together(count, expert_episodes.record, places)
    run.note("expert", _digest(places.expert))
    run.stage("vision", places.vision, lambda: together(count, vision.train, places))
    if not all((shard / f"{places.tokens}.npy").exists() for shard in places.expert):
        together(count, vision.keep_tokens, places, places.expert)
    run.stage("motion-0", places.motion(0), lambda: together(count, motion.train, places, 0))
    for stage in range(1, settings.rollins + 1):
        new = places.rollin(stage)
        if not all(shard.exists() for shard in new):
            together(count, rollins.record, places, stage)
        run.note(f"rollin-{stage}", _digest(new))
        if not all((shard / f"{places.tokens}.npy").exists() for shard in new):
            together(count, vision.keep_tokens, places, new)
        run.stage(f"motion-{stage}", places.motion(stage), partial(together, count, motion.train, places, stage))
    export.checkpoint(places, out / "checkpoint")
    export.dataset(places, out / "dataset")
    print(f"wrote {out}/checkpoint and {out}/dataset", flush=True)


def _digest(shards: list[Path]) -> str:
    """Of all that was measured and done; the pictures follow from it."""
    whole = hashlib.sha256()
    for shard in shards:
        whole.update((shard / "moments.npy").read_bytes())
    return whole.hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
