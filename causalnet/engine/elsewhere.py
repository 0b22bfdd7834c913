"""A plan run by workers elsewhere: some prompts each, by as many as there are."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from causalnet.engine.crew import Crew, Executor
from causalnet.engine.inputs import Inputs, part
from causalnet.engine.plan import Plan, plan
from causalnet.engine.run import Trace, run
from causalnet.errors import CausalnetError, InputError, explain
from causalnet.expr.values import Mean, Noise
from causalnet.expr.world import World
from causalnet.model.identity import versions, weights
from causalnet.model.mechanism import Mechanisms

__all__ = ["Elsewhere", "Source", "Task"]

_ROWS = 1 << 12
"""Rows of a block of prompts: few enough that several workers share a small question."""


@dataclass(frozen=True)
class Source:
    """Where a worker loads a model from, and how.

    Parameters
    ----------
    model
        A checkpoint folder or a hub name, which every worker must reach.
    how
        Arguments of :func:`causalnet.model.load.load_model`.
    """

    model: str
    how: Mapping[str, Any] = field(default_factory=dict)

    def compile(self, name: str = "") -> Mechanisms:
        """Load and compile the model."""
        from causalnet.model.compile import compile_model
        from causalnet.model.load import load_model

        # The graph that was checked is the caller's; here only its modules run.
        return compile_model(load_model(self.model, **self.how), name=name, verify=False)


@dataclass(frozen=True, eq=False)
class Task:
    """Some prompts of a question: what is read of them, and everything exogenous."""

    rows: slice
    worlds: tuple[World, ...]
    readings: tuple[Any, ...]
    inputs: Inputs
    lookup: Callable[[str], int] | None
    memory: int | None


class _Worker:
    """A model at work elsewhere."""

    def __init__(self, source: Source, graph: Any, own: Mapping[str, str], digest: str) -> None:
        for name, version in own.items():
            if versions().get(name) != version:
                what = f"{name} is {version} here, and a worker has {versions().get(name)}"
                raise InputError(explain(what, mend="install the same on every machine"))
        self.mechanisms = replace(source.compile(), graph=graph)
        found = weights(self.mechanisms.hf)
        if found != digest:
            what = f"{source.model} is another model for a worker: its digest is {found[:12]} and not {digest[:12]}"
            raise InputError(explain(what, mend="let every machine reach the same checkpoint"))

    def run(self, task: Task) -> tuple[dict[Any, np.ndarray], np.ndarray]:
        planned = plan(self.mechanisms.graph, task.worlds, task.readings, task.inputs.shape, draws=task.inputs.count)
        trace = run(self.mechanisms, planned, task.inputs, lookup=task.lookup, memory=task.memory)
        return {reading: trace[reading] for reading in task.readings}, trace.targets


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """Runs plans by workers, each of which loads the model once.

    Parameters
    ----------
    executor
        Makes the workers.
    source
        The model that they load.
    """

    executor: Executor
    source: Source

    @contextmanager
    def runner(self, mechanisms: Mechanisms) -> Iterator[Callable[..., Trace]]:
        """Yield what runs a plan as :func:`causalnet.engine.run.run` does; the workers are gone after the block.

        Every block of prompts is the same whoever runs it, so that the numbers do not depend on how many workers
        there are; they equal those of one run to rounding.
        """
        own = (self.source, mechanisms.graph, versions(), weights(mechanisms.hf))
        with self.executor.crew(_Worker, *own) as crew:
            yield lambda _, planned, inputs, **how: _run(crew, planned, inputs, **how)


def _run(
    crew: Crew,
    planned: Plan,
    inputs: Inputs,
    *,
    lookup: Callable[[str], int] | None = None,
    memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """Run a plan block by block, and put the blocks together."""
    prompts, done = len(inputs.ids), 0
    whole_pool = any(isinstance(value, Mean | Noise) for world in planned.worlds for _, value in world.writes)
    step = max(1, min(prompts, _ROWS * prompts // max(planned.rows, 1)))
    tasks = []
    for first in range(0, prompts, step):
        rows = slice(first, min(first + step, prompts))
        some = part(inputs, rows, whole_pool=whole_pool)
        tasks.append(Task(rows, tuple(planned.worlds), tuple(planned.readings), some, lookup, memory))
    values: dict[Any, np.ndarray] = {}
    targets = np.zeros(prompts, dtype=np.int64)
    for over in crew.map("run", tasks):
        rows = over.item.rows
        if over.error is not None:
            raise _placed(over.error, rows) from over.error
        found, targets[rows] = over.result
        for reading, table in found.items():
            whole = values.setdefault(reading, np.full((prompts, table.shape[1]), np.nan))
            whole[rows] = table
        done += rows.stop - rows.start
        if progress is not None:
            progress(planned.rows * done // prompts, max(planned.rows, 1))
    return Trace(planned, values, targets)


def _placed(error: Exception, rows: slice) -> Exception:
    """Return an error of a block with the prompts that the block has: it counts them from 0."""
    if not isinstance(error, CausalnetError):
        return error
    return type(error)(f"of prompts {rows.start} to {rows.stop - 1}, counted from 0: {error}")
