"""What works on a study, here or elsewhere: it begins the run, makes its chunks and finishes it.

A worker knows the arms and the options, and reads everything else from where the run lies; so any of them can do
any part, and one that is lost is replaced by another.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from causalnet.errors import InputError, explain
from causalnet.model.identity import versions
from causalnet.prompts import Prompts
from causalnet.studies.chunks import Chunk
from causalnet.studies.filters import keep
from causalnet.studies.finish import Result, Run, finish
from causalnet.studies.folder import MILESTONES, fresh_folder, is_finished
from causalnet.studies.models import Loaded, Models
from causalnet.studies.options import Arm, Options, bytes_of
from causalnet.studies.places import is_remote, mirrored, near, place, refresh, remove
from causalnet.studies.plan import RunPlan, Sweep, read_plan, refuse
from causalnet.studies.store import Markers, create, fits, opened, read_labels, write
from causalnet.studies.subjects import Subject, subject
from causalnet.studies.sweeps import Job, Question, check_vectors, compute, job
from causalnet.studies.together import check_nodes
from causalnet.studies.variants import checkpoints, folder_of, questions, strata

__all__ = ["PROMPTS", "Worker", "markers", "reopen"]

PROMPTS = "prompts.jsonl"
_log = logging.getLogger(__name__)


def markers(path: Path, number: int) -> Markers:
    """Return which chunks of a run's sweep are done."""
    return Markers(path / "chunks" / str(number))


def reopen(path: Path, sweep: Sweep, options: Options, loaded: Loaded) -> Job:
    """Make the job of a sweep from what its run folder holds: on another machine, or after an interruption.

    Parameters
    ----------
    path
        The run folder.
    sweep
        One of its plan's.
    options
        The plan's (:attr:`causalnet.studies.plan.RunPlan.options`).
    loaded
        The sweep's model.

    Returns
    -------
    Job
        Its chunks are those of ``sweep.plan``; :func:`causalnet.studies.sweeps.compute` makes each,
        :func:`causalnet.studies.store.write` puts it into the store, and a marker says that it is done.
    """
    targets, donors = read_labels(sweep.within(path) / "effects.zarr")
    with near(path / PROMPTS) as file:
        kept = Prompts.from_file(file)
    held = subject(loaded.mechanisms, loaded.tokenizer, kept, options, targets=targets)
    return replace(job(held, sweep.question, options, donors=donors), plan=sweep.plan)


