"""Drawing a privacy layer's weights so that it preserves information whatever the seed.

The layer is never trained, so what it loses cannot be recovered. Three things are controlled:

- Directions. Filters are unit vectors, orthogonal to each other (Saxe et al., "Exact solutions to
  the nonlinear dynamics of learning in deep linear neural networks", 2014); if there are more
  filters than inputs, in blocks (Yu et al., "Orthogonal Random Features", 2016).
  A convolution's filter is the sum of a mean, which responds to brightness, and a direction of zero
  mean, which responds to edges and texture. The share of the mean is the same in all filters, so
  that the response of a single channel to brightness does not depend on the seed.
- Scale. Each unit's output has a standard deviation of 1 on a probe: Mishkin and Matas, "All you
  need is a good init" (LSUV), 2016.
- Bias. ReLU and similar activations are zero, or nearly zero, for half of all inputs of zero mean.
  The bias moves all but a few per cent of the probe's values, and a black picture, into the active
  half. Values before a sigmoid or without activation are centred.

The probe is drawn too: rows of a standard normal distribution, or pictures with the 1/f amplitude
spectrum of natural images (Field, "Relations between the statistics of natural images and the
response properties of cortical cells", 1987), half of them with a black surround. No data of a
site is used, only the agreed means and standard deviations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import takewhile

import torch
from torch import nn

from sltool.study.schema import Samples

# Share of a filter's squared length that its mean has.
BRIGHTNESS = 0.5
# Share of the probe's values that may be in the inactive half of an activation; and the distance of
# a black picture from it, in standard deviations.
DEAD, MARGIN = 0.02, 0.1
ROWS, PICTURES = 4096, 8
# Values of each unit for estimating its quantiles.
SAMPLED = 20_000

HALF_DEAD = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish)
ACTIVATIONS = (*HALF_DEAD, nn.Sigmoid, nn.Tanh)
# These layers set the mean and scale of their inputs themselves.
Normalising = nn.LayerNorm | nn.GroupNorm
Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def draw(layer: nn.Module, samples: Samples) -> None:
    """Give every convolution, dense layer and embedding new weights, from torch's generator.

    Args:
        layer: from standardised samples (N, *shape) to feature maps.
    """
    parts = list(layer.modules())
    hooks = [
        part.register_forward_pre_hook(partial(_draw, parts[index + 1 :], len(samples.shape) == 3))
        for index, part in enumerate(parts)
        if isinstance(part, Weighted)
    ]
    hooks += [
        part.register_forward_pre_hook(_draw_embedding)
        for part in parts
        if isinstance(part, nn.Embedding)
    ]
    training = layer.training
    try:
        with torch.no_grad():
            layer.eval()(probe(samples))
    finally:
        layer.train(training)
        for hook in hooks:
            hook.remove()


def _draw_embedding(part: nn.Embedding, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Draw distinct vectors for the categories; replaces the probe's codes by uniform ones."""
    count, size = part.weight.shape
    part.weight.copy_(directions(count, size, bright=False) * size**0.5)
    return torch.randint(count, inputs[0].shape)


def _draw(
    following: Sequence[nn.Module],
    has_black: bool,
    part: Weighted,
    inputs: tuple[torch.Tensor, ...],
) -> None:
    """Draw a layer's weights before the probe passes through it."""
    units, fan_in = part.weight.flatten(1).shape
    rows = directions(units, fan_in, bright=not isinstance(part, nn.Linear))
    part.weight.copy_(rows.view_as(part.weight))
    if part.bias is not None:
        part.bias.zero_()
    # (units, N, positions)
    values = part.forward(*inputs).movedim(-1 if isinstance(part, nn.Linear) else 1, 0)
    values = values.reshape(len(values), len(inputs[0]), -1)
    sd = values.flatten(1).std(1).clamp(min=1e-6)
    part.weight.div_(sd.view(-1, *(1,) * (part.weight.dim() - 1)))
    bias, activation = _bias_and_activation(part, following)
    if bias is not None:
        black = values[:, 0].median(1).values / sd if has_black else None
        bias.copy_(_shift(values.flatten(1) / sd[:, None], black, activation))


