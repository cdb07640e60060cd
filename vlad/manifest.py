"""The manifest of a policy bundle: its schema, and the checks that a schema alone cannot make."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from vlad.errors import BundleError
from vlad.units import Units

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
FILE_LIMIT = 4 << 30
MAX_JOINTS = 8

_QUANTISED = {"float16", "int8", "int4", "mixed"}
SOLVERS = ("euler", "ab2", "heun", "midpoint")
Solver = Literal["euler", "ab2", "heun", "midpoint"]

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Positive = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Count = Annotated[int, msgspec.Meta(ge=0)]
TaskText = Annotated[str, msgspec.Meta(max_length=4096)]
Coefficient = Annotated[float, msgspec.Meta(ge=-10, le=10)]  # its exponential is multiplied, and stays finite
Dimension = Annotated[int, msgspec.Meta(ge=1)] | Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every part of the manifest: immutable, and an unknown field is an error."""


class File(_Part, frozen=True, kw_only=True):
    """One file of the bundle: path relative to it, size in bytes, sha256."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    bytes: Annotated[int, msgspec.Meta(ge=0, le=FILE_LIMIT)]
    sha256: Sha256


class Value(_Part, frozen=True, kw_only=True):
    """A named input or output of a block; a dimension given as text is dynamic."""

    name: Name
    shape: Annotated[list[Dimension], msgspec.Meta(max_length=8)]
    dtype: Literal["float32"] = "float32"


class Errors(_Part, frozen=True, kw_only=True):
    """How far a quantised policy is from the float32 one with the same flow: shares of each joint's range
    over whole chunks, and the least cosine of a flow step's velocities (of the chunk, without a flow).
    """

    chunk_mae: Annotated[float, msgspec.Meta(ge=0)]
    chunk_max: Annotated[float, msgspec.Meta(ge=0)]
    cosine: Annotated[float, msgspec.Meta(ge=-1, le=1)]


class Converter(_Part, frozen=True, kw_only=True):
    """What `vlad convert` had a block compiled by: it runs with a driver and a firmware of the same version only."""

    name: Name
    version: Name
    target: Name


class Tflite(_Part, frozen=True, kw_only=True):
    """What `vlad tflite` made a block of, and how far the whole policy with it is from the one before.

    operators: nodes in the file by operator; cpu_operators: those of them that Neutron is not known to take.
    """

    source: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    manifest_sha256: Sha256
    dataset: Annotated[str, msgspec.Meta(max_length=255)]
    errors: Errors
    observations: Count
    operators: dict[str, Count]
    cpu_operators: dict[str, Count]
    converter: Converter | None = None


class Block(_Part, frozen=True, kw_only=True):
    """One graph and the backend that runs it. `dtype` is what its weights are stored as, "mixed" for more
    than one kind; inputs and outputs are float32 always. `flops` is for the longest prefix,
    `parameters` and bytes as stored. `tflite`: of a block for LiteRT, how it was made.
    """

    name: Name
    file: File
    backend: Literal["onnxruntime", "litert"]
    dtype: Literal["float32", "float16", "bfloat16", "int8", "int4", "mixed"]
    inputs: Annotated[list[Value], msgspec.Meta(min_length=1, max_length=128)]
    outputs: Annotated[list[Value], msgspec.Meta(min_length=1, max_length=128)]
    parameters: Count
    flops: Count
    tflite: Tflite | None = None


class Camera(_Part, frozen=True, kw_only=True):
    """One camera in policy order: short name, the policy's feature and the dataset's key for it."""

    name: Name
    feature: Name
    source: Name


class ActCamera(Camera, frozen=True, kw_only=True):
    """An ACT sees frames as the camera delivers them: `height` x `width` pixels, `tokens` of them made.

    mean, std, eps: of its red, green and blue, for pixels of 0..1.
    """

    height: Annotated[int, msgspec.Meta(ge=1, le=8192)]
    width: Annotated[int, msgspec.Meta(ge=1, le=8192)]
    tokens: Positive
    mean: Annotated[list[float], msgspec.Meta(min_length=3, max_length=3)]
    std: Annotated[list[float], msgspec.Meta(min_length=3, max_length=3)]
    eps: Annotated[float, msgspec.Meta(ge=0)]


class Joint(_Part, frozen=True, kw_only=True):
    """One joint in policy order; a gripper is 0..1, any other joint is in radians in the core."""

    name: Name
    gripper: bool


class Statistics(_Part, frozen=True, kw_only=True):
    """LeRobot's MEAN_STD normalisation in the units of the recording, one number per joint."""

    mean: list[float]
    std: list[float]
    eps: Annotated[float, msgspec.Meta(ge=0)]


