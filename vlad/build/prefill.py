"""Block `prefill`: image tokens, task tokens and state to the keys and values of every language
layer.

    tokens          float32 [n, hidden]          image then task tokens, already scaled; n may be 0
    state           float32 [1, max_state_dim]   normalised and zero padded
    past_key<i>     float32 [past, width]        of layer i, but the last one, of a prefix already
    past_value<i>   float32 [past, width]        computed, or past = 0; of a single layer, of that
 -> key<i>, value<i>   float32 [n + 1, width]    of each layer, of tokens and state, keys rotated

width = kv_heads * head_dim. Layers are those up to the last one that the expert attends to. A layer's keys
and values are inputs and outputs of their own, so that nothing is copied to take them apart or to join them.

The state token is last. Image and task tokens see each other and the past; only the state token
sees itself, which is LeRobot's mask. So a fresh state on known images costs one token: n = 0, past
= keys and values without the old state. Padded task tokens are simply not given (exact: LeRobot
masks them and does not count their positions), and of the last layer only keys and values are
computed (the rest is dead at inference).
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from vlad.build.architecture import Architecture
from vlad.build.functions import Heads
from vlad.build.graph import Graph, rope_tables
from vlad.build.safetensors import SafeTensors

_LAYERS = "model.vlm_with_expert.vlm.model.text_model.layers."
_HIDDEN = -1.0e30
_DEAD_OF_LAST = (
    "self_attn.q_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


def build_prefill(arch: Architecture, weights: SafeTensors) -> Graph:
    """The graph of the block. Raises BundleError for weights that do not fit the architecture."""
    graph = Graph("prefill", Heads(arch.heads, arch.kv_heads, arch.head_dim))
    width = arch.max_state_dim
    kv_width = arch.kv_heads * arch.head_dim
    tokens = graph.input("tokens", ["n", arch.hidden])
    state = graph.input("state", [1, width])
    past = [
        (graph.input(f"past_key{i}", ["past", kv_width]), graph.input(f"past_value{i}", ["past", kv_width]))
        for i in range(max(1, arch.layers - 1))
    ]

    embedded = graph.linear(
        state,
        "state_proj",
        weights.read("model.state_proj.weight", (arch.hidden, width)),
        weights.read("model.state_proj.bias", (arch.hidden,)),
    )
    x = graph.op("Concat", tokens, embedded, axis=0)
    start = graph.dimension(past[0][0], 0)
    new = graph.dimension(x, 0)
    total = graph.op("Add", start, new)
    cos, sin = (
        graph.slice(graph.weight(name, table), start, total, 0)
        for name, table in zip(("rope_cos", "rope_sin"), rope_tables(arch.head_dim, arch.max_prefix), strict=True)
    )
    model = _Model(graph, arch, weights, cos, sin, _mask(graph, new, total))
    for index in range(arch.layers):
        with graph.scope(f"layer{index}"):
            x, key, value = _layer(model, x, index, past[index] if index < arch.layers - 1 else None)
        graph.output(key, f"key{index}", ["n_and_state", kv_width])
        graph.output(value, f"value{index}", ["n_and_state", kv_width])

    dead = [f"{_LAYERS}{arch.layers - 1}.{name}.weight" for name in _DEAD_OF_LAST]
    later = re.compile(re.escape(_LAYERS) + r"(\d+)\.")
    for name in weights.names():
        layer = later.match(name)
        if layer is not None and int(layer[1]) >= arch.layers:
            dead.append(name)
    weights.ignore(*dead)
    return graph


def prefill_flops(arch: Architecture, n: int) -> int:
    """Multiply-adds times two of `n` tokens, the state included."""
    d, kv = arch.hidden, arch.kv_heads * arch.head_dim
    layer = 2 * n * d * (2 * arch.heads * arch.head_dim + 2 * kv + 3 * arch.mlp)
    attention = 4 * n * n * arch.heads * arch.head_dim
    return (arch.layers - 1) * (layer + attention) + 4 * n * d * kv + 2 * arch.max_state_dim * d


def _mask(graph: Graph, new: str, total: str) -> str:
    """Additive mask `[total, new]`: the last key is hidden from all queries but the last one."""
    zero, one = graph.integer(0), graph.integer(1)
    keys = graph.op("Range", zero, graph.op("Squeeze", total), one)
    queries = graph.op("Range", zero, graph.op("Squeeze", new), one)
    newest = graph.op("Equal", keys, graph.op("Sub", total, graph.integers([1])))
    early = graph.op("Less", queries, graph.op("Sub", new, graph.integers([1])))
    hidden = graph.op(
        "And",
        graph.op("Unsqueeze", newest, graph.integers([1])),
        graph.op("Unsqueeze", early, graph.integers([0])),
    )
    mask: str = graph.op("Where", hidden, graph.scalar(_HIDDEN), graph.scalar(0.0))
    return mask


@dataclasses.dataclass(frozen=True, slots=True)
class _Model:
    """What every layer shares."""

    graph: Graph
    arch: Architecture
    weights: SafeTensors
    cos: str
    sin: str
    mask: str


def _layer(model: _Model, x: str, index: int, past: tuple[str, str] | None) -> tuple[str, str, str]:
    """One language layer: its output, new keys and new values; the last one's output is dead."""
    graph, arch, weights = model.graph, model.arch, model.weights
    d, head_dim, heads, kv_heads = arch.hidden, arch.head_dim, arch.heads, arch.kv_heads
    width, kv_width = heads * head_dim, kv_heads * head_dim
    key_of = f"{_LAYERS}{index}."

    def linear(value: str, name: str, rows: int, columns: int, scale: float = 1.0) -> str:
        weight = weights.read(f"{key_of}{name}.weight", (rows, columns))
        return graph.linear(value, name, weight * np.float32(scale) if scale != 1.0 else weight)

    def norm(value: str, name: str) -> str:
        return graph.rms_norm(value, name, weights.read(f"{key_of}{name}.weight", (d,)), arch.rms_eps)

    normed = norm(x, "input_layernorm")
    key = graph.rope(linear(normed, "self_attn.k_proj", kv_width, d), model.cos, model.sin)
    value = linear(normed, "self_attn.v_proj", kv_width, d)
    if past is None:
        return x, key, value

    query = graph.rope(linear(normed, "self_attn.q_proj", width, d, head_dim**-0.5), model.cos, model.sin)
    keys = graph.op("Concat", past[0], key, axis=0)
    values = graph.op("Concat", past[1], value, axis=0)
    attended = graph.attention(query, keys, values, model.mask)
    x = graph.op("Add", x, linear(attended, "self_attn.o_proj", d, width))

    normed = norm(x, "post_attention_layernorm")
    gate = graph.silu(linear(normed, "mlp.gate_proj", arch.mlp, d))
    inner = graph.op("Mul", gate, linear(normed, "mlp.up_proj", arch.mlp, d))
    return graph.op("Add", x, linear(inner, "mlp.down_proj", d, arch.mlp)), key, value