def _shift(
    values: torch.Tensor, black: torch.Tensor | None, activation: nn.Module | None
) -> torch.Tensor:
    """The bias of each unit, (units,).

    Args:
        values: (units, n), the units' outputs on the probe, without bias.
        black: (units,), their outputs on a black picture; None for tables.
    """
    values = values[:, :: max(1, values.shape[1] // SAMPLED)]
    if not isinstance(activation, HALF_DEAD):
        return -values.median(1).values
    lowest = values.quantile(DEAD, dim=1)
    return -lowest if black is None else torch.maximum(-lowest, MARGIN - black)


def _bias_and_activation(
    part: Weighted, following: Iterable[nn.Module]
) -> tuple[torch.Tensor | None, nn.Module | None]:
    """The tensor that shifts the layer's output, and the activation that follows."""
    after = list(takewhile(lambda other: not isinstance(other, Weighted | Normalising), following))
    biases = (getattr(module, "bias", None) for module in [part, *after])
    activations = (module for module in after if isinstance(module, ACTIVATIONS))
    return (
        next((bias for bias in biases if isinstance(bias, torch.Tensor)), None),
        next(activations, None),
    )


def directions(units: int, inputs: int, bright: bool) -> torch.Tensor:
    """(units, inputs) rows of length 1, orthogonal in blocks.

    Args:
        bright: every row has the same absolute mean, with alternating sign.
    """
    if not bright or inputs == 1:
        return _orthogonal(units, inputs)
    # An orthonormal basis whose first vector is constant; the others have a mean of zero.
    start = torch.cat([torch.ones(inputs, 1), torch.randn(inputs, inputs - 1)], dim=1)
    zero_mean = torch.linalg.qr(start).Q[:, 1:]
    signs = torch.ones(units, 1)
    signs[1::2] = -1
    mean = signs * math.sqrt(BRIGHTNESS / inputs)
    texture: torch.Tensor = _orthogonal(units, inputs - 1) @ zero_mean.T
    return mean + math.sqrt(1 - BRIGHTNESS) * texture


def _orthogonal(units: int, inputs: int) -> torch.Tensor:
    """Rows of length 1; each block of `inputs` rows is a random orthogonal matrix."""
    blocks = [
        nn.init.orthogonal_(torch.empty(min(inputs, units - start), inputs))
        for start in range(0, units, inputs)
    ]
    return torch.cat(blocks)


def probe(samples: Samples) -> torch.Tensor:
    """Synthetic standardised samples (n, *shape); the first of pictures is black."""
    if len(samples.shape) != 3:
        return torch.randn(ROWS, *samples.shape)
    channels, height, width = samples.shape
    black = -torch.tensor(samples.mean) / torch.tensor(samples.sd)
    across, down = torch.linspace(-1, 1, width), torch.linspace(-1, 1, height)[:, None]
    pictures = _natural(channels, height, width)
    around = across**2 + down**2 > 0.7
    pictures[: PICTURES // 2] = torch.where(around, black[:, None, None], pictures[: PICTURES // 2])
    pictures[0] = black[:, None, None].expand(samples.shape)
    return pictures


def _natural(channels: int, height: int, width: int) -> torch.Tensor:
    """Noise (PICTURES, channels, height, width) of standard deviation 1 with a 1/f spectrum."""
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width))
    amplitude = torch.where(frequency > 0, 1 / frequency.clamp(min=1e-9), 0)
    size = (PICTURES, channels, height, width)
    # The channels of a colour picture are strongly correlated.
    noise = 0.8 * torch.randn(PICTURES, 1, height, width) + 0.6 * torch.randn(size)
    fields: torch.Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) * amplitude, s=(height, width))
    fields /= fields.std((1, 2, 3), keepdim=True).clamp(min=1e-6)
    return (fields + torch.randn(PICTURES, 1, 1, 1)) / 2**0.5
