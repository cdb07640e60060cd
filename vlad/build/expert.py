"""Block `expert`: one flow-matching step, the velocity of a noisy action chunk.

    x                 float32 [chunk, max_action_dim]       noisy actions, all (padded) dimensions
    time_embedding    float32 [1, expert_hidden]            of the flow time (vlad.expert.time_embedding)
    context_key<i>    float32 [s, kv_heads * head_dim]      of each language layer i that has an expert layer
    context_value<i>  float32 [s, kv_heads * head_dim]
 -> velocity          float32 [chunk, max_action_dim]

In self-attention layers the actions see the whole prefix and, causally, each other, at positions s,
s + 1, ...; in cross-attention layers they see the prefix alone and their positions start from 0
again, as in LeRobot (`forward_cross_attn_layer`, smolvlm_with_expert.py).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from vlad.build.architecture import Architecture
from vlad.build.functions import Heads
from vlad.build.graph import Graph, rope_tables
from vlad.build.safetensors import SafeTensors

_LAYERS = "model.vlm_with_expert.lm_expert.layers."
_HIDDEN = -1.0e30


def build_expert(arch: Architecture, weights: SafeTensors) -> Graph:
    """The graph of the block. Raises BundleError for weights that do not fit the architecture."""
    graph = Graph("expert", Heads(arch.heads, arch.kv_heads, arch.head_dim))
    chunk, d = arch.chunk_size, arch.expert_hidden
    shape: list[int | str] = ["s", arch.kv_heads * arch.head_dim]
    x = graph.input("x", [chunk, arch.max_action_dim])
    time = graph.input("time_embedding", [1, d])
    context = [
        (graph.input(f"context_key{i}", shape), graph.input(f"context_value{i}", shape)) for i in arch.expert_at
    ]

    sees_itself = len(arch.cross_layers) < len(arch.expert_at)
    tables = rope_tables(arch.head_dim, chunk + (arch.max_prefix if sees_itself else 0))
    cos, sin = (graph.weight(name, table) for name, table in zip(("rope_cos", "rope_sin"), tables, strict=True))
    first, last = graph.integers([0]), graph.integers([chunk])
    based = shifted = graph.slice(cos, first, last, 0), graph.slice(sin, first, last, 0)
    causal = ""
    if sees_itself:
        start = graph.dimension(context[0][0], 0)
        end = graph.op("Add", start, last)
        shifted = graph.slice(cos, start, end, 0), graph.slice(sin, start, end, 0)
        mask = graph.weight("causal_mask", np.tril(np.full((chunk, chunk), _HIDDEN, np.float32), k=-1))
        shown = graph.op("Expand", graph.scalar(0.0), graph.op("Concat", start, last, axis=0))
        causal = graph.op("Concat", shown, mask, axis=0)
    model = _Model(graph, arch, weights, shifted=shifted, based=based, causal=causal)

    hidden = _embed(graph, x, time, arch, weights)
    for index in range(len(arch.expert_at)):
        with graph.scope(f"layer{index}"):
            hidden = _mlp(model, _attention(model, hidden, index, *context[index]), index)
    norm = weights.read("model.vlm_with_expert.lm_expert.norm.weight", (d,))
    velocity = graph.linear(
        graph.rms_norm(hidden, "norm", norm, arch.rms_eps),
        "action_out_proj",
        weights.read("model.action_out_proj.weight", (arch.max_action_dim, d)),
        weights.read("model.action_out_proj.bias", (arch.max_action_dim,)),
    )
    graph.output(velocity, "velocity", [chunk, arch.max_action_dim])
    return graph


def expert_flops(arch: Architecture, s: int) -> int:
    """Multiply-adds times two of one flow step on a prefix of `s` tokens."""
    n, d, width, kv = (
        arch.chunk_size,
        arch.expert_hidden,
        arch.heads * arch.head_dim,
        arch.kv_heads * arch.head_dim,
    )
    layers = len(arch.expert_at)
    own = layers - len(arch.cross_layers)
    linears = layers * 2 * n * d * (2 * width + 3 * arch.expert_mlp) + own * 4 * n * d * kv
    attention = 4 * n * width * (layers * s + own * n)
    return linears + attention + 2 * n * d * (2 * arch.max_action_dim + 2 * d) + 2 * d * d


def _embed(graph: Graph, x: str, time: str, arch: Architecture, weights: SafeTensors) -> str:
    """Actions and time to expert tokens; the time half of the first layer is the same for all
    actions.
    """
    d = arch.expert_hidden
    actions = graph.linear(
        x,
        "action_in_proj",
        weights.read("model.action_in_proj.weight", (d, arch.max_action_dim)),
        weights.read("model.action_in_proj.bias", (d,)),
    )
    mixing = weights.read("model.action_time_mlp_in.weight", (d, 2 * d))
    bias = weights.read("model.action_time_mlp_in.bias", (d,))
    of_time = graph.linear(time, "action_time_mlp_in.time", mixing[:, d:], bias)
    mixed = graph.op("Add", of_time, graph.linear(actions, "action_time_mlp_in.action", mixing[:, :d]))
    return graph.linear(
        graph.silu(mixed),
        "action_time_mlp_out",
        weights.read("model.action_time_mlp_out.weight", (d, d)),
        weights.read("model.action_time_mlp_out.bias", (d,)),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Model:
    """What every layer shares. `shifted` and `based` are (cos, sin) from the end of the prefix and
    from 0, `causal` the mask `[s + chunk, chunk]` of prefix and actions; where no layer attends to the actions
    themselves, there is neither the first nor the last.
    """

    graph: Graph
    arch: Architecture
    weights: SafeTensors
    shifted: tuple[str, str]
    based: tuple[str, str]
    causal: str


def _attention(model: _Model, x: str, index: int, key: str, value: str) -> str:
    """Attention to the prefix, in self-attention layers to the actions too, and its residual."""
    graph, arch, weights = model.graph, model.arch, model.weights
    cross = arch.expert_at[index] in arch.cross_layers
    d, head_dim, heads, kv_heads = arch.expert_hidden, arch.head_dim, arch.heads, arch.kv_heads
    width, kv_width = heads * head_dim, kv_heads * head_dim

    def linear(source: str, name: str, rows: int, columns: int, scale: float = 1.0) -> str:
        weight = weights.read(f"{_LAYERS}{index}.self_attn.{name}.weight", (rows, columns))
        return graph.linear(source, name, weight * np.float32(scale) if scale != 1.0 else weight)

    weight = weights.read(f"{_LAYERS}{index}.input_layernorm.weight", (d,))
    normed = graph.rms_norm(x, "input_layernorm", weight, arch.rms_eps)
    angles = model.based if cross else model.shifted
    query = graph.rope(linear(normed, "q_proj", width, d, head_dim**-0.5), *angles)
    if not cross:
        key = graph.op("Concat", key, graph.rope(linear(normed, "k_proj", kv_width, d), *angles), axis=0)
        value = graph.op("Concat", value, linear(normed, "v_proj", kv_width, d), axis=0)
    attended = graph.attention(query, key, value, None if cross else model.causal)
    y: str = graph.op("Add", x, linear(attended, "o_proj", d, width))
    return y


def _mlp(model: _Model, x: str, index: int) -> str:
    graph, arch, weights = model.graph, model.arch, model.weights
    d, m = arch.expert_hidden, arch.expert_mlp
    key = f"{_LAYERS}{index}."
    weight = weights.read(f"{key}post_attention_layernorm.weight", (d,))
    normed = graph.rms_norm(x, "post_attention_layernorm", weight, arch.rms_eps)
    gate = graph.silu(graph.linear(normed, "gate_proj", weights.read(f"{key}mlp.gate_proj.weight", (m, d))))
    up = graph.linear(normed, "up_proj", weights.read(f"{key}mlp.up_proj.weight", (m, d)))
    inner = graph.op("Mul", gate, up)
    y: str = graph.op(
        "Add",
        x,
        graph.linear(inner, "down_proj", weights.read(f"{key}mlp.down_proj.weight", (d, m))),
    )
    return y
