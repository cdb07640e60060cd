"""Block `prefill`: image tokens, task tokens and state to the keys and values of every language
layer.

    tokens      float32 [n, hidden]               image then task tokens, already scaled; n may be 0
    state       float32 [1, max_state_dim]        normalised and zero padded
    past_key    float32 [layers, kv_heads, past, head_dim]   of a prefix already computed,
    past_value  float32 [layers, kv_heads, past, head_dim]   or past = 0
 -> key, value  float32 [layers, kv_heads, n + 1, head_dim]  of tokens and state, keys rotated

The state token is last. Image and task tokens see each other and the past; only the state token
sees itself, which is LeRobot's mask. So a fresh state on known images costs one token: n = 0, past
= keys and values without the old state. Padded task tokens are simply not given (exact: LeRobot
masks them and does not count their positions), and of the last layer only keys and values are
computed (the rest is dead at inference).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from vlad.build.architecture import Architecture
from vlad.build.graph import Graph, merge_heads, rope, rope_tables, split_heads
from vlad.build.safetensors import SafeTensors

_LAYERS = "model.vlm_with_expert.vlm.model.text_model.layers."
_HIDDEN = -1.0e30


def build_prefill(arch: Architecture, weights: SafeTensors) -> Graph:
    """The graph of the block. Raises BundleError for weights that do not fit the architecture."""
    graph = Graph("prefill")
    width = arch.max_state_dim
    past_shape: list[int | str] = [arch.layers, arch.kv_heads, "past", arch.head_dim]
    tokens = graph.input("tokens", ["n", arch.hidden])
    state = graph.input("state", [1, width])
    past_key = graph.input("past_key", past_shape)
    past_value = graph.input("past_value", past_shape)

    embedded = graph.linear(
        state,
        "state_proj",
        weights.read("model.state_proj.weight", (arch.hidden, width)),
        weights.read("model.state_proj.bias", (arch.hidden,)),
    )
    x = graph.op("Concat", tokens, embedded, axis=0)
    start = graph.dimension(past_key, 2)
    new = graph.dimension(x, 0)
    total = graph.op("Add", start, new)
    cos, sin = (
        graph.slice(graph.weight(name, table), start, total, 0)
        for name, table in zip(("rope_cos", "rope_sin"), rope_tables(arch.head_dim, arch.max_prefix), strict=True)
    )
    mask = _mask(graph, new, total, arch.heads // arch.kv_heads)

    def past_of(index: int, which: str) -> str:
        y: str = graph.op("Gather", which, graph.integer(index), axis=0)
        return y

    model = _Model(graph, arch, weights, cos, sin, mask)
    keys, values = [], []
    for index in range(arch.layers):
        with graph.scope(f"layer{index}"):
            past = past_of(index, past_key), past_of(index, past_value)
            x, key, value = _layer(model, x, index, *past)
        keys.append(graph.op("Unsqueeze", key, graph.integers([0])))
        values.append(graph.op("Unsqueeze", value, graph.integers([0])))
    out: list[int | str] = [arch.layers, arch.kv_heads, "n_and_state", arch.head_dim]
    graph.output(graph.op("Concat", *keys, axis=0), "key", out)
    graph.output(graph.op("Concat", *values, axis=0), "value", out)

    last = f"{_LAYERS}{arch.layers - 1}."
    dead: tuple[str, ...] = ("self_attn.q_proj", "self_attn.o_proj", "post_attention_layernorm")
    dead += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    weights.ignore(*(f"{last}{name}.weight" for name in dead))
    return graph


def prefill_flops(arch: Architecture, n: int) -> int:
    """Multiply-adds times two of `n` tokens, the state included."""
    d, kv = arch.hidden, arch.kv_heads * arch.head_dim
    layer = 2 * n * d * (2 * arch.heads * arch.head_dim + 2 * kv + 3 * arch.mlp)
    attention = 4 * n * n * arch.heads * arch.head_dim
    return (arch.layers - 1) * (layer + attention) + 4 * n * d * kv


def _mask(graph: Graph, new: str, total: str, group: int) -> str:
    """Additive mask `[group * new, total]`: the last column is hidden from all rows but the last
    one.
    """
    zero, one = graph.integer(0), graph.integer(1)
    rows = graph.op("Range", zero, graph.op("Squeeze", new), one)
    columns = graph.op("Range", zero, graph.op("Squeeze", total), one)
    last_row = graph.op("Sub", new, graph.integers([1]))
    last_column = graph.op("Sub", total, graph.integers([1]))
    early = graph.op("Unsqueeze", graph.op("Less", rows, last_row), graph.integers([1]))
    newest = graph.op("Unsqueeze", graph.op("Equal", columns, last_column), graph.integers([0]))
    mask = graph.op("Where", graph.op("And", early, newest), graph.scalar(_HIDDEN), graph.scalar(0.0))
    tiled: str = graph.op("Tile", mask, graph.integers([group, 1]))
    return tiled


@dataclasses.dataclass(frozen=True, slots=True)
class _Model:
    """What every layer shares."""

    graph: Graph
    arch: Architecture
    weights: SafeTensors
    cos: str
    sin: str
    mask: str


def _layer(model: _Model, x: str, index: int, past_key: str, past_value: str) -> tuple[str, str, str]:
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

    def rotated(value: str, count: int) -> str:
        return rope(graph, split_heads(graph, value, count, head_dim), model.cos, model.sin)

    normed = norm(x, "input_layernorm")
    key = rotated(linear(normed, "self_attn.k_proj", kv_width, d), kv_heads)
    value = split_heads(graph, linear(normed, "self_attn.v_proj", kv_width, d), kv_heads, head_dim)
    if index == arch.layers - 1:
        return x, key, value

    query = rotated(linear(normed, "self_attn.q_proj", width, d, head_dim**-0.5), heads)
    grouped = graph.op("Reshape", query, graph.integers([kv_heads, -1, head_dim]))
    all_keys = graph.op("Concat", past_key, key, axis=1)
    all_values = graph.op("Concat", past_value, value, axis=1)
    scores = graph.op("MatMul", grouped, graph.op("Transpose", all_keys, perm=[0, 2, 1]))
    probabilities = graph.op("Softmax", graph.op("Add", scores, model.mask), axis=-1)
    attended = graph.op("MatMul", probabilities, all_values)
    attended = graph.op("Reshape", attended, graph.integers([heads, -1, head_dim]))
    x = graph.op("Add", x, linear(merge_heads(graph, attended, width), "self_attn.o_proj", d, width))

    normed = norm(x, "post_attention_layernorm")
    gate = graph.silu(linear(normed, "mlp.gate_proj", arch.mlp, d))
    inner = graph.op("Mul", gate, linear(normed, "mlp.up_proj", arch.mlp, d))
    return graph.op("Add", x, linear(inner, "mlp.down_proj", d, arch.mlp)), key, value
