"""Block `vision`: one camera image to image tokens (SigLIP encoder, pixel shuffle, projection).

    image  float32 [1, 3, side, side] in [-1, 1]   ->   tokens float32 [image_tokens, hidden]

The tokens carry the factor sqrt(hidden) that LeRobot applies to them (`embed_prefix`,
modeling_smolvla.py). Of a policy with `add_image_special_tokens` the embeddings of the tokens before and
after a picture, which LeRobot does not scale, are rows of the output too.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vlad.build.architecture import EMBEDDING, Architecture
from vlad.build.functions import Heads
from vlad.build.graph import Graph
from vlad.build.safetensors import SafeTensors
from vlad.errors import BundleError

_MODEL = "model.vlm_with_expert.vlm.model."
_VISION = f"{_MODEL}vision_model."


def position_ids(patches: int, side: int, formula: str) -> NDArray[np.int64]:
    """Index into the learned position table of each of `patches` x `patches` patches, row by row.

    `formula`: "ordered" is what SigLIP means and what the policy computes in bfloat16 or with
    transformers 5; "transformers-4.57-float32" repeats the defect of transformers 4.55.1 to 4.57 in
    float32, for a policy that was trained with it (transformers issue 41190). Raises BundleError
    where rounding decides what the policy computes.
    """
    if formula == "ordered":
        # Patch k takes the place floor(k side / patches), and rounding must not change that: bfloat16 is off by up
        # to 1 / 512; float32 only where k / patches meets an edge between two places.
        axis = np.arange(patches) * side // patches
        edges = np.arange(1 / side, 1.0, 1 / side).astype(np.float32)
        rounded = np.arange(patches, dtype=np.float32) * np.float32(1 / patches)
        common = math.gcd(patches, side)
        exact = common & (common - 1) == 0 and math.lcm(patches, side) <= 480
        exact = exact and np.array_equal(np.searchsorted(edges, rounded, side="right"), axis)
        if side % patches and not exact:
            raise BundleError(f"vision: {patches} patches per side on a position table of {side} is not supported")
    elif formula == "transformers-4.57-float32":
        fractions = np.arange(patches, dtype=np.float32) / np.float32(patches) * np.float32(1 - 1e-6)
        boundaries = np.arange(1 / side, 1.0, 1 / side).astype(np.float32)
        axis = np.searchsorted(boundaries, fractions, side="right")
    else:
        raise BundleError(f"vision: unknown position formula {formula!r}")
    ids: NDArray[np.int64] = (axis[:, None] * side + axis[None, :]).reshape(-1).astype(np.int64)
    return ids


def build_vision(arch: Architecture, weights: SafeTensors, formula: str) -> Graph:
    """The graph of the block. Raises BundleError for weights that do not fit the architecture."""
    patches, hidden = arch.image_side // arch.patch, arch.vision_hidden
    graph = Graph("vision", Heads(arch.vision_heads, arch.vision_heads, hidden // arch.vision_heads))
    image = graph.input("image", [1, 3, arch.image_side, arch.image_side])

    kernel = weights.read(f"{_VISION}embeddings.patch_embedding.weight")
    table = weights.read(f"{_VISION}embeddings.position_embedding.weight")
    embedded = graph.op(
        "Conv",
        image,
        graph.weight("patch.weight", kernel),
        graph.weight("patch.bias", weights.read(f"{_VISION}embeddings.patch_embedding.bias", (hidden,))),
        strides=[arch.patch, arch.patch],
    )
    flat = graph.op("Reshape", embedded, graph.integers([hidden, patches * patches]))
    positions = graph.weight("positions", table[position_ids(patches, arch.position_side, formula)])
    x = graph.op("Add", graph.op("Transpose", flat, perm=[1, 0]), positions)

    for index in range(arch.vision_layers):
        with graph.scope(f"layer{index}"):
            x = _layer(graph, x, arch, weights, f"{_VISION}encoder.layers.{index}.")
    x = _layer_norm(graph, x, arch, weights, f"{_VISION}post_layernorm")
    tokens = _project(graph, x, arch, weights)
    if arch.image_marks is not None:
        marks = arch.image_marks
        before = graph.weight("marks.before", weights.rows(EMBEDDING, marks.before))
        after = graph.weight("marks.after", weights.rows(EMBEDDING, marks.after))
        tokens = graph.op("Concat", before, tokens, after, axis=0)
    graph.output(tokens, "tokens", [arch.image_tokens, arch.hidden])
    return graph


def vision_flops(arch: Architecture) -> int:
    """Multiply-adds times two of one image."""
    n, d, m = (arch.image_side // arch.patch) ** 2, arch.vision_hidden, arch.vision_mlp
    layer = 2 * n * d * (4 * d + 2 * m) + 4 * n * n * d
    connector = 2 * arch.patch_tokens * arch.pixel_shuffle**2 * d * arch.hidden
    return arch.vision_layers * layer + 2 * n * d * 3 * arch.patch**2 + connector


def _layer_norm(graph: Graph, x: str, arch: Architecture, weights: SafeTensors, key: str) -> str:
    size, name = (arch.vision_hidden,), key.rsplit(".", 1)[-1]
    scale = graph.weight(f"{name}.weight", weights.read(f"{key}.weight", size))
    bias = graph.weight(f"{name}.bias", weights.read(f"{key}.bias", size))
    y: str = graph.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=arch.vision_eps)
    return y


def _layer(graph: Graph, x: str, arch: Architecture, weights: SafeTensors, key: str) -> str:
    d = arch.vision_hidden
    scale = (d // arch.vision_heads) ** -0.5

    def linear(value: str, name: str, rows: int, columns: int, scale: float = 1.0) -> str:
        weight = weights.read(f"{key}{name}.weight", (rows, columns)) * np.float32(scale)
        bias = weights.read(f"{key}{name}.bias", (rows,)) * np.float32(scale)
        return graph.linear(value, name, weight, bias)

    normed = _layer_norm(graph, x, arch, weights, f"{key}layer_norm1")
    attended = graph.attention(
        linear(normed, "self_attn.q_proj", d, d, scale),
        linear(normed, "self_attn.k_proj", d, d),
        linear(normed, "self_attn.v_proj", d, d),
    )
    x = graph.op("Add", x, linear(attended, "self_attn.out_proj", d, d))

    normed = _layer_norm(graph, x, arch, weights, f"{key}layer_norm2")
    inner = graph.op("Gelu", linear(normed, "mlp.fc1", arch.vision_mlp, d), approximate="tanh")
    y: str = graph.op("Add", x, linear(inner, "mlp.fc2", d, arch.vision_mlp))
    return y


def _project(graph: Graph, x: str, arch: Architecture, weights: SafeTensors) -> str:
    side, s, d = arch.image_side // arch.patch, arch.pixel_shuffle, arch.vision_hidden
    grid = graph.op("Reshape", x, graph.integers([side // s, s, side // s, s, d]))
    blocks = graph.op("Transpose", grid, perm=[0, 2, 1, 3, 4])
    shuffled = graph.op("Reshape", blocks, graph.integers([arch.patch_tokens, s * s * d]))
    weight = weights.read(f"{_MODEL}connector.modality_projection.proj.weight", (arch.hidden, s * s * d))
    return graph.linear(shuffled, "projection", weight * np.float32(math.sqrt(arch.hidden)))