class Task(_Part, frozen=True, kw_only=True):
    """A task that the policy was trained on, with its token ids (newline included, padding not)."""

    text: TaskText
    token_ids: Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(min_length=1, max_length=1024)]


class TokenTable(_Part, frozen=True, kw_only=True):
    """Token embeddings: the rows of `token_ids`, or the whole vocabulary where `token_ids` is null.

    `dtype` is the checkpoint's own; bfloat16 is stored as its uint16 bits. before: ids of what precedes every
    task, whose rows `scale` does not scale.
    """

    file: File
    dtype: Literal["float32", "float16", "bfloat16"]
    rows: Positive
    token_ids: list[Annotated[int, msgspec.Meta(ge=0)]] | None
    scale: float
    before: Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=64)] = []


class Flow(_Part, frozen=True, kw_only=True):
    """The flow-matching sampler: solver, default number of steps and the periods of its time
    embedding.
    """

    solver: Solver = "euler"
    steps: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    min_period: Annotated[float, msgspec.Meta(gt=0)]
    max_period: Annotated[float, msgspec.Meta(gt=0)]
    embedding: Annotated[int, msgspec.Meta(ge=2, le=65536, multiple_of=2)]


class Prefix(_Part, frozen=True, kw_only=True):
    """Sizes of the language model's keys and values."""

    layers: Positive
    kv_heads: Positive
    head_dim: Positive
    hidden: Positive
    image_tokens: Positive
    max_tokens: Positive


class Golden(_Part, frozen=True, kw_only=True):
    """Arrays that the bundle was built with: the loaded policy must reproduce `outputs` within
    `tolerance`, or within that of `tolerances` for an output that has one of its own.
    """

    task: Count
    inputs: dict[str, File]
    outputs: dict[str, File]
    tolerance: Annotated[float, msgspec.Meta(gt=0, le=1)]
    tolerances: dict[str, Annotated[float, msgspec.Meta(gt=0, le=1e6)]] = {}


class Quantisation(_Part, frozen=True, kw_only=True):
    """What `vlad quantize` made of a float32 bundle: of each block the scheme of each group of layers that
    is not float32 any more, and the errors measured on `observations` of episodes that calibrated nothing.
    """

    source: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    manifest_sha256: Sha256
    dataset: Annotated[str, msgspec.Meta(max_length=255)]
    groups: dict[str, dict[str, Literal["float16", "bfloat16", "static8", "dynamic8", "token8", "weights4"]]]
    errors: Errors
    budget: Annotated[float, msgspec.Meta(gt=0)]
    observations: Count


class Checkpoint(_Part, frozen=True, kw_only=True):
    """Where the weights came from."""

    sha256: Sha256


class SmolvlaCheckpoint(Checkpoint, frozen=True, kw_only=True):
    """With the choices that a SmolVLA's configuration leaves to its surroundings."""

    vlm: str
    position_ids: str


class _Manifest(_Part, frozen=True, kw_only=True, tag_field="policy_type"):
    """What the daemon knows of any policy. Lengths are counts, rates Hz, images pixels."""

    BLOCKS: ClassVar[frozenset[str]]

    format_version: Literal[1]
    tools: dict[str, str]
    blocks: Annotated[list[Block], msgspec.Meta(min_length=1, max_length=16)]
    joints: Annotated[list[Joint], msgspec.Meta(min_length=1, max_length=MAX_JOINTS)]
    units: Units
    state: Statistics
    action: Statistics
    rate_hz: Annotated[float, msgspec.Meta(gt=0, le=1000)]
    chunk_size: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    golden: Golden | None = None
    quantisation: Quantisation | None = None
    notes: list[str] = []

    @property
    def policy_type(self) -> str:
        """The word for it: smolvla, act."""
        return str(self.__struct_config__.tag)


