"""An ACT: the blocks of its bundle composed, from camera frames and joint positions to a chunk of joint
positions.

The same steps as vlad.policy.Policy has, so that the stages drive either. What a prefix is to a SmolVLA
are here the image tokens of all cameras and the state: block `policy` sees them together, so a fresh
state costs this block and no vision. There is nothing to sample, so the same observation gives the same
chunk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlad.backend import load_block
from vlad.bundle import Bundle
from vlad.errors import BlockFailed, BundleError, Refused
from vlad.manifest import ActManifest
from vlad.observation import JointSpace, NativePixels, Pixels
from vlad.sessions import Load, load_sessions
from vlad.units import JointRange
from vlad.vision import Tokens

if TYPE_CHECKING:
    from vlad.block_workers import BlockWorkers

Array = NDArray[np.float32]
Chunk = NDArray[np.float64]

BLOCKS = ("vision", "policy")


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What a chunk is made from: image tokens of all cameras, float32 `[tokens, token_width]`, and the
    normalised state `[1, joints]`.
    """

    tokens: Array
    state: Array


class ActPolicy:
    """A loaded ACT. Raises BundleError or ConfigError when the bundle cannot be run.

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
        if not isinstance(manifest, ActManifest):
            raise BundleError(f"{bundle.path}: holds a policy of type {manifest.policy_type}, not an ACT")
        self.bundle = bundle
        self.workers: BlockWorkers | None = None  # those of its blocks that run in one
        self.joint_space = JointSpace(manifest, calibration)
        self._cameras = manifest.cameras
        self.pixels = [NativePixels(camera) for camera in manifest.cameras]
        self._token_shapes = [(camera.tokens, manifest.token_width) for camera in manifest.cameras]
        self._chunk_shape = (manifest.chunk_size, len(manifest.joints))
        self._tasks = manifest.task_texts
        self._sessions = load_sessions(
            bundle, BLOCKS, intra_threads=intra_threads, affinity=affinity, spinning=spinning, load=load
        )

    def warm_up(self) -> None:
        """Run every block once in every shape that control will use, so that the first chunk is no
        slower.
        """
        state = self.joint_space.state(self.joint_space.actions(np.zeros((1, self._chunk_shape[1]), np.float32))[0])
        frames = [np.zeros((camera.height, camera.width, 3), np.uint8) for camera in self._cameras]
        self.decode(self.see([self.encode_image(i, frame) for i, frame in enumerate(frames)], state))

    def token_ids(self, text: str) -> list[int]:
        """Raises Refused: the tasks of the bundle are the only ones, and have no tokens."""
        raise Refused(f"task {text!r} is not one of the bundle's {list(self._tasks)}, and an ACT reads no text")

    def encode_image(self, camera_index: int, image: Pixels) -> Tokens:
        """A uint8 RGB frame `[height, width, 3]` of one camera to its tokens, float32 `[tokens,
        token_width]`.

        Raises DeviceError for another kind or size of image, BundleError for a camera that the policy
        does not have.
        """
        if not 0 <= camera_index < len(self.pixels):
            raise BundleError(f"camera {camera_index}: the policy has {len(self.pixels)}")
        tokens = self._sessions["vision"].run({"image": self.pixels[camera_index](image)})["tokens"]
        wanted = self._token_shapes[camera_index]
        if tokens.shape != wanted:  # of cameras unlike in size the manifest cannot say so
            raise BlockFailed("vision", "error", f"tokens are {list(tokens.shape)}, not {list(wanted)}")
        return tokens

    def see(self, tokens_by_camera: Sequence[Tokens], state: Array) -> Seen:
        """One observation, its state normalised `[1, joints]`. Raises BundleError for other tokens than
        those of every camera in policy order.
        """
        shapes = [tokens.shape for tokens in tokens_by_camera]
        if shapes != self._token_shapes:
            raise BundleError(f"image tokens of {self._token_shapes} are needed, got {shapes}")
        return Seen(np.concatenate(tokens_by_camera), state)

    def prefill(self, tokens_by_camera: Sequence[Tokens], task: int, state: ArrayLike) -> Seen:
        """One observation; `state` are the joint positions in core units `[joints]`.

        Raises Refused for a task that the bundle does not have, DeviceError or BundleError.
        """
        if not 0 <= task < len(self._tasks):
            raise Refused(f"task {task}: the bundle has tasks 0..{len(self._tasks) - 1}")
        return self.see(tokens_by_camera, self.joint_space.state(state))

    def refresh_state(self, prefix: Seen, state: ArrayLike) -> Seen:
        """The same images at other joint positions (core units `[joints]`)."""
        return dataclasses.replace(prefix, state=self.joint_space.state(state))

    def decode(self, seen: Seen) -> Array:
        """The chunk in the policy's own normalised space, float32 `[chunk, joints]`."""
        return self._sessions["policy"].run({"tokens": seen.tokens, "state": seen.state})["actions"]

    def sample(
        self,
        prefix: Seen,
        *,
        generator: np.random.Generator | None = None,
        steps: int | None = None,
        guidance: object = None,
    ) -> Chunk:
        """The chunk of joint positions in core units (rad, gripper 0..1), float64 `[chunk, joints]`, not
        yet gated.

        `generator` is of no use to it. Raises Refused for `steps` and `guidance`, which are of flow
        matching.
        """
        if steps is not None or guidance is not None:
            raise Refused("an ACT has no flow steps, and nothing that steers them")
        return self.joint_space.actions(self.decode(prefix))

    def close(self) -> None:
        """Release all blocks."""
        for session in self._sessions.values():
            session.close()
