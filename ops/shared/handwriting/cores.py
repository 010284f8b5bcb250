"""How many cores there are to use."""

import os
from pathlib import Path


def cores(limits: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Returns how many cores this process may use, at least 1: those of the machine, or the pod's share of them.

    Args:
        limits: Microseconds of all cores together in each period, and the period (cgroup v2); "max" for no limit.
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = limits.read_text("utf-8").split()
        return max(1, min(there, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return there
