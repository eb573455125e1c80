"""Privacy layers without torch: as steps in NumPy, or as an ONNX model in onnxruntime."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from typing_extensions import TypedDict

from sltool.errors import MissingPackageError

Array = NDArray[np.float32]

# Bytes of a convolution's neighbourhoods at a time: few enough for the processor's cache.
BLOCK_BYTES = 4 * 2**20


class Step(TypedDict):
    """One operation.

    Attributes:
        op: a name in `OPERATIONS`.
        tensors: the operation's name of a tensor -> its name in the file.
    """

    op: str
    tensors: NotRequired[dict[str, str]]
    stride: NotRequired[list[int]]
    padding: NotRequired[list[int]]
    size: NotRequired[int]
    slope: NotRequired[float]
    epsilon: NotRequired[float]


class PlainLayer(ABC):
    """A privacy layer that needs no torch."""

    @abstractmethod
    def __call__(self, x: Array) -> Array:
        """Standardised samples (n, *shape) float32 -> feature maps (n, *feature_shape) float32."""


class NumpyLayer(PlainLayer):
    """A layer that is a list of steps."""

    def __init__(self, steps: Sequence[Step], weights: Mapping[str, NDArray[Any]]) -> None:
        self._steps = [
            (
                step,
                {
                    own: np.asarray(weights[name], np.float32)
                    for own, name in step.get("tensors", {}).items()
                },
            )
            for step in steps
        ]

    def __call__(self, x: Array) -> Array:
        block = max(1, BLOCK_BYTES // max(1, self._largest(x)))
        parts = [self._run(x[start : start + block]) for start in range(0, len(x), block)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _largest(self, x: Array) -> int:
        """Bytes of the neighbourhoods that the first convolution makes of a sample."""
        kernels = [
            tensors["weight"] for step, tensors in self._steps if step["op"] == "convolution"
        ]
        return int(x[0].nbytes * (kernels[0][0, 0].size if kernels else 1))

    def _run(self, x: Array) -> Array:
        for step, tensors in self._steps:
            x = OPERATIONS[step["op"]](x, step, tensors)
        return np.ascontiguousarray(x)


class OnnxLayer(PlainLayer):
    """A layer that is an ONNX model with one input and one output.

    Args:
        threads: of onnxruntime.

    Raises:
        MissingPackageError: onnxruntime is not installed.
    """

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingPackageError("onnxruntime", "this privacy layer", "site") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def __call__(self, x: Array) -> Array:
        return np.asarray(self._session.run(None, {self._input: x})[0])


Tensors = Mapping[str, Array]


def _convolution(x: Array, step: Step, tensors: Tensors) -> Array:
    weight = tensors["weight"]
    filters, _, *kernel = weight.shape
    vertical, horizontal = step["padding"]
    padded = np.pad(x, ((0, 0), (0, 0), (vertical,) * 2, (horizontal,) * 2))
    down, across = step["stride"]
    # (n, C, H, W, kernel) -> (n, C, kernel, H, W)
    windows = sliding_window_view(padded, kernel, axis=(2, 3))[:, :, ::down, ::across]
    height, width = windows.shape[2:4]
    columns = windows.transpose(0, 1, 4, 5, 2, 3).reshape(len(x), -1, height * width)
    maps = weight.reshape(filters, -1) @ columns
    if "bias" in tensors:
        maps += tensors["bias"][:, None]
    return np.asarray(maps.reshape(len(x), filters, height, width))


def _dense(x: Array, step: Step, tensors: Tensors) -> Array:
    out = x @ tensors["weight"].T
    return np.asarray(out + tensors["bias"] if "bias" in tensors else out)


def _normalise(x: Array, step: Step, tensors: Tensors) -> Array:
    scale = tensors["weight"] / np.sqrt(tensors["running_var"] + np.float32(step["epsilon"]))
    shift = tensors["bias"] - tensors["running_mean"] * scale
    return np.asarray(x * scale[:, None, None] + shift[:, None, None])


def _pool(x: Array, step: Step, combine: np.ufunc) -> Array:
    size = step["size"]
    height, width = (side // size * size for side in x.shape[2:])
    corners = [
        x[:, :, row:height:size, column:width:size] for row in range(size) for column in range(size)
    ]
    pooled = corners[0].copy()
    for corner in corners[1:]:
        combine(pooled, corner, out=pooled)
    return pooled


def area_weights(side: int, size: int) -> Array:
    """(size, side) weights of an average over `size` areas, as torch's `adaptive_avg_pool2d`."""
    weights = np.zeros((size, side), np.float32)
    for index in range(size):
        area = slice(index * side // size, -(-(index + 1) * side // size))
        weights[index, area] = 1 / (area.stop - area.start)
    return weights


def _areas(x: Array, step: Step, tensors: Tensors) -> Array:
    size = step["size"]
    height, width = x.shape[2:]
    if (height, width) == (size, size):
        return x
    return np.asarray(area_weights(height, size) @ x @ area_weights(width, size).T)


def _leaky_relu(x: Array, step: Step, tensors: Tensors) -> Array:
    scaled = x * np.float32(step["slope"])
    # The larger of both where the slope is below 1: several times as fast as a choice by sign.
    return np.maximum(x, scaled, out=scaled) if step["slope"] <= 1 else np.where(x > 0, x, scaled)


def _sigmoid(x: Array, step: Step, tensors: Tensors) -> Array:
    # exp of large numbers would overflow.
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, np.float32(1), small) / (1 + small))


OPERATIONS: dict[str, Callable[[Array, Step, Tensors], Array]] = {
    "convolution": _convolution,
    "dense": _dense,
    "normalise": _normalise,
    "max-pool": lambda x, step, tensors: _pool(x, step, np.maximum),
    "average-pool": lambda x, step, tensors: (
        _pool(x, step, np.add) * np.float32(1 / step["size"] ** 2)
    ),
    "areas": _areas,
    "leaky-relu": _leaky_relu,
    "sigmoid": _sigmoid,
    "tanh": lambda x, step, tensors: np.tanh(x),
    "flatten": lambda x, step, tensors: x.reshape(len(x), -1),
}
