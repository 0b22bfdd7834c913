"""What the machine is, and how fast it multiplies matrices."""

import platform
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

__all__ = ["describe", "flop", "peak_memory", "products_seconds", "reset_peak_memory", "weight_shapes"]

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def describe(device: str = "cpu") -> str:
    """Return the name of the processor, or of the CUDA device."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def reset_peak_memory() -> None:
    """Start counting the process's peak memory anew, where the system can; elsewhere it counts from its start."""
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:
        return


def peak_memory() -> int:
    """Return the process's peak resident memory in bytes, the model and all libraries included."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def weight_shapes(modules: Iterable[torch.nn.Module]) -> Counter:
    """Count the weight matrices (in, out) of modules; each is used once for each token."""
    found: Counter = Counter()
    for part in (part for module in modules for part in module.modules()):
        weight = getattr(part, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.dim() == 2:
            shape = weight.shape if not isinstance(part, torch.nn.Linear) else weight.shape[::-1]
            found[tuple(shape)] += 1
    return found


def flop(shapes: Sequence[Counter], rows: int, tokens: int) -> float:
    """Return a sweep's arithmetic in products with the layers' weights.

    Counted are the natural run, every token through every node, and the sweep, ``rows`` (prompts × donors)
    once for each node through the nodes after it.  Attention itself, norms and the readout come on top and are not
    counted.

    Parameters
    ----------
    shapes
        The weight matrices of each node, in order of computation.
    rows, tokens
        Prompts × donors, and tokens of all prompts.
    """
    each = [2.0 * sum(inner * outer * count for (inner, outer), count in node.items()) for node in shapes]
    return _passes(each, rows, tokens)


def products_seconds(
    shapes: Sequence[Counter],
    rows: int,
    tokens: int,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> float:
    """Return the seconds that the arithmetic of :func:`flop` takes at the machine's own speed on those shapes."""
    distinct = {shape for node in shapes for shape in node}
    speeds = {shape: _row_seconds(*shape, device, dtype) for shape in distinct}
    each = [sum(speeds[shape] * count for shape, count in node.items()) for node in shapes]
    return _passes(each, rows, tokens)


def _passes(each: Sequence[float], rows: int, tokens: int) -> float:
    return tokens * sum(each) + rows * sum(sum(each[place + 1 :]) for place in range(len(each)))


def _row_seconds(inner: int, outer: int, device: str, dtype: torch.dtype, *, least: float = 0.4) -> float:
    """Return the seconds that one row takes through a matrix, in batches into an output that is kept."""
    rows = 1024 if device == "cpu" else 8192
    x = torch.randn(rows, inner, device=device, dtype=dtype)
    weight = torch.randn(inner, outer, device=device, dtype=dtype)
    out = torch.empty(rows, outer, device=device, dtype=dtype)
    torch.mm(x, weight, out=out)
    _wait(device)
    started, repeats = time.perf_counter(), 0
    while time.perf_counter() - started < least:
        for _ in range(5):
            torch.mm(x, weight, out=out)
        _wait(device)
        repeats += 5
    return (time.perf_counter() - started) / (repeats * rows)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
