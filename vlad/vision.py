"""The `vision` block: a camera frame to image tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlad.backend import Session
from vlad.errors import BundleError
from vlad.manifest import SmolvlaManifest
from vlad.observation import ImagePreprocessor, Pixels

Tokens = NDArray[np.float32]


class Vision:
    """Preprocessing and the vision encoder. Pure computation: one caller at a time, no threads of
    its own. Raises BundleError when the block does not take the pictures that the manifest states.
    """

    def __init__(self, manifest: SmolvlaManifest, session: Session) -> None:
        side = manifest.image_side
        taken = [value.shape for block in manifest.blocks if block.name == "vision" for value in block.inputs]
        if taken != [[1, 3, side, side]]:
            raise BundleError(f"block vision takes {taken}, and pictures are {side} by {side}")
        self._preprocess = ImagePreprocessor(side)
        self._session = session

    def encode(self, image: Pixels) -> Tokens:
        """uint8 RGB `[height, width, 3]` to float32 `[image_tokens, hidden]`.

        Raises DeviceError for an image of another kind, BundleError when the block fails.
        """
        return self._session.run({"image": self._preprocess(image)})["tokens"]

    def close(self) -> None:
        """Release the block."""
        self._session.close()
