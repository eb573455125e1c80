"""Pretrained weights from a file."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError

from sltool.errors import BadDataError, StorageError

State = dict[str, torch.Tensor]


def read_state(path: Path) -> State:
    """The tensors of a .safetensors or a .pth file; nothing but tensors is unpickled.

    Raises:
        StorageError: the file cannot be read.
        BadDataError: it is damaged, or contains anything other than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise StorageError.of(error, path, "read") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, SafetensorError) as error:
        raise BadDataError(
            f"the pretrained weights cannot be read: {str(error).splitlines()[0]}",
            where=path,
            expected="a state dict of tensors",
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise BadDataError(
            "the file does not contain a state dict",
            where=path,
            expected="tensors by name: 'conv1.weight' and so on",
            hint="save `network.state_dict()`, not the network or a whole checkpoint",
        )
    return state
