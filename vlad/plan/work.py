"""What a policy has to compute for a chunk, block by block, and how that changes with what one may choose:
cameras, flow steps, the type of a block's weights, the length of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vlad.errors import BundleError, Refused
from vlad.expert import EVALUATIONS
from vlad.ladder import FULL, Rung, Vision
from vlad.manifest import Manifest, SmolvlaManifest

BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5}
PER: dict[str, Literal["camera", "chunk", "step"]] = {
    "vision": "camera", "prefill": "chunk", "context": "chunk", "expert": "step", "policy": "chunk",
}  # fmt: skip
PICTURE_SIDE = 512  # of a profile's `frame`: what a picture costs goes with the side, as does its first pass
OF_TOKENS = ("prefill", "context", "policy")  # blocks whose work grows with the tokens of a prefix
OF_CHUNK = ("expert",)  # with the actions of a chunk


@dataclass(frozen=True, slots=True)
class Work:
    """One block. flops, bytes: of one call (multiply-adds times two; weights as stored). dtype: of the
    weights, "mixed" for more than one. calls: for a chunk."""

    block: str
    calls: int
    flops: float
    bytes: float
    parameters: int
    dtype: str

    @property
    def reuse(self) -> float:
        """How many rows of input meet each weight, on average."""
        return self.flops / (2 * max(1, self.parameters))

    @property
    def shares(self) -> dict[str, float]:
        """Of the work, by the type of the weights it meets. Of mixed weights only their mean size is known:
        they are taken as float32 and int8 that have it."""
        if self.dtype != "mixed":
            return {self.dtype: 1.0}
        size = min(4.0, max(1.0, self.bytes / max(1, self.parameters)))
        return {"float32": (size - 1) / 3, "int8": (4 - size) / 3}


@dataclass(frozen=True, slots=True)
class PolicyWork:
    """A policy as its blocks' work. tokens: of the prefix that the work is for. steps: 0 without a flow.
    A state-only refresh is one token of the prefill block. picture: what one costs before the
    vision block, 1 being that of 512 x 512. evaluations: of the expert, in a flow step."""

    name: str
    policy_type: str
    blocks: tuple[Work, ...]
    cameras: int
    steps: int
    chunk_size: int
    rate_hz: float
    tokens: int
    tokens_per_camera: int
    picture: float = 1.0
    evaluations: int = 1

    @property
    def weights_bytes(self) -> float:
        """Of all blocks."""
        return sum(work.bytes for work in self.blocks)

    def of_rung(self, rung: Rung = FULL, encoded: int | None = None) -> tuple[Work, ...]:
        """The work of a pass on a rung that encodes so many cameras (absent: as few as it can)."""
        cameras = rung.least_encoded(self.cameras) if encoded is None else encoded
        works = []
        for work in self.blocks:
            steps = (rung.steps or self.steps) * self.evaluations
            calls = {"camera": cameras, "chunk": 1, "step": steps}[PER[work.block]]
            flops = work.flops
            if rung.vision is Vision.NONE and work.block == "prefill":
                flops /= self.tokens
            if calls:
                works.append(replace(work, calls=calls, flops=flops))
        return tuple(works)

    def with_cameras(self, cameras: int) -> PolicyWork:
        """The same policy with other cameras: what the prefix costs goes with its tokens."""
        tokens = self.tokens + (cameras - self.cameras) * self.tokens_per_camera
        blocks = self._scaled(OF_TOKENS, tokens / self.tokens)
        blocks = _calls(blocks, cameras, self.steps * self.evaluations)
        return replace(self, cameras=cameras, tokens=tokens, blocks=blocks)

    def with_steps(self, steps: int) -> PolicyWork:
        """Raises Refused for a policy without a flow."""
        if not self.steps:
            raise Refused(f"{self.name}: a policy of type {self.policy_type} has no flow steps: leave --steps out")
        return replace(self, steps=steps, blocks=_calls(self.blocks, self.cameras, steps * self.evaluations))

    def with_chunk(self, chunk_size: int) -> PolicyWork:
        """The same policy with longer or shorter chunks."""
        return replace(self, chunk_size=chunk_size, blocks=self._scaled(OF_CHUNK, chunk_size / self.chunk_size))

    def with_dtype(self, block: str, dtype: str) -> PolicyWork:
        """The same policy with the weights of a block in another type."""
        return replace(self, blocks=tuple(
            replace(work, dtype=dtype, bytes=work.parameters * BYTES[dtype]) if work.block == block else work
            for work in self.blocks
        ))  # fmt: skip

    def block(self, name: str) -> Work:
        """Raises Refused."""
        for work in self.blocks:
            if work.block == name:
                return work
        raise Refused(f"{self.name} has no block {name!r}: it has {', '.join(w.block for w in self.blocks)}")

    def _scaled(self, names: Sequence[str], by: float) -> tuple[Work, ...]:
        return tuple(replace(w, flops=w.flops * by) if w.block in names else w for w in self.blocks)


def _calls(blocks: Sequence[Work], cameras: int, evaluations: int) -> tuple[Work, ...]:
    return tuple(replace(w, calls={"camera": cameras, "chunk": 1, "step": evaluations}[PER[w.block]]) for w in blocks)


def of_manifest(manifest: Manifest, name: str) -> PolicyWork:
    """The work of a bundle. Its figures are for the longest prefix that it takes; here they are for the
    longest of its tasks, unless it takes any text. Raises BundleError for a block that is not known."""
    names = [block.name for block in manifest.blocks]
    if unknown := [block for block in names if block not in PER]:
        raise BundleError(f"{name}: what block {unknown[0]!r} has to compute for a chunk is not known here")
    cameras, tokens, longest, each, steps, picture, evaluations = len(manifest.cameras), 1, 1, 0, 0, 1.0, 1
    if isinstance(manifest, SmolvlaManifest):
        each, steps = manifest.prefix.image_tokens, manifest.flow.steps
        evaluations = EVALUATIONS[manifest.flow.solver]
        longest = manifest.longest
        unspoken = manifest.max_task_tokens - max(len(task.token_ids) for task in manifest.tasks)
        tokens = longest if manifest.tokenizer is not None else longest - unspoken
        picture = manifest.image_side / PICTURE_SIDE
    blocks = tuple(
        Work(b.name, 1, b.flops * (tokens / longest if b.name in OF_TOKENS else 1), b.file.bytes, b.parameters, b.dtype)
        for b in manifest.blocks
    )
    return PolicyWork(name, manifest.policy_type, _calls(blocks, cameras, steps * evaluations), cameras, steps,
                      manifest.chunk_size, manifest.rate_hz, tokens, each, picture, evaluations)  # fmt: skip


def smolvla(cameras: int, steps: int = 10, chunk_size: int = 50, rate_hz: float = 30.0) -> PolicyWork:
    """The published SmolVLA (450 M, 512 x 512 pictures, 48 task tokens) in float32, without a bundle."""
    patches, d, mlp, image_tokens = 1024, 768, 3072, 64
    vision = 12 * (2 * patches * d * (4 * d + 2 * mlp) + 4 * patches**2 * d) + 2 * patches * d * d
    vision += 2 * image_tokens * 16 * d * 960
    n, tokens = chunk_size, cameras * image_tokens + 48 + 1
    layer = 2 * 960 * (2 * 960 + 2 * 320 + 3 * 2560)
    prefill = 15 * (tokens * layer + 4 * tokens**2 * 960) + 4 * tokens * 960 * 320 + 2 * 32 * 960
    expert = 16 * 2 * n * 720 * (2 * 960 + 3 * 2048) + 8 * 4 * n * 720 * 320
    expert += 4 * n * 960 * (16 * tokens + 8 * n) + 2 * n * 720 * (2 * 32 + 2 * 720) + 2 * 720**2
    parameters = {"vision": 98_100_000, "prefill": 148_100_000, "context": 1_638_400, "expert": 98_200_000}
    flops = {"vision": vision, "prefill": prefill, "context": 32 * tokens * 320**2, "expert": expert}
    blocks = tuple(Work(b, 1, flops[b], 4.0 * parameters[b], parameters[b], "float32") for b in flops)
    return PolicyWork("smolvla (published sizes)", "smolvla", _calls(blocks, cameras, steps), cameras, steps,
                      chunk_size, rate_hz, tokens, image_tokens)  # fmt: skip


def act(cameras: int, chunk_size: int = 100, rate_hz: float = 30.0, height: int = 480, width: int = 640) -> PolicyWork:
    """LeRobot's default ACT (ResNet-18, 4 encoder layers and 1 decoder layer of 512) in float32, without a
    bundle; pictures of height x width pixels."""
    d, mlp, each = 512, 3200, -(-height // 32) * -(-width // 32)
    tokens = cameras * each + 2
    vision = 2 * 1.8136e9 * height * width / 224**2 + 2 * each * d * d
    encoder = 4 * 2 * (4 * tokens * d**2 + 2 * tokens**2 * d + 2 * tokens * d * mlp)
    c = chunk_size
    decoder = 2 * (6 * c * d**2 + 2 * c**2 * d + 2 * tokens * d**2 + 2 * c * tokens * d + 2 * c * d * mlp)
    blocks = (
        Work("vision", 1, vision, 4 * 11_440_000, 11_440_000, "float32"),
        Work("policy", 1, encoder + decoder, 4 * 23_600_000, 23_600_000, "float32"),
    )
    return PolicyWork("act (LeRobot's defaults)", "act", _calls(blocks, cameras, 0), cameras, 0, chunk_size, rate_hz,
                      tokens, each)  # fmt: skip


PUBLISHED: dict[str, Callable[[int], PolicyWork]] = {"smolvla": smolvla, "act": act}


def published(policy_type: str, cameras: int) -> PolicyWork:
    """A policy of PUBLISHED, without a bundle."""
    return PUBLISHED[policy_type](cameras)
