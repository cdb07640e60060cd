"""The same numbers as LeRobot's SmolVLA, written for training on a CPU.

LeRobot's own code computes with general masks, positions and caches, one noise at a time. Here nothing is padded, so
masks and positions are constants; several noises share one prefix without its being repeated; and the whole is plain
enough for torch.compile to make few kernels of it. tests/reference/test_teabag_forward.py holds it against LeRobot's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlad.train.small_vlm import IMAGE_SIZE

_PATCH = 16
_ROPE_BASE = 10_000.0  # LeRobot's, whatever the configuration of the language model says
_NEVER = -1e30

Prefix = list[tuple[Tensor, Tensor]]
"""Keys, rotated, and values (n, prefix, head) of each layer."""


def pixels(pictures: Tensor) -> Tensor:
    """uint8 (n, cameras, 3, height, IMAGE_SIZE) to what the vision encoder takes: -1 to 1, padded above, a camera's
    pictures one by one (n * cameras, 3, IMAGE_SIZE, IMAGE_SIZE)."""
    scaled = pictures.float() / 127.5 - 1
    padded = F.pad(scaled, (0, 0, IMAGE_SIZE - pictures.shape[-2], 0), value=-1.0)
    return padded.flatten(0, 1)


def _norm(x: Tensor, norm: Any) -> Tensor:
    """Root mean square norm, in float32 also under autocast."""
    x = x.float()
    scaled: Tensor = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon) * norm.weight
    return scaled


def _angles(positions: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine (len(positions), width / 2) of a rotary embedding."""
    half = width // 2
    turns = positions[:, None].float() / _ROPE_BASE ** (torch.arange(half).float() / half)
    return torch.cos(turns), torch.sin(turns)


def _rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """x (..., positions, head) by angles(positions)."""
    cosine, sine = angles
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)


def _mlp(x: Tensor, mlp: Any) -> Tensor:
    out: Tensor = mlp.down_proj(F.silu(mlp.gate_proj(x)) * mlp.up_proj(x))
    return out


