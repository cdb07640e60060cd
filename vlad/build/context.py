"""Block `context`: keys and values of the language layers to what the action expert attends to,
once per chunk.

    key<i>, value<i>  float32 [n, kv_heads * head_dim]    of each layer i with cross-attention
 -> context_key<i>, context_value<i>   float32 [n, kv_heads * head_dim]

Cross-attention layers of the expert project the language model's keys and values; LeRobot repeats
that in every flow step on the same input, here it is done once (exact). Self-attention layers take
them as they are. Each token is projected on its own, so a fresh state costs one. For a policy that
has no cross-attention layer the block hands on those of layer 0. Layers count as the language model's.
"""

from __future__ import annotations

from vlad.build.architecture import Architecture
from vlad.build.functions import Heads
from vlad.build.graph import Graph
from vlad.build.safetensors import SafeTensors

_LAYERS = "model.vlm_with_expert.lm_expert.layers."


def build_context(arch: Architecture, weights: SafeTensors) -> Graph:
    """The graph of the block. Raises BundleError for weights that do not fit the architecture."""
    graph = Graph("context", Heads(arch.heads, arch.kv_heads, arch.head_dim))
    width = arch.kv_heads * arch.head_dim
    for index in arch.cross_layers or (0,):
        for which, projection in (("key", "k_proj"), ("value", "v_proj")):
            value = graph.input(f"{which}{index}", ["n", width])
            if arch.cross_layers:
                expert = arch.expert_at.index(index)
                weight = weights.read(f"{_LAYERS}{expert}.self_attn.{projection}.weight", (width, width))
                with graph.scope(f"layer{index}"):
                    value = graph.linear(value, projection, weight)
            graph.output(value, f"context_{which}{index}", ["n", width])
    return graph


def context_flops(arch: Architecture, s: int) -> int:
    """Multiply-adds times two for a prefix of `s` tokens."""
    return len(arch.cross_layers) * 4 * s * (arch.kv_heads * arch.head_dim) ** 2
