"""Whether timm can be imported here, which not every machine has."""

from __future__ import annotations

import importlib.util

import pytest
import torch

# Of torchvision's compiled operators, those that its Python part needs to be declared. A build for
# CUDA does not load its operators beside a torch for processors; timm's classifiers use none.
_DECLARED = ("nms", "qnms")
_library: torch.library.Library | None = None


def why_not() -> str:
    """Why timm cannot be tried here; '' if it can."""
    global _library
    missing = [name for name in ("timm", "torchvision") if importlib.util.find_spec(name) is None]
    if missing:
        return f"needs {' and '.join(missing)}: pip install 'sltool[timm]'"
    try:
        importlib.import_module("timm")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name in _DECLARED:
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("timm")
    return ""


needs_timm = pytest.mark.skipif(bool(why_not()), reason=why_not() or "timm is here")
