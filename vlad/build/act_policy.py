"""Block `policy` of an ACT: image tokens of all cameras and the state to a chunk (encoder, decoder, head).

    tokens   float32 [image tokens, dim]   of the cameras in policy order
    state    float32 [1, joints]           normalised
 -> actions  float32 [actions, joints]     normalised

What does not depend on the observation is folded: the latent, which is zeros at inference, so that of its
projection the bias is left; the positions, sinusoidal of image tokens and learned of the others; and the
first decoder layer's attention to itself. That starts from zeros, so all its values are one row, and
attending to them gives this row whatever the queries are. Of the last decoder layer only the rows of
the actions that are kept are computed.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from vlad.build.act_architecture import ActArchitecture
from vlad.build.functions import Heads
from vlad.build.graph import Graph
from vlad.build.safetensors import SafeTensors

Array = NDArray[np.float32]

_EPS = 1e-5  # of torch's LayerNorm
_MODEL = "model."
_VAE = (
    "vae_encoder_cls_embed.weight",
    "vae_encoder_robot_state_input_proj.weight",
    "vae_encoder_robot_state_input_proj.bias",
    "vae_encoder_action_input_proj.weight",
    "vae_encoder_action_input_proj.bias",
    "vae_encoder_latent_output_proj.weight",
    "vae_encoder_latent_output_proj.bias",
    "vae_encoder_pos_enc",
)


def build_act_policy(arch: ActArchitecture, weights: SafeTensors) -> Graph:
    """The graph of the block. Raises BundleError for weights that do not fit the architecture."""
    graph = Graph("policy", Heads(arch.heads, arch.heads, arch.dim // arch.heads))
    d, n_image = arch.dim, sum(arch.tokens)
    tokens = graph.input("tokens", [n_image, d])
    state = graph.input("state", [1, arch.state_dim])
    model = _Model(graph, arch, weights)

    learned = weights.read(f"{_MODEL}encoder_1d_feature_pos_embed.weight", (2, d))
    image_positions = np.concatenate([image_position_table(*grid, d) for grid in arch.grids])
    positions = graph.weight("positions", np.concatenate([learned, image_positions]))
    latent = graph.weight("latent", model.read("encoder_latent_input_proj.bias", d)[None])
    embedded = graph.linear(
        state,
        "state_proj",
        model.read("encoder_robot_state_input_proj.weight", d, arch.state_dim),
        model.read("encoder_robot_state_input_proj.bias", d),
    )
    x = graph.op("Concat", latent, embedded, tokens, axis=0)
    for index in range(arch.encoder_layers):
        with graph.scope(f"encoder{index}"):
            x = model.encoder_layer(x, positions, f"encoder.layers.{index}.")
    if arch.pre_norm:
        x = model.norm(x, "encoder.norm")

    x = model.decode(x, graph.op("Add", x, positions))
    head = model.read("action_head.weight", arch.action_dim, d), model.read("action_head.bias", arch.action_dim)
    actions = graph.linear(model.norm(x, "decoder.norm"), "action_head", *head)
    graph.output(actions, "actions", [arch.actions, arch.action_dim])

    weights.ignore(f"{_MODEL}encoder_latent_input_proj.weight")  # of zeros
    if arch.uses_vae:  # it encodes what training knows and inference does not: the actions to come
        encoder = [name for name in weights.names() if name.startswith(f"{_MODEL}vae_encoder.")]
        weights.ignore(*encoder, *(f"{_MODEL}{name}" for name in _VAE))
    return graph


def act_policy_flops(arch: ActArchitecture) -> int:
    """Multiply-adds times two, the folded first self-attention left out."""
    s, c, n, d = sum(arch.tokens) + 2, arch.chunk_size, arch.actions, arch.dim
    inner = 2 * d * arch.feedforward
    total = arch.encoder_layers * (4 * s * d * d + 2 * s * s * d + s * inner) + d * arch.state_dim
    for index in range(arch.decoder_layers):
        rows = n if index == arch.decoder_layers - 1 else c
        if index > 0:
            total += 4 * c * d * d + 2 * c * c * d + rows * d * d  # its own attention, and the query
        total += 2 * s * d * d + 2 * rows * s * d + rows * (d * d + inner)
    return 2 * (total + n * d * arch.action_dim)


def image_position_table(rows: int, columns: int, dim: int) -> Array:
    """Positions `[rows * columns, dim]` of a feature map: sines and cosines, in turn, of the row in the
    first half and of the column in the second.

    Rows and columns count from 1 and are scaled to 2 pi, in float32. Source:
    `ACTSinusoidalPositionEmbedding2d` in lerobot/policies/act/modeling_act.py.
    """
    half = dim // 2
    exponents = np.float32(2) * (np.arange(half) // 2).astype(np.float32) / np.float32(half)
    wavelength = np.power(np.float32(10_000), exponents, dtype=np.float32)

    def features(count: int) -> Array:
        place = np.arange(1, count + 1, dtype=np.float32)
        place = place / (place[-1] + np.float32(1e-6)) * np.float32(2 * np.pi)
        angle = place[:, None] / wavelength
        made: Array = np.where(np.arange(half) % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)
        return made

    by_row = np.broadcast_to(features(rows)[:, None], (rows, columns, half))
    by_column = np.broadcast_to(features(columns)[None], (rows, columns, half))
    return np.concatenate([by_row, by_column], axis=-1).reshape(rows * columns, dim)


@dataclasses.dataclass(frozen=True, slots=True)
class _Attention:
    """Weights `[out, in]` and biases of one attention; those of the query carry 1 / sqrt(head_dim)."""

    query: tuple[Array, Array]
    key: tuple[Array, Array]
    value: tuple[Array, Array]
    out: tuple[Array, Array]


class _Model:
    """The transformer's layers, on weights read by their names."""

    def __init__(self, graph: Graph, arch: ActArchitecture, weights: SafeTensors) -> None:
        self._graph = graph
        self._arch = arch
        self._weights = weights

    def read(self, name: str, *shape: int) -> Array:
        return self._weights.read(f"{_MODEL}{name}", shape)

    def norm(self, x: str, key: str) -> str:
        graph, name = self._graph, key if key.count(".") == 1 else key.rsplit(".", 1)[-1]
        weight = graph.weight(f"{name}.weight", self.read(f"{key}.weight", self._arch.dim))
        bias = graph.weight(f"{name}.bias", self.read(f"{key}.bias", self._arch.dim))
        y: str = graph.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=_EPS)
        return y

    def encoder_layer(self, x: str, positions: str, key: str) -> str:
        """Attention of all tokens to each other and what is added to it, then the two linear layers."""
        graph, pre_norm = self._graph, self._arch.pre_norm
        normed = self.norm(x, f"{key}norm1") if pre_norm else x
        attended = self._self_attention(normed, positions, self._attention(f"{key}self_attn"))
        x = graph.op("Add", x, attended)
        x = x if pre_norm else self.norm(x, f"{key}norm1")
        return self._feed_forward(x, key, f"{key}norm2")

    def decode(self, encoded: str, placed: str) -> str:
        """The decoder's rows, one for each action kept, of the encoder's output without and with positions."""
        graph, arch = self._graph, self._arch
        queries = self.read("decoder_pos_embed.weight", arch.chunk_size, arch.dim)
        x = ""
        for index in range(arch.decoder_layers):
            key = f"decoder.layers.{index}."
            rows = arch.actions if index == arch.decoder_layers - 1 else arch.chunk_size
            with graph.scope(f"decoder{index}"):
                cross = self._attention(f"{key}multihead_attn")
                if index == 0:
                    x, query = self._first_rows(key, cross, queries, rows)
                else:
                    x, query = self._rows(x, key, cross, queries, rows)
                keys = graph.linear(placed, "key", *cross.key)
                values = graph.linear(encoded, "value", *cross.value)
                attended = graph.linear(graph.attention(query, keys, values), "out", *cross.out)
                x = graph.op("Add", x, attended)
                x = x if arch.pre_norm else self.norm(x, f"{key}norm2")
                x = self._feed_forward(x, key, f"{key}norm3")
        return x

    def _rows(self, x: str, key: str, cross: _Attention, queries: Array, rows: int) -> tuple[str, str]:
        """What a decoder layer starts from after its attention to itself, and its queries to the encoder."""
        graph, pre_norm = self._graph, self._arch.pre_norm
        places = graph.weight("positions", queries)
        with graph.scope("self"):
            normed = self.norm(x, f"{key}norm1") if pre_norm else x
            x = graph.op("Add", x, self._self_attention(normed, places, self._attention(f"{key}self_attn")))
        x = x if pre_norm else self.norm(x, f"{key}norm1")
        if rows < len(queries):
            first, last = graph.integers([0]), graph.integers([rows])
            x, places = graph.slice(x, first, last, 0), graph.slice(places, first, last, 0)
        normed = self.norm(x, f"{key}norm2") if pre_norm else x
        return x, graph.linear(graph.op("Add", normed, places), "query", *cross.query)

    def _first_rows(self, key: str, cross: _Attention, queries: Array, rows: int) -> tuple[str, str]:
        """The same of the first layer, where both are constants."""
        pre_norm, width = self._arch.pre_norm, self._arch.dim
        own = self._attention(f"{key}self_attn")

        def normed(row: NDArray[np.float64], name: str) -> NDArray[np.float64]:
            centred = row - row.mean()
            weight, bias = self.read(f"{key}{name}.weight", width), self.read(f"{key}{name}.bias", width)
            scaled: NDArray[np.float64] = centred / np.sqrt(centred.dot(centred) / width + _EPS) * weight + bias
            return scaled

        row = np.zeros(width)
        value = _linear(normed(row, "norm1") if pre_norm else row, own.value)
        row = _linear(value, own.out)
        if not pre_norm:
            row = normed(row, "norm1")
        query = _linear((normed(row, "norm2") if pre_norm else row) + queries[:rows], cross.query)
        return self._graph.weight("start", row[None]), self._graph.weight("query", query)

    def _attention(self, key: str) -> _Attention:
        d = self._arch.dim
        scale = np.float32((d // self._arch.heads) ** -0.5)
        weight, bias = self.read(f"{key}.in_proj_weight", 3 * d, d), self.read(f"{key}.in_proj_bias", 3 * d)
        return _Attention(
            query=(weight[:d] * scale, bias[:d] * scale),
            key=(weight[d : 2 * d], bias[d : 2 * d]),
            value=(weight[2 * d :], bias[2 * d :]),
            out=(self.read(f"{key}.out_proj.weight", d, d), self.read(f"{key}.out_proj.bias", d)),
        )

    def _self_attention(self, x: str, positions: str, attention: _Attention) -> str:
        """Positions are added to queries and keys alone, so those two share a product."""
        graph, both = self._graph, zip(attention.query, attention.key, strict=True)
        product = graph.linear(graph.op("Add", x, positions), "query_key", *(np.concatenate(pair) for pair in both))
        query, key = graph.op("Split", product, outputs=2, axis=-1, num_outputs=2)
        value = graph.linear(x, "value", *attention.value)
        return graph.linear(graph.attention(query, key, value), "out", *attention.out)

    def _feed_forward(self, x: str, key: str, norm: str) -> str:
        graph, d, inner = self._graph, self._arch.dim, self._arch.feedforward
        normed = self.norm(x, norm) if self._arch.pre_norm else x
        wide = graph.linear(
            normed, "linear1", self.read(f"{key}linear1.weight", inner, d), self.read(f"{key}linear1.bias", inner)
        )
        wide = graph.op("Relu", wide) if self._arch.activation == "relu" else graph.op("Gelu", wide)
        narrow = graph.linear(
            wide, "linear2", self.read(f"{key}linear2.weight", d, inner), self.read(f"{key}linear2.bias", d)
        )
        y = graph.op("Add", x, narrow)
        return y if self._arch.pre_norm else self.norm(y, norm)


def _linear(x: NDArray[np.float64], layer: tuple[Array, Array]) -> NDArray[np.float64]:
    """`x @ weight.T + bias` in float64."""
    weight, bias = layer
    y: NDArray[np.float64] = x @ weight.T.astype(np.float64) + bias
    return y
