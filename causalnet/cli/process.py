"""How a command behaves as a process: signals and threads."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["fit_threads", "processor_share", "stop_if_asked", "stoppable"]


_asked: list[int] = []


@contextmanager
def stoppable() -> Iterator[None]:
    """Let Ctrl-C and a request to terminate unwind, so that nothing half-written stays behind.

    Python drops an exception that happens to be raised inside a destructor or a callback; the request is
    therefore kept as well, for :func:`stop_if_asked`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: Any) -> NoReturn:
        _asked.append(number)
        _unwind(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked.clear()


def stop_if_asked() -> None:
    """Stop now if a signal asked for it, whatever became of the exception that was raised then."""
    if _asked:
        _unwind(_asked[-1])


def _unwind(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


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
