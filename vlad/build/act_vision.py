"""Block `vision` of an ACT: one camera image to image tokens (ResNet, projection).

    image  float32 [1, 3, height, width], normalised   ->   tokens float32 [rows * columns, dim]

Frozen batch normalisation is folded into the convolution before it (exact up to rounding). That of the
image is not folded into the first one: its border is padded with zeros of the normalised image, which no
bias of the convolution can say. Positions belong to block `policy`, which knows the cameras apart.
"""

from __future__ import annotations

import numpy as np

from vlad.build.act_architecture import ActArchitecture
from vlad.build.graph import Graph
from vlad.build.safetensors import SafeTensors

_BACKBONE = "model.backbone."
_EPS = np.float64(1e-5)  # of torchvision's FrozenBatchNorm2d


def build_act_vision(arch: ActArchitecture, weights: SafeTensors) -> Graph:
    """The graph of the block. Raises BundleError for weights that do not fit the architecture."""
    graph = Graph("vision")
    one_size = len(set(arch.sizes)) == 1
    size: list[int | str] = list(arch.sizes[0]) if one_size else ["height", "width"]
    image = graph.input("image", [1, 3, *size])

    net = _ResNet(graph, weights)
    x = net.convolve(image, "conv1", "bn1", (arch.widths[0], 3, 7, 7), stride=2)
    x = graph.op("MaxPool", graph.op("Relu", x), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    before = arch.widths[0]
    for stage, (blocks, width) in enumerate(zip(arch.blocks, arch.widths, strict=True), start=1):
        for index in range(blocks):
            stride = 2 if stage > 1 and index == 0 else 1
            x = net.block(x, f"layer{stage}.{index}", before, width, stride)
            before = width

    projection = weights.read("model.encoder_img_feat_input_proj.weight", (arch.dim, before, 1, 1))
    bias = weights.read("model.encoder_img_feat_input_proj.bias", (arch.dim,))
    flat = graph.op("Reshape", x, graph.integers([before, -1]))
    tokens = graph.linear(graph.op("Transpose", flat, perm=[1, 0]), "projection", projection[:, :, 0, 0], bias)
    graph.output(tokens, "tokens", [arch.tokens[0] if one_size else "tokens", arch.dim])
    return graph


def act_vision_flops(arch: ActArchitecture) -> int:
    """Multiply-adds times two of one image, of the largest camera."""
    height, width = max(arch.sizes, key=lambda size: size[0] * size[1])
    height, width = -(-height // 2), -(-width // 2)
    total = height * width * arch.widths[0] * 3 * 49
    height, width = -(-height // 2), -(-width // 2)
    before = arch.widths[0]
    for stage, (blocks, channels) in enumerate(zip(arch.blocks, arch.widths, strict=True), start=1):
        if stage > 1:
            height, width = -(-height // 2), -(-width // 2)
        first = 9 * before * channels + (before * channels if _has_shortcut(before, channels, stage) else 0)
        total += height * width * (first + (2 * blocks - 1) * 9 * channels * channels)
        before = channels
    return 2 * (total + height * width * before * arch.dim)


def _has_shortcut(before: int, width: int, stage: int) -> bool:
    """Whether the first block of a stage projects what it is added to."""
    return stage > 1 or before != width


class _ResNet:
    """Convolutions of the backbone with what follows each."""

    def __init__(self, graph: Graph, weights: SafeTensors) -> None:
        self._graph = graph
        self._weights = weights

    def convolve(self, x: str, conv: str, norm: str, shape: tuple[int, int, int, int], stride: int) -> str:
        """A convolution and its frozen batch normalisation, in one."""
        width, kernel = shape[0], shape[2]

        def of_norm(name: str) -> np.ndarray:
            return self._weights.read(f"{_BACKBONE}{norm}.{name}", (width,)).astype(np.float64)

        scale = of_norm("weight") / np.sqrt(of_norm("running_var") + _EPS)
        folded = self._weights.read(f"{_BACKBONE}{conv}.weight", shape) * scale[:, None, None, None]
        y: str = self._graph.op(
            "Conv",
            x,
            self._graph.weight(f"{conv}.weight", folded),
            self._graph.weight(f"{conv}.bias", of_norm("bias") - of_norm("running_mean") * scale),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
        )
        return y

    def block(self, x: str, name: str, before: int, width: int, stride: int) -> str:
        """Two 3x3 convolutions and what they are added to."""
        graph = self._graph
        inner = graph.op("Relu", self.convolve(x, f"{name}.conv1", f"{name}.bn1", (width, before, 3, 3), stride))
        added = self.convolve(inner, f"{name}.conv2", f"{name}.bn2", (width, width, 3, 3), 1)
        if stride > 1 or before != width:
            x = self.convolve(x, f"{name}.downsample.0", f"{name}.downsample.1", (width, before, 1, 1), stride)
        y: str = graph.op("Relu", graph.op("Add", added, x))
        return y
