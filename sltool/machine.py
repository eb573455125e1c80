"""The resources of the machine that are available to this process."""

from __future__ import annotations

import os


def available_cpus() -> int:
    """The number of CPUs that this process may use, which its CPU affinity may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
