"""A policy: the blocks of a bundle composed, from camera frames and joint positions to a chunk of
joint positions.

Every step can be called on its own, so that a scheduler may reuse the tokens of a camera that did
not change, refresh the state alone or take fewer flow steps. No threads and no clock here: each
block has one caller at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlad.act import ActPolicy
from vlad.backend import load_block
from vlad.bundle import Bundle
from vlad.errors import BundleError
from vlad.expert import FlowExpert, Guidance
from vlad.llm import LanguageModel, Prefix
from vlad.manifest import SmolvlaManifest
from vlad.observation import JointSpace, Pixels
from vlad.sessions import Load, load_sessions
from vlad.units import JointRange
from vlad.vision import Tokens, Vision

if TYPE_CHECKING:
    from vlad.block_workers import BlockWorkers

Chunk = NDArray[np.float64]

BLOCKS = ("vision", "prefill", "context", "expert")


class Policy:
    """A loaded SmolVLA. Raises BundleError or ConfigError when the bundle cannot be run.

    For `intra_threads`, `affinity`, `spinning` and `load` see vlad.sessions. `calibration` is the arm's,
    by joint name; without it a bundle in -100..100 cannot be loaded.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        intra_threads: int | Mapping[str, int] = 1,
        affinity: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
        spinning: bool = False,
        calibration: Mapping[str, JointRange] | None = None,
        load: Load = load_block,
    ) -> None:
        manifest = bundle.manifest
        if not isinstance(manifest, SmolvlaManifest):
            raise BundleError(f"{bundle.path}: holds a policy of type {manifest.policy_type}, not a SmolVLA")
        self._manifest = manifest
        self.bundle = bundle
        self.workers: BlockWorkers | None = None  # those of its blocks that run in one
        self.joint_space = JointSpace(manifest, calibration)
        sessions = load_sessions(
            bundle, BLOCKS, intra_threads=intra_threads, affinity=affinity, spinning=spinning, load=load
        )
        self.vision = Vision(manifest, sessions["vision"])
        self.language = LanguageModel(bundle, manifest, sessions["prefill"], sessions["context"])
        self.expert = FlowExpert(manifest, sessions["expert"])

    def warm_up(self) -> None:
        """Run every block once in every shape that control will use, so that the first chunk is no
        slower.
        """
        manifest = self._manifest
        frame = np.zeros((manifest.image_side, manifest.image_side, 3), dtype=np.uint8)
        tokens = [self.encode_image(0, frame)] * len(manifest.cameras)
        state = self.joint_space.state(self.joint_space.actions(np.zeros((1, manifest.max_action_dim), np.float32))[0])
        for index in range(len(manifest.tasks)):
            prefix = self.language.prefill(tokens, index, state)
        prefix = self.language.refresh_state(prefix, state)
        self.expert.sample(prefix, np.zeros(self.expert.shape, dtype=np.float32), steps=1)

    def token_ids(self, text: str) -> list[int]:
        """Token ids of a task text. Raises Refused when the bundle cannot take it."""
        return self.language.embeddings.token_ids(text)

    def encode_image(self, camera_index: int, image: Pixels) -> Tokens:
        """A uint8 RGB frame `[height, width, 3]` of one camera to its tokens, float32
        `[image_tokens, hidden]`.

        Raises DeviceError for another kind of image, BundleError for a camera that the policy does
        not have.
        """
        if not 0 <= camera_index < len(self.bundle.manifest.cameras):
            raise BundleError(f"camera {camera_index}: the policy has {len(self.bundle.manifest.cameras)}")
        return self.vision.encode(image)

    def prefill(self, tokens_by_camera: Sequence[Tokens], task: int | Sequence[int], state: ArrayLike) -> Prefix:
        """The prefix of one observation.

        `task` is an index into the bundle's tasks or token ids, `state` the joint positions in core
        units `[joints]`. Raises Refused, DeviceError or BundleError.
        """
        return self.language.prefill(tokens_by_camera, task, self.joint_space.state(state))

    def refresh_state(self, prefix: Prefix, state: ArrayLike) -> Prefix:
        """The same images and task at other joint positions (core units `[joints]`), for the price
        of one token.
        """
        return self.language.refresh_state(prefix, self.joint_space.state(state))

    def sample_normalised(
        self,
        prefix: Prefix,
        noise: NDArray[np.float32] | None = None,
        *,
        generator: np.random.Generator | None = None,
        steps: int | None = None,
        guidance: Guidance | None = None,
    ) -> NDArray[np.float32]:
        """A chunk in the policy's own normalised space, float32 `[chunk, max_action_dim]` (what
        guidance works on).

        Without `noise` it is drawn from `generator` (a fresh one by default).
        """
        if noise is None:
            noise = self.expert.noise(generator if generator is not None else np.random.default_rng())
        return self.expert.sample(prefix, noise, steps=steps, guidance=guidance)

    def sample(
        self,
        prefix: Prefix,
        noise: NDArray[np.float32] | None = None,
        *,
        generator: np.random.Generator | None = None,
        steps: int | None = None,
        guidance: Guidance | None = None,
    ) -> Chunk:
        """A chunk of joint positions in core units (rad, gripper 0..1), float64 `[chunk, joints]`,
        not yet gated.
        """
        normalised = self.sample_normalised(prefix, noise, generator=generator, steps=steps, guidance=guidance)
        return self.joint_space.actions(normalised)

    def close(self) -> None:
        """Release all blocks."""
        self.vision.close()
        self.language.close()
        self.expert.close()


AnyPolicy = Policy | ActPolicy


def policy_class(bundle: Bundle) -> type[Policy] | type[ActPolicy]:
    """What runs the policy of a bundle."""
    return Policy if isinstance(bundle.manifest, SmolvlaManifest) else ActPolicy
