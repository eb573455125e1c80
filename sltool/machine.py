"""What the machine offers this process."""

from __future__ import annotations

import os


def available_cpus() -> int:
    """How many this process may use; fewer than the machine has where it was confined to some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