class Forward:
    """A policy's forward pass. `words`: of an instruction; `pictures`: tokens of all cameras together.

    Raises ValueError for a SmolVLA of another build: what is not asked for here is not in this arithmetic.
    """

    def __init__(self, policy: Any, words: int, pictures: int) -> None:
        self._model, self._inner = policy.model, policy.model.vlm_with_expert
        text, vision = self._inner.config.text_config, self._inner.config.vision_config
        settings = policy.config
        topology = (text.num_key_value_heads, settings.self_attn_every_n_layers, settings.attention_mode)
        if topology != (1, 2, "cross_attn"):
            raise ValueError("a SmolVLA with one key-value head, self-attention in every second layer, is expected")
        if (vision.patch_size, vision.image_size) != (_PATCH, IMAGE_SIZE) or settings.add_image_special_tokens:
            raise ValueError(f"pictures of {IMAGE_SIZE} in patches of {_PATCH}, without marks, are expected")
        self._heads, self._head, self._width = text.num_attention_heads, text.head_dim, text.hidden_size
        self._vision_heads, self._vision_width = vision.num_attention_heads, vision.hidden_size
        self._shuffle = self._inner.config.scale_factor
        self._chunk = settings.chunk_size
        self._prefix = prefix = pictures + words + 1
        self._prefix_angles = _angles(torch.arange(prefix), self._head)
        self._own_angles = _angles(prefix + torch.arange(self._chunk), self._head)
        self._cross_angles = _angles(torch.arange(self._chunk), self._head)
        # Pictures and words do not see the state, an action none that comes after it.
        self._prefix_mask = torch.zeros(prefix, prefix)
        self._prefix_mask[:-1, -1] = _NEVER
        self._own_mask = torch.full((self._chunk, self._chunk), _NEVER).triu(1)
        half = self._inner.expert_hidden_size // 2
        share = torch.linspace(0, 1, half, dtype=torch.float64)
        period = settings.min_period * (settings.max_period / settings.min_period) ** share
        self._frequencies = (2 * math.pi / period).float()

    def see(self, x: Tensor) -> Tensor:
        """Pixels (n, 3, IMAGE_SIZE, IMAGE_SIZE) to tokens (n, tokens, width): LeRobot's embed_image."""
        backbone = self._inner.get_vlm_model()
        encoder, n, side = backbone.vision_model, len(x), IMAGE_SIZE // _PATCH
        width, heads = self._vision_width, self._vision_heads
        patches = x.view(n, 3, side, _PATCH, side, _PATCH).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        embeddings = encoder.embeddings
        kernel = embeddings.patch_embedding.weight.flatten(1)
        h = F.linear(patches, kernel, embeddings.patch_embedding.bias) + embeddings.position_embedding.weight[None]
        for layer in encoder.encoder.layers:
            attention, y = layer.self_attn, layer.layer_norm1(h)
            q, k, v = (
                project(y).view(n, side * side, heads, width // heads).transpose(1, 2)
                for project in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            weights = torch.softmax((q @ k.transpose(-1, -2)).float() * (width // heads) ** -0.5, -1)
            out = (weights.to(v.dtype) @ v).transpose(1, 2).reshape(n, side * side, width)
            h = h + attention.out_proj(out)
            y = layer.layer_norm2(h)
            h = h + layer.mlp.fc2(F.gelu(layer.mlp.fc1(y), approximate="tanh"))
        h = encoder.post_layernorm(h)
        # Neighbouring patches become one token.
        by, side = self._shuffle, side // self._shuffle
        h = h.view(n, side, by, side, by, width).permute(0, 1, 3, 2, 4, 5).reshape(n, side * side, by * by * width)
        tokens: Tensor = backbone.connector.modality_projection.proj(h)
        return tokens

    def prefix(self, seen: Tensor, words: Tensor, state: Tensor) -> Prefix:
        """Of pictures' tokens (n, tokens, width) as see() gives them, word ids (n, words), normalised state (n, 8)."""
        text, n, length = self._inner.get_vlm_model().text_model, len(seen), self._prefix
        scale = math.sqrt(self._width)
        h = torch.cat([seen * scale, text.embed_tokens(words) * scale, self._model.state_proj(state)[:, None]], 1)
        kept: Prefix = []
        for layer in text.layers:
            attention, y = layer.self_attn, _norm(h, layer.input_layernorm)
            k, v = _rotate(attention.k_proj(y), self._prefix_angles), attention.v_proj(y)
            kept.append((k, v))
            if len(kept) == len(text.layers):
                break  # nothing reads what the last layer says
            q = attention.q_proj(y).view(n, length, self._heads, self._head).transpose(1, 2)
            q = _rotate(q, self._prefix_angles).reshape(n, self._heads * length, self._head)
            scores = (q @ k.transpose(1, 2)).float().view(n, self._heads, length, length) * self._head**-0.5
            weights = torch.softmax(scores + self._prefix_mask, -1).view(n, self._heads * length, length)
            out = (weights.to(v.dtype) @ v).view(n, self._heads, length, self._head).transpose(1, 2)
            h = h + attention.o_proj(out.reshape(n, length, self._width))
            h = h + _mlp(_norm(h, layer.post_attention_layernorm), layer.mlp)
        return kept

    def velocity(self, prefix: Prefix, noised: Tensor, times: Tensor) -> Tensor:
        """LeRobot's denoise_step for several draws: noised (n, draws, chunk, 8), times (n, draws)."""
        model, expert = self._model, self._inner.lm_expert
        n, draws = times.shape
        angles = times[..., None] * self._frequencies
        when = torch.cat([torch.sin(angles), torch.cos(angles)], -1)[:, :, None]
        actions = model.action_in_proj(noised)
        h = torch.cat([actions, when.expand(-1, -1, self._chunk, -1).to(actions.dtype)], -1)
        h = model.action_time_mlp_out(F.silu(model.action_time_mlp_in(h)))
        for i, layer in enumerate(expert.layers):
            y = _norm(h, layer.input_layernorm)
            attend = self._own_and_prefix if i % 2 == 0 else self._prefix_alone
            out = attend(layer.self_attn, y, *prefix[i])
            h = h + layer.self_attn.o_proj(out.transpose(2, 3).reshape(n, draws, self._chunk, -1))
            h = h + _mlp(_norm(h, layer.post_attention_layernorm), layer.mlp)
        velocity: Tensor = model.action_out_proj(_norm(h, expert.norm))
        return velocity

    def _queries(self, attention: Any, y: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """(n, draws, heads, chunk, head), rotated."""
        n, draws = y.shape[:2]
        q = attention.q_proj(y).view(n, draws, self._chunk, self._heads, self._head).transpose(2, 3)
        return _rotate(q, angles)

    def _own_and_prefix(self, attention: Any, y: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention to the prefix and to the chunk itself: as _queries()."""
        n, draws, chunk = y.shape[:3]
        rows = self._heads * chunk
        q = self._queries(attention, y, self._own_angles)
        k, v = _rotate(attention.k_proj(y), self._own_angles), attention.v_proj(y)
        shape = (n, draws, self._heads, chunk)
        to_prefix = (q.reshape(n, draws * rows, self._head) @ keys.transpose(1, 2)).float().view(*shape, self._prefix)
        own_q, own_k = q.reshape(n * draws, rows, self._head), k.reshape(n * draws, chunk, self._head)
        to_own = (own_q @ own_k.transpose(1, 2)).float().view(*shape, chunk)
        scale = self._head**-0.5
        weights = torch.softmax(torch.cat([to_prefix * scale, to_own * scale + self._own_mask], -1), -1).to(v.dtype)
        of_prefix = weights[..., : self._prefix].reshape(n, draws * rows, self._prefix) @ values.to(v.dtype)
        of_own = weights[..., self._prefix :].reshape(n * draws, rows, chunk) @ v.reshape(n * draws, chunk, self._head)
        return of_prefix.view(*shape, self._head) + of_own.view(*shape, self._head)

    def _prefix_alone(self, attention: Any, y: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention to the prefix through the expert's own projections: as _queries()."""
        n, draws, chunk = y.shape[:3]
        q = self._queries(attention, y, self._cross_angles)
        k, v = attention.k_proj(keys), attention.v_proj(values)
        scores = (q.reshape(n, -1, self._head) @ k.transpose(1, 2).to(q.dtype)).float() * self._head**-0.5
        out: Tensor = torch.softmax(scores, -1).to(v.dtype) @ v
        return out.view(n, draws, self._heads, chunk, self._head)
