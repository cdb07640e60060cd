"""Block `context`: keys and values of the language layers to what the action expert attends to,
once per chunk.

    key, value  float32 [layers, kv_heads, s, head_dim]
 -> context_key, context_value  float32 [layers, kv_heads, s, head_dim]

Cross-attention layers of the expert project the language model's keys and values; LeRobot repeats
that in every flow step on the same input, here it is done once (exact). Self-attention layers take
them as they are.
"""

from __future__ import annotations

from vlad.build.architecture import Architecture
from vlad.build.graph import Graph, merge_heads, split_heads
from vlad.build.safetensors import SafeTensors

_LAYERS = "model.vlm_with_expert.lm_expert.layers."


def build_context(arch: Architecture, weights: SafeTensors) -> Graph:
    """The graph of the block. Raises BundleError for weights that do not fit the architecture."""
    graph = Graph("context")
    width = arch.kv_heads * arch.head_dim
    shape: list[int | str] = [arch.layers, arch.kv_heads, "s", arch.head_dim]
    for which, projection in (("key", "k_proj"), ("value", "v_proj")):
        source = graph.input(which, shape)
        layers = []
        for index in range(arch.layers):
            with graph.scope(f"layer{index}"):
                value = graph.op("Gather", source, graph.integer(index), axis=0)
                if index in arch.cross_layers:
                    weight = weights.read(f"{_LAYERS}{index}.self_attn.{projection}.weight", (width, width))
                    value = graph.linear(merge_heads(graph, value, width), projection, weight)
                    value = split_heads(graph, value, arch.kv_heads, arch.head_dim)
                layers.append(graph.op("Unsqueeze", value, graph.integers([0])))
        graph.output(graph.op("Concat", *layers, axis=0), f"context_{which}", shape)
    return graph


def context_flops(arch: Architecture, s: int) -> int:
    """Multiply-adds times two for a prefix of `s` tokens."""
    return len(arch.cross_layers) * 4 * s * (arch.kv_heads * arch.head_dim) ** 2