class SmolvlaManifest(_Manifest, frozen=True, kw_only=True, tag="smolvla"):
    """A SmolVLA: a vision-language model, and an expert that samples chunks by flow matching."""

    BLOCKS = frozenset({"vision", "prefill", "context", "expert"})

    checkpoint: SmolvlaCheckpoint
    cameras: Annotated[list[Camera], msgspec.Meta(min_length=1, max_length=4)]
    image_side: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    max_state_dim: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    max_action_dim: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    max_task_tokens: Positive
    flow: Flow
    prefix: Prefix
    tasks: Annotated[list[Task], msgspec.Meta(min_length=1, max_length=4096)]
    token_table: TokenTable
    tokenizer: File | None = None

    @property
    def state_width(self) -> int:
        """Of the state as the blocks take it."""
        return self.max_state_dim

    @property
    def longest(self) -> int:
        """What bounds every dynamic dimension of its blocks: tokens of all cameras, of the longest task and
        what precedes it, and the state."""
        before = len(self.token_table.before)
        return len(self.cameras) * self.prefix.image_tokens + before + self.max_task_tokens + 1

    @property
    def task_texts(self) -> tuple[str, ...]:
        """The tasks that it was trained on."""
        return tuple(task.text.rstrip("\n") for task in self.tasks)


class ActManifest(_Manifest, frozen=True, kw_only=True, tag="act"):
    """An ACT: an encoder and a decoder over the features of all cameras. It reads no text: its tasks say
    what it was trained on, and choose nothing.

    token_width: of one image token. temporal_ensemble_coeff: what the checkpoint says, for
    `policy.aggregate = "temporal_ensemble"`.
    """

    BLOCKS = frozenset({"vision", "policy"})

    checkpoint: Checkpoint
    cameras: Annotated[list[ActCamera], msgspec.Meta(min_length=1, max_length=4)]
    token_width: Positive
    tasks: Annotated[list[TaskText], msgspec.Meta(min_length=1, max_length=4096)]
    temporal_ensemble_coeff: Coefficient | None

    @property
    def state_width(self) -> int:
        """Of the state as the blocks take it."""
        return len(self.joints)

    @property
    def longest(self) -> int:
        """What bounds every dynamic dimension of its blocks: pixels of one side, and tokens of one camera."""
        return max(max(c.height, c.width, c.tokens) for c in self.cameras)

    @property
    def task_texts(self) -> tuple[str, ...]:
        """The tasks that it was trained on."""
        return tuple(text.rstrip("\n") for text in self.tasks)


Manifest = SmolvlaManifest | ActManifest


def files(manifest: Manifest) -> list[File]:
    """Every file that a manifest names."""
    found = [block.file for block in manifest.blocks]
    if isinstance(manifest, SmolvlaManifest):
        found.append(manifest.token_table.file)
        if manifest.tokenizer is not None:
            found.append(manifest.tokenizer)
    if manifest.golden is not None:
        found += [*manifest.golden.inputs.values(), *manifest.golden.outputs.values()]
    return found


def parse_manifest(text: bytes, where: str = MANIFEST) -> Manifest:
    """Decode and check manifest JSON. Raises BundleError with the path of the offending field."""
    try:
        version = msgspec.json.decode(text, type=_Version).format_version
        if version != FORMAT_VERSION:
            raise BundleError(
                f"{where}: format version {version}, this vlad reads {FORMAT_VERSION}: rebuild it with `vlad build`"
            )
        manifest: Manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{where}: {error}") from None
    for message in [*_repetitions(text), *_disagreements(manifest)]:
        raise BundleError(f"{where}: {message}")
    return manifest


def _repetitions(text: bytes) -> list[str]:
    """Fields that an object has twice: readers differ in which one they take, so no signature may cover one."""
    repeated: list[str] = []

    def judge(pairs: list[tuple[str, Any]]) -> None:
        names = {name for name, _ in pairs}
        if len(names) < len(pairs):
            repeated.extend(sorted(n for n in names if sum(n == name for name, _ in pairs) > 1))

    json.loads(text, object_pairs_hook=judge, parse_int=str, parse_float=str)  # only names matter
    return [f"field {name!r} is there twice" for name in repeated]


class _Version(msgspec.Struct):
    format_version: int


