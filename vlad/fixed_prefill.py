"""Block `prefill` in fixed shapes, as an accelerator wants it, behind the signature that the ONNX block has.

    tokens    float32 [rows, hidden]       image then task tokens, with zeros behind them
    state     float32 [1, width]
    cos, sin  float32 [rows + 1, half]     angles: those of the state are of the real number of tokens
    mask      float32 [rows + 1, rows + 1] additive, by key and query: hides what was filled up, and the state
 -> key<i>, value<i>  float32 [rows + 1, kv_width]  of each layer; rows between tokens and state mean nothing

It has no past: a fresh state costs a pass. `vlad tflite` makes the graph (vlad/tflite/prefill.py).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlad.backend import Arrays, Session
from vlad.errors import BundleError, Refused
from vlad.manifest import Block, SmolvlaManifest

Array = NDArray[np.float32]

HIDDEN = np.float32(-1.0e30)
WAVELENGTH = 10_000.0  # LeRobot's, whatever the model's own (apply_rope in smolvlm_with_expert.py)


def rows_of(manifest: SmolvlaManifest) -> int:
    """Tokens of all cameras and of the longest task that can come, with what precedes every task."""
    longest = manifest.max_task_tokens
    if manifest.tokenizer is None:
        longest = max(len(task.token_ids) for task in manifest.tasks)
    return len(manifest.cameras) * manifest.prefix.image_tokens + len(manifest.token_table.before) + longest


class FixedPrefill:
    """A session of the fixed block, as one of the ONNX block. Raises BundleError for a block whose shapes are not those
    that the manifest's policy has, or with too few rows for its cameras and longest task.
    """

    def __init__(self, block: Block, session: Session, manifest: SmolvlaManifest) -> None:
        sizes, rows = manifest.prefix, rows_of(manifest)
        first = next((v.shape[0] for v in block.inputs if v.name == "tokens" and v.shape), rows)
        rows = max(rows, first) if isinstance(first, int) else rows  # there may be room for more
        half = sizes.head_dim // 2
        inputs = {"tokens": [rows, sizes.hidden], "state": [1, manifest.state_width], "cos": [rows + 1, half],
                  "sin": [rows + 1, half], "mask": [rows + 1, rows + 1]}  # fmt: skip
        found = {v.name: v.shape for v in block.inputs}
        if found != inputs:
            raise BundleError(f"block prefill: in .tflite it takes {inputs}, not {found}")
        made = [rows + 1, sizes.kv_heads * sizes.head_dim]
        if other := {v.name: v.shape for v in block.outputs if v.shape != made}:
            raise BundleError(f"block prefill: in .tflite each of its outputs is {made}, not {other}")
        self._session = session
        self._rows, self._hidden, self._half = rows, sizes.hidden, half
        self._shaped: dict[int, dict[str, Array]] = {}

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See vlad.backend.Session. Raises Refused for more tokens than there is room for."""
        tokens = inputs["tokens"]
        n = len(tokens)
        if n > self._rows:
            raise Refused(f"{n} image and task tokens: block prefill was written for {self._rows}; a shorter task, or "
                          "`vlad tflite` anew")  # fmt: skip
        if any(len(value) for name, value in inputs.items() if name.startswith("past_")):
            raise BundleError("block prefill: in .tflite it takes no past")
        if n not in self._shaped:
            self._shaped = {n: self._extra(n)}  # the newest: a task has always as many
        filled = np.zeros((self._rows, self._hidden), np.float32)
        filled[:n] = tokens
        out = self._session.run({"tokens": filled, "state": inputs["state"], **self._shaped[n]})
        made = {name: np.concatenate([value[:n], value[-1:]]) for name, value in out.items()}
        for value in made.values():
            value.flags.writeable = False
        return made

    def _extra(self, n: int) -> dict[str, Array]:
        positions = np.arange(self._rows + 1, dtype=np.float32)
        positions[-1] = n
        exponents = np.float32(1 / self._half) * np.arange(self._half, dtype=np.float32)
        angles = positions[:, None] / np.power(np.float32(WAVELENGTH), exponents, dtype=np.float32)
        mask = np.zeros((self._rows + 1, self._rows + 1), np.float32)
        mask[n:-1] = HIDDEN
        mask[-1, :-1] = HIDDEN
        made = {"cos": np.cos(angles), "sin": np.sin(angles), "mask": mask}
        for value in made.values():
            value.flags.writeable = False  # a worker need not copy what it has already
        return made

    def close(self) -> None:
        """Release the block."""
        self._session.close()
