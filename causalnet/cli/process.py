"""How a command behaves as a process: signals and threads."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["fit_threads", "processor_share", "stoppable"]


@contextmanager
def stoppable() -> Iterator[None]:
    """Let a request to terminate unwind like Ctrl-C does, so that nothing half-written stays behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: Any) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def fit_threads() -> None:
    """Use as many threads as there are processors *for this process*.

    PyTorch counts those of the machine; in a container that is given a share of them it would start far more
    threads than can run, and they would wait for each other in every product.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, min(torch.get_num_threads(), usable, processor_share())))


def processor_share(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many processors the control group may use at once, rounded up; a large number for no limit."""
    for quota, period in (("cpu.max", ""), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError, IndexError, ZeroDivisionError):
            words = (root / quota).read_text().split()
            words += (root / period).read_text().split() if period else []
            if words[0] not in ("max", "-1"):
                return max(1, -(-int(words[0]) // int(words[1])))
    return sys.maxsize