def _disagreements(m: Manifest) -> list[str]:
    """What the schema alone cannot see."""
    names = [b.name for b in m.blocks]
    paths = [file.path for file in files(m)]
    checks = {
        f"blocks {names}, expected one each of {sorted(m.BLOCKS)}": len(names) == len(m.BLOCKS)
        and set(names) == m.BLOCKS,
        "joints repeat a name": len({j.name for j in m.joints}) == len(m.joints),
        "cameras repeat a name": len({c.name for c in m.cameras}) == len(m.cameras),
        f"golden.task names none of {len(m.tasks)} tasks": m.golden is None or m.golden.task < len(m.tasks),
        "golden.tolerances names what is no golden output": m.golden is None
        or set(m.golden.tolerances) <= set(m.golden.outputs),
        "two entries name the same file": len(set(paths)) == len(paths),
        "quantisation names a block that there is not": m.quantisation is None
        or set(m.quantisation.groups) <= set(names),
    }
    wrong = [message for message, holds in checks.items() if not holds]
    for block in m.blocks:
        groups = {} if m.quantisation is None else m.quantisation.groups.get(block.name, {})
        if (block.backend == "litert") != (block.tflite is not None):
            wrong.append(f"block {block.name} is for {block.backend}, and field tflite is for litert alone")
        if block.tflite is not None:
            more = Counter(block.tflite.cpu_operators) - Counter(block.tflite.operators)
            if more:
                wrong.append(f"block {block.name}: cpu_operators has {dict(more)} that operators has not")
        dynamic = [f"{v.name} {d}" for v in (*block.inputs, *block.outputs) for d in v.shape if isinstance(d, str)]
        if block.backend == "litert" and dynamic:
            wrong.append(f"block {block.name} is for litert, where no dimension is dynamic: {', '.join(dynamic)}")
        plain = block.dtype == "float32" or block.backend == "litert"
        if groups if plain else not groups and block.dtype in _QUANTISED:
            wrong.append(f"block {block.name} is {block.dtype}, quantisation names {len(groups)} groups of it")
    for what, statistics in (("state", m.state), ("action", m.action)):
        wrong += _statistics_disagreements(what, statistics, len(m.joints))
    return wrong + (_smolvla_disagreements(m) if isinstance(m, SmolvlaManifest) else _act_disagreements(m))


def _act_disagreements(m: ActManifest) -> list[str]:
    wrong = []
    for camera in m.cameras:
        what = f"camera {camera.name}"
        if not all(map(math.isfinite, [*camera.mean, *camera.std, camera.eps])):
            wrong.append(f"{what}: statistics are not finite")
        elif min(camera.std) + camera.eps <= 0 or min(camera.std) < 0:
            wrong.append(f"{what}: a deviation of {min(camera.std)} cannot be divided by")
        if camera.tokens > camera.height * camera.width:
            wrong.append(f"{what}: {camera.tokens} tokens of {camera.height} x {camera.width} pixels")
    return wrong


def _smolvla_disagreements(m: SmolvlaManifest) -> list[str]:
    wrong = []
    if len(m.joints) > min(m.max_state_dim, m.max_action_dim):
        wrong.append(f"{len(m.joints)} joints exceed max_state_dim or max_action_dim")
    if m.longest > m.prefix.max_tokens:
        wrong.append(f"a prefix of {m.longest} tokens exceeds prefix.max_tokens {m.prefix.max_tokens}")
    return wrong + _task_disagreements(m)


def _statistics_disagreements(what: str, statistics: Statistics, joints: int) -> list[str]:
    if {len(statistics.mean), len(statistics.std)} != {joints}:
        return [f"{what} statistics are not for {joints} joints"]
    if not all(map(math.isfinite, [*statistics.mean, *statistics.std, statistics.eps])):
        return [f"{what} statistics are not finite"]
    if min(statistics.std) < 0:
        return [f"{what} statistics have a negative deviation"]
    if min(statistics.std) == 0:
        return [f"{what} statistics have a deviation of 0: a joint that never moved cannot be normalised"]
    return []


def _task_disagreements(m: SmolvlaManifest) -> list[str]:
    table, wrong = m.token_table, []
    if table.token_ids is not None and len(table.token_ids) != table.rows:
        wrong.append(f"token_table has {table.rows} rows for {len(table.token_ids)} token ids")
    if m.tokenizer is not None and table.token_ids is not None:
        wrong.append("a tokenizer needs the whole token_table")
    known = range(table.rows) if table.token_ids is None else set(table.token_ids)
    if not all(token in known for token in table.before):
        wrong.append("token_table.before names tokens that token_table does not hold")
    for task in m.tasks:
        if len(task.token_ids) > m.max_task_tokens:
            wrong.append(f"task {task.text!r} has more than {m.max_task_tokens} tokens")
        if not all(token in known for token in task.token_ids):
            wrong.append(f"task {task.text!r} uses tokens that token_table does not hold")
    return wrong
