"""The resources of the machine that are available to this process."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sltool.errors import MissingPackageError, UsageError

if TYPE_CHECKING:
    import torch

# What asked a run to stop, as its log has it.
CTRL_C, TERMINATED = "Ctrl-C", "SIGTERM"


def available_cpus() -> int:
    """The number of CPUs that this process may use, which its CPU affinity may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_installed(package: str) -> bool:
    """Whether the package can be imported; it is not imported."""
    return importlib.util.find_spec(package) is not None


@contextmanager
def importing(package: str) -> Iterator[None]:
    """Import a large package in a thread while the body runs, which must not import it as well."""
    thread = threading.Thread(target=importlib.import_module, args=(package,))
    thread.start()
    try:
        yield
    finally:
        thread.join()


@contextmanager
def sheltered_from_ctrl_c() -> Iterator[None]:
    """Processes that are started in the body ignore Ctrl-C: their parent ends them.

    A terminal sends it to all processes of a command. The signal's mask is inherited; what comes
    to this process meanwhile is delivered afterwards. No effect on Windows.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def need(package: str, purpose: str, extra: str) -> None:
    """Raise `MissingPackageError` unless the package can be imported.

    Args:
        purpose: what needs it, in the plural or singular of 'training needs'.
        extra: the extra of sltool that installs it.
    """
    if not is_installed(package):
        raise MissingPackageError(package, purpose, extra)


def pick_device(name: str) -> torch.device:
    """'auto', 'cpu', 'cuda' or 'cuda:N' -> a torch.device.

    Raises:
        UsageError: no such device here.
        MissingPackageError: torch is not installed.
    """
    need("torch", "a neural network", "server")
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UsageError(f"unknown device '{name}'", expected="auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"there is no device '{name}' here",
            expected=f"a number below {torch.cuda.device_count()}"
            if torch.cuda.is_available()
            else "cpu: this machine has no CUDA device that torch can use",
        )
    return device
