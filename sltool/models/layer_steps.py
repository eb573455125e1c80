"""A privacy layer as a list of steps that NumPy can compute, for sites without torch.

The list is in the metadata of `privacy-layer.safetensors`, so that the encoding digest covers it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from sltool.models.learned_layer import ToSize
from sltool.models.numpy_layer import NumpyLayer, Step

# Samples that the steps are compared with the layer on.
PROBES = 2
# Greatest difference, relative to the largest value: sums in another order.
CLOSE = 1e-4


def layer_steps(layer: nn.Module, shape: tuple[int, ...]) -> list[Step] | None:
    """The steps that compute what `layer` does in evaluation; None if it has other parts.

    Args:
        layer: with weights, on the CPU.
        shape: of a sample.
    """
    try:
        steps = list(_steps(layer, ""))
    except _UnknownPartError:
        return None
    weights = {name: value.numpy() for name, value in layer.state_dict().items()}
    samples = torch.randn(PROBES, *shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = layer.eval()(samples).numpy()
    found = NumpyLayer(steps, weights)(samples.numpy())
    size = np.abs(expected).max(initial=1.0)
    # A layer may do more than its parts say, such as in a hook.
    same = found.shape == expected.shape and np.abs(found - expected).max(initial=0) < CLOSE * size
    return steps if same else None


class _UnknownPartError(Exception):
    """There is no step for a part of the layer."""


def _steps(part: nn.Module, prefix: str) -> Iterator[Step]:
    """The steps of a module whose tensors are called `prefix` + name in the state dict."""
    # Subclasses may compute something else.
    if type(part) is nn.Sequential:
        for name, inner in part.named_children():
            yield from _steps(inner, f"{prefix}{name}.")
    elif type(part) in STEPS:
        step = STEPS[type(part)](part)
        tensors = {name: f"{prefix}{name}" for name in part.state_dict()}
        if step:
            yield {**step, "tensors": tensors} if tensors else step
    else:
        raise _UnknownPartError


def _convolution(part: nn.Conv2d) -> Step:
    if part.groups != 1 or part.dilation != (1, 1) or part.padding_mode != "zeros":
        raise _UnknownPartError
    if isinstance(part.padding, str):
        raise _UnknownPartError
    return {"op": "convolution", "stride": [*part.stride], "padding": [*part.padding]}


def _pooling(op: str) -> Callable[[Any], Step]:
    def step(part: nn.MaxPool2d | nn.AvgPool2d) -> Step:
        size = part.kernel_size
        plain = part.padding == 0 and not part.ceil_mode and getattr(part, "dilation", 1) == 1
        if not isinstance(size, int) or part.stride != size or not plain:
            raise _UnknownPartError
        return {"op": op, "size": size}

    return step


def _normalisation(part: nn.BatchNorm2d) -> Step:
    if not part.affine or not part.track_running_stats:
        raise _UnknownPartError
    return {"op": "normalise", "epsilon": part.eps}


def _flatten(part: nn.Flatten) -> Step:
    if (part.start_dim, part.end_dim) != (1, -1):
        raise _UnknownPartError
    return {"op": "flatten"}


STEPS: dict[type[nn.Module], Callable[[Any], Step | None]] = {
    nn.Conv2d: _convolution,
    nn.Linear: lambda part: {"op": "dense"},
    nn.BatchNorm2d: _normalisation,
    nn.MaxPool2d: _pooling("max-pool"),
    nn.AvgPool2d: _pooling("average-pool"),
    ToSize: lambda part: {"op": "areas", "size": part.size},
    nn.ReLU: lambda part: {"op": "leaky-relu", "slope": 0.0},
    nn.LeakyReLU: lambda part: {"op": "leaky-relu", "slope": part.negative_slope},
    nn.Sigmoid: lambda part: {"op": "sigmoid"},
    nn.Tanh: lambda part: {"op": "tanh"},
    nn.Flatten: _flatten,
    nn.Identity: lambda part: None,
    nn.Dropout: lambda part: None,
}
