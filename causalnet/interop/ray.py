"""Work on a Ray cluster: each worker is an actor that loads its model once.

Ray starts the workers, hands them what to do and begins again what was lost; here nothing is scheduled.  Imported
only when used (extra ``ray``).
"""

import logging
import os
import signal
import socket
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from causalnet.engine.crew import Crew, Done, Step
from causalnet.errors import CausalnetError, InputError, WorkerLostError, explain

__all__ = ["Ray"]

_OBJECTS = 200 * 2**20
"""Bytes of a local cluster's object store; what is larger (a whole run's data, say) Ray keeps on disk."""
_STRIKES = 3
"""After so many failures one after the other a worker is given nothing more, where there is another."""


@dataclass(frozen=True)
class Ray:
    """Workers of a Ray cluster.

    Parameters
    ----------
    address
        Of the cluster that this machine belongs to: ``"auto"`` or ``"host:port"``.  Empty: a cluster of this machine
        alone, which ends with the work.  Where Ray is already initialised in this process, that cluster is used.
    workers
        How many; default: as many as the cluster has GPUs for, or else one per machine with all its processors.
    gpus_per_worker
        GPUs that each worker has to itself.  With more than one, load the model by ``device="auto"``.
    cpus_per_worker
        Processors that each worker takes; default as many as let all of them fit.
    retries
        How often Ray does again what was lost with its worker.

    Raises
    ------
    InputError
        If a number is too small; when it is used: if Ray is not installed, the cluster cannot be reached, or has no
        room for the workers.

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
            _connect(ray, self.address)
        actors: list[Any] = []
        try:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            count, cpus = _room([(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes], self)
            made = ray.remote(_Actor).options(
                num_cpus=cpus, num_gpus=self.gpus_per_worker, max_restarts=-1, max_task_retries=self.retries
            )
            actors += [made.remote(make, arguments, os.getcwd()) for _ in range(count)]
            yield _Actors(ray, actors, {actor.warm.remote(): number for number, actor in enumerate(actors)})
        finally:
            for actor in actors:
                with suppress(Exception):
                    ray.kill(actor)
            if mine:
                ray.shutdown()


class _Actor:
    """What Ray runs: it makes the worker when it is first needed, so that an error in that reaches who asks."""

    def __init__(self, make: Callable[..., Any], arguments: tuple[Any, ...], folder: str) -> None:
        self.make, self.arguments, self.worker = make, arguments, None
        # What the worker says goes to Ray's log of this process.
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        with suppress(OSError):  # so that relative paths mean the same, where there is such a folder
            os.chdir(folder)

    def warm(self) -> None:
        """Do what takes long, at once with the other workers; an error in it comes again when it matters."""
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._made().warm()

    def do(self, method: str, arguments: tuple[Any, ...]) -> tuple[Any, list[Warning]]:
        """Return what a method of the worker returned, and what it warned of."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = getattr(self._made(), method)(*arguments)
        own = (one.message for one in caught if str(type(one.message).__module__).startswith("causalnet."))
        return result, [one for one in own if isinstance(one, Warning)]

    def _made(self) -> Any:
        if self.worker is None:
            _fit_threads()
            self.worker = self.make(*self.arguments)
        return self.worker


def _fit_threads() -> None:
    """Use the processors that Ray gave to this worker; torch would use all of the machine's."""
    import torch

    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))


@dataclass(eq=False)
class _Actors:
    """The workers; ``waking`` are those that have not answered yet, by the reference of their answer."""

    ray: Any
    actors: list[Any]
    waking: dict[Any, int]
    awake: list[int] = field(default_factory=list)

    def call(self, method: str, *arguments: Any, again: bool = True) -> Any:
        while not self.awake:
            self._wait([])
        task = self.actors[self.awake[0]].do
        task = task if again else task.options(max_task_retries=0)
        return self._result(task.remote(method, arguments))

    def map(self, method: str, items: Sequence[Any], *, step: Callable[[Any], Step] | None = None) -> Iterator[Done]:
        shift = _Shift(deque(enumerate(items)))
        at_work: dict[Any, tuple[int, tuple[int, Any]]] = {}
        busy: set[int] = set()
        while shift.waiting or at_work:
            for number in self.awake:
                if number not in busy and (task := shift.next_for(number, self.awake)) is not None:
                    at_work[self.actors[number].do.remote(method, (task[1],))] = (number, task)
                    busy.add(number)
            for one in self._wait(list(at_work)):
                number, task = at_work.pop(one)
                busy.discard(number)
                done = self._done(one, number, task[1])
                if not shift.again(number, task, done.error):
                    yield done
                elif not isinstance(done.error, WorkerLostError):
                    # Whatever went wrong may have spoilt the process; Ray makes a new one.
                    self.ray.kill(self.actors[number], no_restart=False)

    def _done(self, reference: Any, number: int, item: Any) -> Done:
        name = f"worker {number + 1}"
        try:
            return Done(item, self._result(reference), worker=name)
        except Exception as error:
            return Done(item, error=error, worker=name)

    def _wait(self, references: list[Any]) -> list[Any]:
        """Return which of these have come; a short wait at a time, so that a signal to stop is honoured."""
        ready, _ = self.ray.wait([*references, *self.waking], timeout=0.5)
        for one in ready:
            if one in self.waking:
                self.awake.append(self.waking.pop(one))
        return [one for one in ready if one in references]

    def _result(self, reference: Any) -> Any:
        """Return what a worker's method returned, or raise what it raised, as if it had been called here."""
        errors = self.ray.exceptions
        try:
            result, warned = self.ray.get(reference)
        except errors.RayTaskError as error:
            raise error.cause from error
        except errors.RayActorError as error:
            # Ray's own words are a page long; their first line says what happened.
            words = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".:")
            what = f"the worker was lost each time it was tried ({words})"
            raise WorkerLostError(explain(what, mend="a run goes on with --resume")) from error
        for one in warned:
            warnings.warn(one, stacklevel=2)
        return result


