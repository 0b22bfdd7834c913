"""Work on a Ray cluster: each worker is an actor that loads its model once.

Ray starts the workers, hands them what to do and begins again what was lost; here nothing is scheduled.  Imported
only when used (extra ``ray``).
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from causalnet.engine.crew import Crew, Done, Step
from causalnet.errors import InputError, explain

__all__ = ["Ray", "WorkerLostError"]

_OBJECTS = 200 * 2**20
"""Bytes of a local cluster's object store: results lie in the run's own store, so little passes through it."""


class WorkerLostError(RuntimeError):
    """A worker died each time that it did something: it was killed, or ran out of memory."""


@dataclass(frozen=True)
class Ray:
    """Workers of a Ray cluster.

    Parameters
    ----------
    address
        Of the cluster: ``"auto"`` (the one that this machine belongs to), ``"host:port"`` or ``"ray://host:port"``.
        Empty: a cluster of this machine alone, which ends with the work.
    workers
        How many; default: as many as the cluster has GPUs for, or else one per machine with all its processors.
    gpus_per_worker
        GPUs that each worker has to itself.  With more than one, load the model by ``device="auto"``.
    cpus_per_worker
        Processors that each worker takes; default an equal share of what the cluster has.
    retries
        How often Ray does again what was lost with its worker.

    Raises
    ------
    InputError
        If Ray is not installed or a number is too small; when it is used: if the cluster cannot be reached, or has
        no room for the workers.

    Examples
    --------
    >>> Ray(workers=2).retries
    3
    """

    address: str = ""
    workers: int | None = None
    gpus_per_worker: float = 0
    cpus_per_worker: float | None = None
    retries: int = 3

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("gpus_per_worker", 0), ("cpus_per_worker", 0), ("retries", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; it must be at least {least}")

    @contextmanager
    def crew(self, make: Callable[..., Any], *arguments: Any) -> Iterator[Crew]:
        """Start the workers; whatever happens in the block, they are gone after it.

        Parameters
        ----------
        make
            Makes what works; it is called once in each worker's process, and again where one was lost.
        *arguments
            Its arguments.
        """
        ray = _ray()
        mine = not ray.is_initialized()
        if mine:
            _connect(ray, self.address, self.workers)
        actors: list[Any] = []
        try:
            count, cpus = _room(ray, self)
            made = ray.remote(_Actor).options(
                num_cpus=cpus, num_gpus=self.gpus_per_worker, max_restarts=-1, max_task_retries=self.retries
            )
            actors += [made.remote(make, arguments) for _ in range(count)]
            yield _Actors(ray, actors)
        finally:
            for actor in actors:
                with suppress(Exception):
                    ray.kill(actor)
            if mine:
                ray.shutdown()


class _Actor:
    """What Ray runs: it makes the worker when it is first needed, so that an error in that reaches who asks."""

    def __init__(self, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.make, self.arguments, self.worker = make, arguments, None

    def do(self, method: str, arguments: tuple[Any, ...]) -> Any:
        if self.worker is None:
            _fit_threads()
            # What the worker says goes to Ray's log of this process.
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
            self.worker = self.make(*self.arguments)
        return getattr(self.worker, method)(*arguments)


def _fit_threads() -> None:
    """Use the processors that Ray gave to this worker; torch would use all of the machine's."""
    import torch

    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))


@dataclass(frozen=True, eq=False)
class _Actors:
    """The workers."""

    ray: Any
    actors: list[Any]

    def call(self, method: str, *arguments: Any) -> Any:
        return self._result(self.actors[0].do.remote(method, arguments))

    def map(self, method: str, items: Sequence[Any], *, step: Callable[[Any], Step] | None = None) -> Iterator[Done]:
        waiting, at_work = deque(items), {}

        def hand_out(number: int) -> None:
            if waiting:
                item = waiting.popleft()
                at_work[self.actors[number].do.remote(method, (item,))] = (number, item)

        for number in range(len(self.actors)):
            hand_out(number)
        while at_work:
            # A short wait at a time: a signal to stop is honoured between two of them.
            ready, _ = self.ray.wait(list(at_work), timeout=0.5)
            for one in ready:
                number, item = at_work.pop(one)
                hand_out(number)
                name = f"worker {number + 1}"
                try:
                    yield Done(item, self._result(one), worker=name)
                except Exception as error:
                    yield Done(item, error=error, worker=name)

    def _result(self, reference: Any) -> Any:
        """Return what a worker's method returned, or raise what it raised, as if it had been called here."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            raise error.cause from error
        except errors.RayActorError as error:
            # Ray's own words are a page long; their first line says what happened.
            words = str(error).strip().splitlines() or ["no reason given"]
            raise WorkerLostError(f"the worker was lost each time it was tried: {words[0]}") from error


def _ray() -> Any:
    # Ray would otherwise count its users, and hide the GPUs of workers that ask for none.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as problem:
        mend = "pip install 'causalnet-transformers[ray]'"
        raise InputError(explain("Ray is not installed", mend=mend)) from problem
    return ray


def _connect(ray: Any, address: str, workers: int | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
    try:
        if address:
            ray.init(address=address, **quiet)
            return
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ray.init(num_cpus=usable, include_dashboard=False, object_store_memory=_OBJECTS, **quiet)
    except (ConnectionError, ValueError, RuntimeError, OSError) as problem:
        mend = "start one with 'ray start --head', or leave the address out for a cluster of this machine alone"
        what = f"no Ray cluster can be used: {str(problem).strip().splitlines()[0]}"
        raise InputError(explain(what, where=address or "this machine", mend=mend)) from problem


def _room(ray: Any, asked: Ray) -> tuple[int, float]:
    """Return how many workers there are, and how many processors each takes."""
    has = ray.cluster_resources()
    cpus, gpus = has.get("CPU", 1.0), has.get("GPU", 0.0)
    count = asked.workers
    if count is None:
        count = int(gpus // asked.gpus_per_worker) if asked.gpus_per_worker else len(ray.nodes())
    share = cpus / max(count, 1) if asked.cpus_per_worker is None else asked.cpus_per_worker
    # Ray gives out whole processors, or parts of one.
    share = float(int(share)) if share >= 1 else round(share - 0.005, 2)
    if count < 1 or count * asked.gpus_per_worker > gpus or count * share > cpus:
        what = f"{max(count, 1)} workers of {asked.gpus_per_worker:g} GPUs and {share:g} processors do not fit"
        raise InputError(explain(f"{what} into a cluster of {gpus:g} GPUs and {cpus:g} processors"))
    return count, share
