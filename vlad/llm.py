"""The `prefill` and `context` blocks: image tokens, task and state to the keys and values of a
prefix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlad.backend import Session
from vlad.bundle import Bundle
from vlad.errors import BlockFailed, BundleError, Refused
from vlad.fixed_prefill import FixedPrefill
from vlad.manifest import SmolvlaManifest

Array = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Prefix:
    """What a chunk is conditioned on; opaque outside `vlad.llm` and `vlad.expert`.

    Both by the name of a block's input, for each layer float32 `[tokens, kv_heads * head_dim]`:
    `past` the language model's keys and values of images and task, for `prefill`; `context` what the
    expert attends to, whose last token is the state. tokens: those of images and task, where `prefill` takes no past.
    """

    past: dict[str, Array]
    context: dict[str, Array]
    tokens: Array | None = None

    @property
    def length(self) -> int:
        """Tokens of the prefix, the state included."""
        return len(self.context["context_key0"])


class TokenEmbeddings:
    """Embeddings of the bundle's tasks, and of any text where it ships the tokenizer and the whole
    table.
    """

    def __init__(self, bundle: Bundle, manifest: SmolvlaManifest) -> None:
        table = manifest.token_table
        rows = bundle.array(table.file)
        wanted = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}[table.dtype]
        if rows.dtype != np.dtype(wanted) or rows.shape != (table.rows, manifest.prefix.hidden):
            raise BundleError(
                f"{bundle.path}: token table is {rows.dtype} {list(rows.shape)}, not what the manifest says"
            )
        if not _finite(rows):  # golden values prove the tokens of one task alone
            raise BundleError(f"{bundle.path}: token table is not finite")
        self._rows: NDArray[Any] = rows
        self._bfloat16 = table.dtype == "bfloat16"
        self._scale = np.float32(table.scale)
        self._row_of = None if table.token_ids is None else {t: i for i, t in enumerate(table.token_ids)}
        self._before = self._values([t if self._row_of is None else self._row_of[t] for t in table.before])
        self._tasks = manifest.tasks
        self._limit = manifest.max_task_tokens
        self._bundle, self._tokenizer = bundle, manifest.tokenizer

    def token_ids(self, text: str) -> list[int]:
        """Token ids of a task. Raises Refused for a text that the bundle cannot tokenise or that is
        too long.
        """
        for task in self._tasks:
            if task.text.rstrip("\n") == text.rstrip("\n"):
                return list(task.token_ids)
        if self._tokenizer is None:
            raise Refused(
                f"task {text!r} is not one of the bundle's ({[t.text for t in self._tasks]}); "
                "`vlad build --free-text` makes a bundle that takes any text"
            )
        with self._bundle.opened(self._tokenizer) as path:
            return tokenise(path, text, self._limit)

    def embed(self, task: int | Sequence[int]) -> Array:
        """float32 `[tokens, hidden]` of a task index or of token ids, after those that the table has before
        every task. Raises Refused for what the table lacks.
        """
        if isinstance(task, int):
            if not 0 <= task < len(self._tasks):
                raise Refused(f"task {task}: the bundle has tasks 0..{len(self._tasks) - 1}")
            ids: Sequence[int] = self._tasks[task].token_ids
        else:
            ids = task
        if not 1 <= len(ids) <= self._limit:
            raise Refused(f"a task of {len(ids)} tokens: the policy takes 1 to {self._limit}")
        try:
            rows = list(ids) if self._row_of is None else [self._row_of[token] for token in ids]
        except KeyError as error:
            raise Refused(f"token {error.args[0]} is not in the bundle's token table") from None
        if min(rows) < 0 or max(rows) >= len(self._rows):
            raise Refused(f"token ids {min(rows)}..{max(rows)} exceed the vocabulary of {len(self._rows)}")
        scaled: Array = self._values(rows) * self._scale
        return np.concatenate([self._before, scaled]) if len(self._before) else scaled

    def _values(self, rows: list[int]) -> Array:
        stored = self._rows[rows]
        values = (stored.astype(np.uint32) << np.uint32(16)).view(np.float32) if self._bfloat16 else stored
        return values.astype(np.float32)


def _finite(rows: NDArray[Any]) -> bool:
    """Of float or bfloat16 (as uint16) values, some rows at a time: the table of a whole vocabulary is large."""
    if rows.dtype == np.uint16:
        return all(bool(((rows[i : i + 1024] & 0x7F80) != 0x7F80).all()) for i in range(0, len(rows), 1024))
    return all(bool(np.isfinite(rows[i : i + 1024]).all()) for i in range(0, len(rows), 1024))


def tokenise(tokenizer_file: Path, text: str, limit: int) -> list[int]:
    """Token ids of a task as LeRobot makes them: newline appended, unpadded.

    Raises Refused when there are more than `limit` (LeRobot would cut the text silently),
    BundleError when the tokenizer cannot be used.
    """
    tokenizer = _tokenizer(tokenizer_file)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids: list[int] = tokenizer.encode(text if text.endswith("\n") else f"{text}\n").ids
    if not ids:
        raise BundleError(f"{tokenizer_file}: makes no token of {text!r}")
    if len(ids) > limit:
        raise Refused(f"task {text!r} has {len(ids)} tokens and the policy takes {limit}: shorten it")
    return ids


def token_id(tokenizer_file: Path, name: str) -> int:
    """The id of a special token. Raises BundleError where the tokenizer has none of that name."""
    found: int | None = _tokenizer(tokenizer_file).token_to_id(name)
    if found is None:
        raise BundleError(f"{tokenizer_file}: has no token {name!r}, so it is not the tokenizer of a SmolVLM")
    return found


def _tokenizer(file: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise BundleError("the package `tokenizers` is needed to tokenise a text: pip install tokenizers") from None
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises bare Exception
        raise BundleError(f"{file}: not a tokenizer.json: {error}") from error


class LanguageModel:
    """Prefill and context. Pure computation: one caller at a time, no threads of its own."""

    def __init__(self, bundle: Bundle, manifest: SmolvlaManifest, prefill: Session, context: Session) -> None:
        self.embeddings = TokenEmbeddings(bundle, manifest)
        block = bundle.block("prefill")
        self._fixed = block.backend == "litert"
        self._prefill = FixedPrefill(block, prefill, manifest) if self._fixed else prefill
        self._context = context
        sizes = manifest.prefix
        self._cameras = len(manifest.cameras)
        self._image_shape = (sizes.image_tokens, sizes.hidden)
        empty = np.zeros((0, sizes.kv_heads * sizes.head_dim), dtype=np.float32)
        past = range(max(1, sizes.layers - 1))  # of the last layer it is not computed; one says how long it is
        self._no_past = {f"past_{which}{i}": empty for i in past for which in ("key", "value")}
        taken = {value.name for value in block.inputs if value.name.startswith("past_")}
        if "past_key" in taken:
            raise BundleError(f"{bundle.path}: its blocks are of an earlier version: build it again with `vlad build`")
        if taken != self._no_past.keys() and not self._fixed:
            raise BundleError(f"{bundle.path}: prefix.layers is {sizes.layers}, block prefill takes {sorted(taken)}")
        attended = [value.name for value in bundle.block("expert").inputs if value.name.startswith("context_")]
        self._attended = [name.removeprefix("context_") for name in attended]
        made = {value.name for value in bundle.block("prefill").outputs}
        if not self._attended or not made.issuperset(self._attended):
            raise BundleError(f"{bundle.path}: block expert takes {attended}, block prefill makes {sorted(made)}")
        self._projected = [value.name for value in bundle.block("context").inputs]
        self._no_tokens = np.zeros((0, sizes.hidden), dtype=np.float32)

    def prefill(self, images: Sequence[Array], task: int | Sequence[int], state: Array) -> Prefix:
        """The prefix of one observation.

        `images` are the tokens of each camera in policy order, `state` is normalised `[1,
        max_state_dim]`. Raises Refused for an unknown task and BundleError for tokens of a wrong
        shape.
        """
        if len(images) != self._cameras or any(tokens.shape != self._image_shape for tokens in images):
            raise BundleError(
                f"prefill needs {self._cameras} x {list(self._image_shape)} image tokens, "
                f"got {[list(tokens.shape) for tokens in images]}"
            )
        tokens = np.concatenate([*images, self.embeddings.embed(task)])
        out, context = self._run(tokens, state, self._no_past)
        past = {name: out[name.removeprefix("past_")][:-1] for name in self._no_past}
        return Prefix(past, context, tokens if self._fixed else None)

    def refresh_state(self, prefix: Prefix, state: Array) -> Prefix:
        """The same images and task with another state, at the price of one token: they never attend
        to the state. A `prefill` that takes no past computes them all anew.
        """
        if prefix.tokens is not None:
            return Prefix(prefix.past, self._run(prefix.tokens, state, self._no_past)[1], prefix.tokens)
        _, fresh = self._run(self._no_tokens, state, prefix.past)
        context = {name: np.concatenate([kept[:-1], fresh[name]]) for name, kept in prefix.context.items()}
        for values in context.values():
            values.flags.writeable = False
        return Prefix(prefix.past, context)

    def _run(self, tokens: Array, state: Array, past: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Keys and values of the new tokens and the state, and what the expert makes of them. One for each: the
        manifest cannot say so, and a runtime that returned fewer would condition the chunk on less than was seen.
        """
        out = self._prefill.run({"tokens": tokens, "state": state, **past})
        projected = self._context.run({name: out[name] for name in self._projected})
        context = {}
        for name in self._attended:
            context[f"context_{name}"] = projected.get(f"context_{name}", out[name])
            for block, values in (("prefill", out[name]), ("context", context[f"context_{name}"])):
                if len(values) != len(tokens) + 1:
                    raise BlockFailed(block, "error", f"{name} is {list(values.shape)} for {len(tokens) + 1} tokens")
        return out, context

    def close(self) -> None:
        """Release the blocks."""
        self._prefill.close()
        self._context.close()