@dataclass(eq=False)
class _Shift:
    """Which item goes to which worker: one that failed for a reason of the worker's goes to another once."""

    waiting: deque[tuple[int, Any]]
    failed_by: dict[int, int] = field(default_factory=dict)
    strikes: Counter = field(default_factory=Counter)

    def next_for(self, number: int, awake: Sequence[int]) -> tuple[int, Any] | None:
        """Return the next item that this worker may try, among those that are there."""
        others = any(one != number and self.strikes[one] < _STRIKES for one in awake)
        if others and self.strikes[number] >= _STRIKES:
            return None
        for _ in range(len(self.waiting)):
            task = self.waiting.popleft()
            if not others or self.failed_by.get(task[0]) != number:
                return task
            self.waiting.append(task)
        return None

    def again(self, number: int, task: tuple[int, Any], error: Exception | None) -> bool:
        """Say whether an item that is over is to be tried once more."""
        if error is None:
            self.strikes[number] = 0
        # What causalnet raises on purpose, and a store that cannot be written, are the same for every worker.
        if error is None or isinstance(error, CausalnetError | OSError):
            return False
        self.strikes[number] += 1
        if task[0] in self.failed_by:
            return False
        self.failed_by[task[0]] = number
        self.waiting.append(task)
        return True


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


def _connect(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
    with _signals_kept():
        try:
            if address:
                _knock(address)
                ray.init(address=address, **quiet)
                return
            usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            ray.init(num_cpus=usable, include_dashboard=False, object_store_memory=_OBJECTS, **quiet)
        except (ConnectionError, ValueError, RuntimeError, OSError) as problem:
            mend = "start one with 'ray start --head', or leave the address out for a cluster of this machine alone"
            what = f"no Ray cluster can be used: {str(problem).strip().splitlines()[0]}"
            raise InputError(explain(what, where=address or "this machine", mend=mend)) from problem


def _knock(address: str) -> None:
    """Find out soon whether anything answers; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep this process's own way to be stopped: Ray sets its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _room(nodes: Sequence[tuple[float, float]], asked: Ray) -> tuple[int, float]:
    """Return how many workers there are, and how many processors each takes, so that all find a machine.

    Parameters
    ----------
    nodes
        Processors and GPUs of each machine.
    asked
        What was asked for.

    Examples
    --------
    >>> _room([(1, 0), (3, 0)], Ray()), _room([(2, 0)], Ray(workers=3))
    ((2, 1.0), (3, 0.5))
    >>> _room([(4, 0), (64, 8)], Ray(gpus_per_worker=1))
    (8, 8.0)
    """
    gpus = asked.gpus_per_worker
    most = int(max((cpu for cpu, _ in nodes), default=0))
    count = asked.workers
    if count is None:
        count = sum(int(gpu // gpus) for _, gpu in nodes) if gpus else sum(cpu >= 1 for cpu, _ in nodes)
    # Ray gives out whole processors, or parts of one.
    shares = [float(whole) for whole in range(most, 0, -1)] + [int(1e4 / parts) / 1e4 for parts in range(2, count + 1)]
    for share in shares if asked.cpus_per_worker is None else [asked.cpus_per_worker]:
        places = (min(_times(cpu, share), _times(gpu, gpus)) for cpu, gpu in nodes)
        if count and sum(places) >= count:
            return count, share
    has = ", ".join(f"{cpu:g} processors and {gpu:g} GPUs" for cpu, gpu in nodes) or "no machine"
    what = f"{max(count, 1)} workers of {gpus:g} GPUs do not fit into a cluster of {has}"
    raise InputError(explain(what, mend="ask for fewer workers, or for fewer GPUs or processors each"))


def _times(has: float, each: float) -> int:
    return int(has / each + 1e-9) if each else 1 << 30
