"""Measure one tool on one model in a process of its own; written for sweep.py, which starts it."""

import argparse
import contextlib
import importlib
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from machine import peak_memory, products_seconds, reset_peak_memory, weight_shapes
from task import Result, Steps, Task, reach, spread
from tools import TOOLS

__all__ = ["measure"]


def measure(task: Task, steps: Steps, *, seconds: float, repeat: int) -> Result:
    """Measure a tool on a task.

    Parameters
    ----------
    task, steps
        What is asked, and how the tool answers it.
    seconds
        Of the units (node × batch) as many are run as fit into so many seconds, at least one; the time of
        all is scaled up from them.
    repeat
        A tool that does the sweep in one piece does it so often; the median is reported.
    """
    reset_peak_memory()
    if steps.whole is not None:
        times, found = [], None
        for _ in range(repeat):
            started = time.perf_counter()
            found = steps.whole()
            times.append(time.perf_counter() - started)
        assert found is not None
        units = len(task.nodes) * len(task.batches)
        return Result(statistics.median(times), units, units, peak_memory(), *found)
    return _in_steps(task, steps, seconds)


def _in_steps(task: Task, steps: Steps, seconds: float) -> Result:
    assert steps.each is not None
    units = spread([(node, batch) for node in task.nodes for batch in task.batches])
    total = np.full((task.prompts, len(task.nodes), task.donors), np.nan, np.float32)
    direct = np.full((*total.shape, len(task.nodes)), np.nan, np.float32)
    started = time.perf_counter()
    steps.first()
    first = time.perf_counter() - started
    started, measured = time.perf_counter(), 0
    for node, batch in units:
        place = task.nodes.index(node)
        total[batch, place], direct[batch, place] = steps.each(node, batch)
        measured += 1
        if time.perf_counter() - started > seconds:
            break
    each = (time.perf_counter() - started) / measured
    return Result(first + each * len(units), measured, len(units), peak_memory(), total, direct)


def main() -> None:
    """Measure and write one file of results for each length of prompts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tool", choices=TOOLS, required=True)
    parser.add_argument("--shape", required=True)
    parser.add_argument("--tokens", nargs="+", type=int, required=True)
    parser.add_argument("--prompts", type=int, required=True)
    parser.add_argument("--donors", type=int, required=True)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--repeat", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    tool = TOOLS[given.tool]
    prepare = getattr(importlib.import_module(f"tools.{tool.module}"), tool.function)
    tasks = [Task(given.shape, tokens, given.prompts, given.donors, given.layers) for tokens in sorted(given.tokens)]
    for task in tasks:
        _ = task.readout  # before a tool rebuilds the model
    for task in tasks:
        with contextlib.redirect_stdout(sys.stderr):
            steps = prepare(task)
            if task is tasks[0] or steps.whole is not None:
                warm_up(task, steps)
            result = measure(task, steps, seconds=given.seconds, repeat=given.repeat)
        if given.tool == "causalnet":
            shapes = [weight_shapes([reach(task.model, task.path(node))]) for node in task.nodes]
            result.extra["ideal"] = products_seconds(shapes, task.prompts * task.donors, task.prompts * task.tokens)
        result.save(given.out / f"{given.shape}-{task.tokens}-{given.tool}.npz")


def warm_up(task: Task, steps: Steps) -> None:
    """Do a little of the work first, so that no library's first call is measured."""
    if steps.whole is not None:
        steps.whole()
        return
    assert steps.each is not None
    steps.first()
    steps.each(task.nodes[-1], slice(0, 1))


if __name__ == "__main__":
    main()
