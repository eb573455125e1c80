"""How a network is computed: the floating-point precision and memory format of training."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from sltool.errors import UsageError

CPUINFO = Path("/proc/cpuinfo")
CHOICES = ("auto", "fp32", "bf16")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Precision:
    """fp32, or bf16: autocast to bfloat16, with weights and optimiser in float32.

    Attributes:
        reason: why this precision was chosen, for the user.
    """

    name: str
    device: torch.device
    reason: str

    def autocast(self) -> AbstractContextManager[object]:
        """The context for the network's forward pass."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def choose_precision(name: str, network: nn.Module, device: torch.device) -> Precision:
    """The precision of this name; for 'auto' the faster one for this network and device.

    bf16 is faster for convolutions on hardware with native bfloat16 products. A network of dense
    layers alone is too small to gain from it, and regression would lose accuracy.

    Raises:
        UsageError: the name is unknown, or the GPU does not support bfloat16.
    """
    if name not in CHOICES:
        raise UsageError(f"unknown precision '{name}'", expected=", ".join(CHOICES))
    hardware = _bf16_hardware(device)
    if name == "bf16" and device.type == "cuda" and not hardware:
        raise UsageError("this GPU does not support bfloat16", expected="--precision fp32 or auto")
    if name != "auto":
        return Precision(name, device, "as set by --precision")
    if not any(isinstance(module, CONVOLUTIONS) for module in network.modules()):
        return Precision("fp32", device, "a network without convolutions gains nothing from bf16")
    if hardware:
        return Precision("bf16", device, f"{hardware} is faster with it in convolutions")
    return Precision("fp32", device, f"this {device.type} has no native bf16 products")


def channels_last(network: nn.Module) -> nn.Module:
    """The network with its weights in channels-last memory format.

    It is faster if its batches have it too: in bf16, and in pooling.
    """
    moved: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def _bf16_hardware(device: torch.device) -> str:
    """The hardware here with native bfloat16 products; '' if there is none."""
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.cuda.get_device_name(device) if native else ""
    flags = _processor_flags()
    for flag, extension in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")):
        if flag in flags:
            return f"this processor's {extension}"
    return ""


def _processor_flags() -> set[str]:
    """The processor's feature flags from /proc/cpuinfo; empty on other systems."""
    if not CPUINFO.is_file():
        return set()
    lines = CPUINFO.read_text(encoding="ascii", errors="replace").splitlines()
    return set(next((line for line in lines if line.startswith("flags")), "").split())