class Worker:
    """One worker on a study, with the models and the jobs of its sweeps, made when they are needed.

    Parameters
    ----------
    where
        Where the run lies.
    arms, options
        What the study was asked.
    """

    def __init__(self, where: str, arms: tuple[Arm, ...], options: Options) -> None:
        self.arms, self.options, self.path = arms, options, place(where)
        self.models = Models(options)
        self.jobs: dict[str, Job] = {}
        self.last: dict[str, Job] = {}
        self.plan: RunPlan | None = None

    def warm(self) -> None:
        """Load the first arm's model."""
        self.models.take(self.arms[0].model, self.arms[0].name)

    # -- before the chunks ---------------------------------------------------------------------------

    def begin(self, prompts: Prompts, overwrite: bool) -> None:
        """Check everything that can be refused, and write the plan and the empty stores."""
        with fresh_folder(self.path, overwrite=overwrite) as folder:
            self._begin(folder, prompts)

    def _begin(self, folder: Path, prompts: Prompts) -> None:
        given = RunPlan.of([arm.name for arm in self.arms], prompts, self.options)
        kept = keep(prompts, self.options, self.arms, self.models)
        kept.to_jsonl(folder / PROMPTS)
        sweeps: list[Sweep] = []
        for number, arm in enumerate(self.arms):
            home = arm.name if len(self.arms) > 1 else ""
            main: Subject | None = None
            for where, model, name, question in self._asked(arm):
                loaded, own = self.models.take(model, name), model == arm.model
                held = main if own and main else subject(loaded.mechanisms, loaded.tokenizer, kept, self.options)
                one = job(held, question, self.options)
                if main is None:
                    main = held
                    check_nodes(one, self.options)
                    strata(kept, held.encoded.lengths, self.options.strata)  # an unknown feature is refused now
                at = Path(home, where)
                (folder / at).mkdir(parents=True, exist_ok=True)
                create(folder / at / "effects.zarr", one.labels(), one.plan)
                (folder / at / "graph.json").write_text(one.graph.to_json(), encoding="utf-8")
                sweeps.append(Sweep(at.as_posix(), number, model, question, one.plan, loaded.weights))
                if own:
                    self.jobs[at.as_posix()] = one
        replace(given, sweeps=tuple(sweeps)).write(folder)

    def _asked(self, arm: Arm) -> list[tuple[str, str, str, Question]]:
        """Return every sweep of an arm: folder, model, name of the model, question."""
        found = [(where, arm.model, arm.name, question) for where, question in questions(self.options).items()]
        if self.options.checkpoints:
            main = Question(self.options.ablations[0])
            for name, model in checkpoints(Path(self.options.checkpoints)).items():
                found.append((folder_of("checkpoint", name), model, name, main))
        return found

    def check(self) -> None:
        """Refuse to go on with other models or vectors than those that the run was begun with."""
        for sweep in self._plan().sweeps:
            self._loaded(sweep)
            check_vectors(sweep.question, self.options)

    # -- the chunks ----------------------------------------------------------------------------------

    def chunk(self, task: tuple[int, Chunk], *, progress: Callable[[int, int], None] | None = None) -> float:
        """Compute one chunk of one sweep, write it into the store, and say that it is done; return the seconds."""
        number, one = task
        sweep = self._plan().sweeps[number]
        _log.info("%s, chunk %s: begun", self._plan().title(number), one.name)
        held, started = self._job(sweep), time.perf_counter()
        arrays = compute(held, one, progress=progress)
        write(sweep.within(self.path) / "effects.zarr", one, arrays)
        seconds = time.perf_counter() - started
        markers(self.path, number).set(one, seconds)
        _log.info("%s, chunk %s: done in %.2f s", self._plan().title(number), one.name, seconds)
        return seconds

    def _plan(self) -> RunPlan:
        """Return the run's plan, refused where it was made by other versions than this worker's."""
        if self.plan is None:
            found, own = read_plan(self.path), versions()
            for name, version in found.versions.items():
                if own.get(name) != version:
                    what = f"the run was begun with {name} {version}, and a worker has {own.get(name)}"
                    raise InputError(explain(what, where=str(self.path), mend="install the same on every machine"))
            self.plan = found
        return self.plan

    def _loaded(self, sweep: Sweep) -> Loaded:
        """Return the model of a sweep: a checkpoint by its own name, else the one that the arm names now."""
        if sweep.family == "checkpoint":
            loaded = self.models.take(sweep.model, Path(sweep.folder).name)
        else:
            arm = self.arms[sweep.arm]
            loaded = self.models.take(arm.model, arm.name)
        if loaded.weights != sweep.weights:
            digests = f"{loaded.weights[:12]} and not {sweep.weights[:12]}"
            what = f"{loaded.mechanisms.name} is another model than {sweep.model}: its config or weights differ"
            refuse([f"{what} (digest {digests})"], self.path)
        return loaded

    def _job(self, sweep: Sweep) -> Job:
        """Return the job of a sweep: from the beginning of this run, or made again from what its store holds."""
        held = self.jobs
        if sweep.family == "checkpoint":  # many, and a job keeps its model: one at a time
            held = self.last = {name: one for name, one in self.last.items() if name == sweep.folder}
        if sweep.folder not in held:
            held[sweep.folder] = reopen(self.path, sweep, self.options, self._loaded(sweep))
        return held[sweep.folder]

    # -- after the chunks ----------------------------------------------------------------------------

    def finish(self) -> Run:
        """Summarise, draw and write what is read; what says that the run is finished comes last."""
        refresh(self.path)
        plan = self._plan()
        mains = {sweep.folder: self._job(sweep) for sweep in plan.sweeps if not sweep.family}
        seconds = self._seconds(plan)
        with mirrored(self.path, last=MILESTONES) as folder:
            run = finish(folder, plan, self.options, mains, seconds)
            if is_remote(self.path):
                run = _moved(run, folder, self.path, bytes_of(self.options.memory))
        remove(self.path / "chunks")
        return run

    def _seconds(self, plan: RunPlan) -> Mapping[str, float]:
        """Return the seconds that each sweep took, by folder."""
        if is_finished(self.path):
            read = {one.folder: one.within(self.path) / "summary.json" for one in plan.sweeps}
            return {name: json.loads(file.read_text(encoding="utf-8"))["wall_s"] for name, file in read.items()}
        return {one.folder: sum(markers(self.path, n).done().values()) for n, one in enumerate(plan.sweeps)}


def _moved(run: Run, folder: Path, path: Path, memory: int) -> Run:
    """Return a run that was finished in a folder as it stands where that was put."""

    def moved(result: Result) -> Result:
        home = path if result.folder == folder else path / result.folder.relative_to(folder).as_posix()
        held = fits(result.folder / "effects.zarr", memory)
        return replace(result, folder=home, data=result.data if held else opened(home / "effects.zarr"))

    return replace(run, path=path, results=tuple(moved(one) for one in run.results))
