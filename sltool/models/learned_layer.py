"""The layers at the site that end in a short code: a bottleneck, which bounds what ships.

`sltool fit-privacy-layer` fits them; any model's layers follow them at the server.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from sltool.errors import StudyFileError
from sltool.models.numpy_layer import area_weights
from sltool.study.schema import Code


def code_shape(shape: tuple[int, ...], code: Code) -> tuple[int, ...]:
    """The shape of the code of a sample of this shape: (channels, size, size) or (channels,).

    Raises:
        StudyFileError: the image is smaller than its code.
    """
    if len(shape) != 3:
        return (code.channels,)
    if min(shape[1:]) < code.size:
        raise StudyFileError(
            f"model.code.size is {code.size}; the image has {shape[1]}x{shape[2]} pixels",
            expected=f"at most {min(shape[1:])}",
        )
    return (code.channels, code.size, code.size)


def learned_layer(shape: tuple[int, ...], code: Code) -> nn.Sequential:
    """From standardised samples (N, *shape) to codes (N, *code_shape) from -1 to 1."""
    code_shape(shape, code)
    if len(shape) != 3:
        return _dense(shape[0], code)
    return _convolutions(shape, code)


def _dense(columns: int, code: Code) -> nn.Sequential:
    hidden = [
        part
        for before, after in pairwise([columns, *code.widths])
        for part in (nn.Linear(before, after), nn.LeakyReLU())
    ]
    return nn.Sequential(*hidden, nn.Linear([columns, *code.widths][-1], code.channels), nn.Tanh())


def _convolutions(shape: tuple[int, ...], code: Code) -> nn.Sequential:
    """Convolutions that halve until the code's size; batch normalisation is fixed once fitted."""
    parts: list[nn.Module] = []
    channels, side = shape[0], min(shape[1:])
    pools = code.halve == "pool"
    for width in code.widths:
        halves = side >= 2 * code.size
        stride = 2 if halves and not pools else 1
        convolution = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        parts += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        if halves and pools:
            parts.append(nn.MaxPool2d(2))
        channels = width
        if halves:
            side = side // 2 if pools else (side + 1) // 2
    parts += [ToSize(code.size), nn.Conv2d(channels, code.channels, 3, padding=1, bias=False)]
    # Normalised, so that either sign of a value is about as frequent.
    return nn.Sequential(*parts, nn.BatchNorm2d(code.channels), nn.Tanh())


class ToSize(nn.Module):
    """Averages over areas: (N, C, H, W) -> (N, C, size, size)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2:] == (self.size, self.size):
            return x
        if torch.onnx.is_in_onnx_export():
            # ONNX has no average over areas of different sizes.
            down, across = (
                torch.from_numpy(area_weights(int(side), self.size)) for side in x.shape[2:]
            )
            return down @ x @ across.T
        return nn.functional.adaptive_avg_pool2d(x, self.size)
