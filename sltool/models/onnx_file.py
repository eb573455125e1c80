"""Networks as ONNX, checked against torch with onnxruntime."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sltool.errors import MissingPackageError, SltoolError

OPSET = 17
# Greatest difference between onnxruntime and torch, relative to the size of the output.
TOLERANCE = 1e-5


def to_onnx(
    network: nn.Module,
    example: torch.Tensor,
    names: tuple[str, str],
    metadata: Mapping[str, str],
) -> bytes:
    """The network as an ONNX model of opset 17, for batches of any size.

    Args:
        example: (n, ...) an input, of two samples or more.
        names: of the input and the output.
        metadata: the model's `metadata_props`.

    Raises:
        MissingPackageError: `onnx` is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingPackageError("onnx", "an export", "onnx") from error
    file = io.BytesIO()
    with warnings.catch_warnings():
        # torch's other exporter takes ten times as long and needs onnxscript.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (example,),
            file,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_axes={name: {0: "samples"} for name in names},
        )
    model = onnx.load_from_string(file.getvalue())
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def layer_to_onnx(layer: nn.Module, shape: tuple[int, ...]) -> bytes | None:
    """A privacy layer as an ONNX model; None if ONNX has no such operation, or computes another.

    Args:
        shape: of a standardised sample.

    Raises:
        MissingPackageError: `onnx` or `onnxruntime` is not installed.
    """
    samples = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        model = to_onnx(layer, samples, ("input", "feature_maps"), {})
        same = difference(layer, model, samples, 1.0) <= TOLERANCE
    except MissingPackageError:
        raise
    except Exception:  # noqa: BLE001 - each of three packages has errors of its own for a layer
        return None
    return model if same else None


def run_onnx(model: bytes, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """The output of a model with one input and one output, on the CPU.

    Raises:
        MissingPackageError: `onnxruntime` is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError("onnxruntime", "checking an export", "onnx") from error
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    output: Any = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    return np.asarray(output)


def difference(network: nn.Module, model: bytes, inputs: torch.Tensor, unit: float) -> float:
    """The greatest difference between onnxruntime and torch on (n, ...) inputs.

    In units of `unit` or the largest output, whichever is larger; for probabilities it is 1.
    """
    with torch.inference_mode():
        expected = network.eval()(inputs).numpy()
    found = run_onnx(model, inputs.numpy())
    size = max(unit, float(np.abs(expected).max(initial=0)))
    return float(np.abs(found - expected).max(initial=0)) / size


def check(network: nn.Module, model: bytes, inputs: torch.Tensor, unit: float, what: str) -> float:
    """`difference`, which may not exceed `TOLERANCE`.

    Raises:
        SltoolError: it does.
    """
    found = difference(network, model, inputs, unit)
    if not found <= TOLERANCE:
        raise SltoolError(
            f"{what} as ONNX differs from torch by {found:.2g} of the output's size",
            expected=f"at most {TOLERANCE:g}",
            hint="report the model and the versions of torch, onnx and onnxruntime",
        )
    return found
