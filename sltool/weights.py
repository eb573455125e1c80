"""What privacy-layer.safetensors says about itself, read without torch."""

from __future__ import annotations

import json
from pathlib import Path

from sltool.errors import BadDataError
from sltool.study import Study

SHAPE = "feature_shape"


def feature_shape(path: Path, study: Study) -> tuple[int, ...]:
    """The shape (C, H, W) or (D,) of a feature map, if the file states it, at no cost.

    Of a file that does not, the network is built.

    Raises:
        BadDataError: the file is damaged.
    """
    stated = stated_shape(path)
    if stated is not None:
        return stated
    from sltool.models import base

    return base.feature_shape(study)


def stated_shape(path: Path) -> tuple[int, ...] | None:
    """The shape (C, H, W) or (D,) of a feature map that the file's metadata states.

    Returns:
        None for a file that states none, which `prepare` did not write.

    Raises:
        BadDataError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            stated = (file.metadata() or {}).get(SHAPE)
        return None if stated is None else _sizes(json.loads(stated))
    except (SafetensorError, ValueError, TypeError) as error:
        raise BadDataError(
            "the file of the privacy layer's weights is damaged",
            where=path,
            hint="copy the file again that came with study.yaml",
        ) from error


def _sizes(stated: list[int]) -> tuple[int, ...]:
    if not stated or not all(type(size) is int and size > 0 for size in stated):
        raise ValueError(f"{stated} is no shape")
    return tuple(stated)


def shape_metadata(shape: tuple[int, ...]) -> dict[str, str]:
    """The metadata that states `shape`. One key alone: safetensors orders several at random."""
    return {SHAPE: json.dumps(list(shape))}
