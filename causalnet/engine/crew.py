"""Who does the work: this process, or workers elsewhere (:class:`causalnet.interop.ray.Ray`).

Work is cut into items that do not depend on each other or on who does them.  A *worker* is any object that is made
once where the work is done and whose methods do one item each; where it has a method ``warm``, that is called first
(it loads the model, say).  An *executor* makes the workers and hands the items out.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Crew", "Done", "Executor", "Here", "Step"]

Step = Callable[[int, int], None]
"""Called with (done, total) of the item at work, where the work is done in this process."""


@dataclass(frozen=True, eq=False)
class Done:
    """One item that is over.

    Parameters
    ----------
    item
        What was to be done.
    result
        What the worker's method returned.
    error
        What it raised, or why the worker was lost; None where it went well.
    worker
        The worker's name.
    """

    item: Any
    result: Any = None
    error: Exception | None = None
    worker: str = ""


class Crew(Protocol):
    """Workers that are ready."""

    def call(self, method: str, *arguments: Any, again: bool = True) -> Any:
        """Let one worker do something, and return what its method returned or raise what it raised.

        Parameters
        ----------
        method, *arguments
            What it does.
        again
            Whether another worker may do it again, where the worker was lost over it.
        """
        ...

    def map(self, method: str, items: Sequence[Any], *, step: Callable[[Any], Step] | None = None) -> Iterator[Done]:
        """Let the workers do every item, in any order.

        Parameters
        ----------
        method
            Name of the worker's method: ``method(item)``, or ``method(item, progress=…)``.
        items
            The items.
        step
            What is told the progress of an item while it is at work, where that can be.
        """
        ...


class Executor(Protocol):
    """Makes workers."""

    def crew(self, make: Callable[..., Any], *arguments: Any) -> AbstractContextManager[Crew]:
        """Make the workers, each by ``make(*arguments)``; they are gone after the block."""
        ...


@dataclass(frozen=True)
class Here:
    """The process that asks: one item after the other.

    Examples
    --------
    >>> with Here().crew(str, "abc") as crew:
    ...     crew.call("upper"), [done.result for done in crew.map("count", ["a", "x"])]
    ('ABC', [1, 0])
    """

    @contextmanager
    def crew(self, make: Callable[..., Any], *arguments: Any) -> Iterator[Crew]:
        """Make the one worker."""
        yield _Alone(make(*arguments))


@dataclass(frozen=True, eq=False)
class _Alone:
    worker: Any

    def call(self, method: str, *arguments: Any, again: bool = True) -> Any:
        return getattr(self.worker, method)(*arguments)

    def map(self, method: str, items: Sequence[Any], *, step: Callable[[Any], Step] | None = None) -> Iterator[Done]:
        for item in items:
            more = {} if step is None else {"progress": step(item)}
            try:
                yield Done(item, getattr(self.worker, method)(item, **more))
            except Exception as error:
                yield Done(item, error=error)
