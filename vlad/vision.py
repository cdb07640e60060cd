"""The `vision` block: a camera frame to image tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlad.backend import Session
from vlad.manifest import SmolvlaManifest
from vlad.observation import ImagePreprocessor, Pixels

Tokens = NDArray[np.float32]


class Vision:
    """Preprocessing and the vision encoder. Pure computation: one caller at a time, no threads of
    its own.
    """

    def __init__(self, manifest: SmolvlaManifest, session: Session) -> None:
        self._preprocess = ImagePreprocessor(manifest.image_side)
        self._session = session

    def encode(self, image: Pixels) -> Tokens:
        """uint8 RGB `[height, width, 3]` to float32 `[image_tokens, hidden]`.

        Raises DeviceError for an image of another kind, BundleError when the block fails.
        """
        return self._session.run({"image": self._preprocess(image)})["tokens"]

    def close(self) -> None:
        """Release the block."""
        self._session.close()
