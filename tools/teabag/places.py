"""Where what a run makes lies. No torch is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tools.teabag.settings import Settings
from vlad.build.safetensors import sha256


@dataclass(frozen=True, slots=True)
class Places:
    """Of the run with `settings` in the directory `out`."""

    out: Path
    settings: Settings

    @property
    def vlm(self) -> Path:
        """The backbone's sizes and tokenizer."""
        return self.out / "vlm"

    @property
    def expert(self) -> list[Path]:
        """Shards of the expert's episodes, by the seed of their first one."""
        first, count = self.settings.expert_seed, self.settings.expert_episodes
        return [self.out / "expert" / str(seed) for seed in range(first, first + count, self.settings.shard)]

    def rollin(self, stage: int) -> list[Path]:
        """Shards of round `stage` (from 1) of roll-ins, by the seed of each group."""
        first = self.settings.rollin_seed + 10_000 * (stage - 1)
        return [self.out / f"rollin-{stage}" / str(first + group) for group in range(self.settings.rollin_groups)]

    @property
    def vision(self) -> Path:
        """Weights after stage 1."""
        return self.out / "vision.safetensors"

    @property
    def tokens(self) -> str:
        """What the tokens are called, in a shard, that the vision encoder of stage 1 makes of its pictures."""
        return f"tokens-{sha256(self.vision)[:12]}"

    def motion(self, stage: int) -> Path:
        """Weights after stage 2 with `stage` rounds of roll-ins."""
        return self.out / f"motion-{stage}.safetensors"
