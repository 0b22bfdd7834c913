"""The Hydra study: ablate every layer, split each total effect, and say who compensates.

McGrath et al. (2023), "The Hydra Effect: Emergent Self-repair in Language Model Computations".
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from causalnet.errors import InputError
from causalnet.prompts import Prompts
from causalnet.studies.filters import keep
from causalnet.studies.finish import Result, Run, finish
from causalnet.studies.folder import default_folder, fresh_folder, is_finished, is_unfinished, refuse_existing
from causalnet.studies.models import Loaded, Models
from causalnet.studies.options import ABLATIONS, Arm, Options
from causalnet.studies.plan import RunPlan, Sweep, check_same, read_plan, refuse
from causalnet.studies.store import Markers, clean, create, read_labels, write
from causalnet.studies.subjects import Subject, subject
from causalnet.studies.sweeps import Job, Question, compute, job, sweep_model
from causalnet.studies.together import check_nodes
from causalnet.studies.variants import checkpoints, folder_of, questions, strata

__all__ = ["ABLATIONS", "Arm", "Options", "Result", "Run", "hydra", "reopen", "sweep_model"]

Progress = Callable[[str, int, int], None]

PROMPTS = "prompts.jsonl"
_STEPS = 1000
"""Steps of progress that one chunk counts for."""


def hydra(
    arms: Sequence[Arm],
    prompts: Prompts,
    *,
    options: Options | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Run the study on one model, or on several on the same prompts, and write the run folder.

    Parameters
    ----------
    arms
        The models.  One arm fills the run folder itself, several get one folder each and a comparison.
    prompts
        The prompts.
    options
        Ablation, donors, seed, device, variants and so on.
    out
        The run folder; default ``runs/hydra-<time>``.
    overwrite
        Replace a run that stands there, once everything that can be refused has been checked.
    resume
        Go on with an unfinished run that stands there, or begin one; it ends with the same bytes of data as
        one that was never stopped.
    progress
        Called with (what, done, total).

    Returns
    -------
    Run
        Where the run is, each arm's data and summary, and the comparison of the first two arms.

    Raises
    ------
    InputError, PromptError, RunExistsError, UnsupportedModelError, CompileError
        If something cannot be used as given; nothing is written then.
    OSError
        If the data cannot be written; finished chunks are kept.

    References
    ----------
    McGrath et al. (2023), arXiv 2307.15771.

    Examples
    --------
    >>> import tempfile
    >>> from causalnet.demo import model_path, prompts_path
    >>> prompts, options = Prompts.from_file(prompts_path()), Options(ablation="zero", limit=30)
    >>> place = Path(tempfile.mkdtemp()) / "run"
    >>> run = hydra([Arm("", str(model_path("plain")))], prompts, options=options, out=place)
    >>> sorted(entry.name for entry in place.iterdir() if entry.stem != "graph")
    ['effects.zarr', 'plan.json', 'prompts.jsonl', 'report.html', 'summary.json', 'tables']
    >>> run.results[0].summary["closure_max_rel"] < 1e-4
    True
    """
    options = Options() if options is None else options
    _check_arms(arms)
    path = default_folder("hydra") if out is None else Path(out)
    say: Progress = (lambda what, done, total: None) if progress is None else progress
    study = _Study(tuple(arms), options, Models(options), say)
    if resume and (is_unfinished(path) or is_finished(path)):
        plan = read_plan(path)
        check_same(plan, RunPlan.of([arm.name for arm in arms], prompts, options), path)
        clean(path)
        study.check(path, plan)
    else:
        refuse_existing(path, overwrite=overwrite)
        with fresh_folder(path, overwrite=overwrite) as folder:
            plan = study.begin(folder, prompts)
    seconds = study.work(path, plan)
    say("figures and report", 0, 1)
    run = finish(path, plan, options, study.mains(path, plan), seconds)
    shutil.rmtree(path / "chunks", ignore_errors=True)
    say("figures and report", 1, 1)
    return run


def _check_arms(arms: Sequence[Arm]) -> None:
    if not arms:
        raise InputError("no model was given")
    names = [arm.name for arm in arms]
    if len(arms) > 1:
        for name in names:
            if names.count(name) > 1 or name != Path(name).name or name in ("", ".", ".."):
                raise InputError(f"arm {name!r}: of several arms each needs a name of its own that can name a folder")


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
    targets, donors = read_labels(path / sweep.folder / "effects.zarr")
    kept = Prompts.from_file(path / PROMPTS)
    held = subject(loaded.mechanisms, loaded.tokenizer, kept, options, targets=targets)
    return replace(job(held, sweep.question, options, donors=donors), plan=sweep.plan)


@dataclass(eq=False)
class _Study:
    """One run at work: its models, and the jobs of its sweeps, made when they are needed."""

    arms: tuple[Arm, ...]
    options: Options
    models: Models
    say: Progress
    jobs: dict[str, Job] = field(default_factory=dict)

    def begin(self, folder: Path, prompts: Prompts) -> RunPlan:
        """Check everything that can be refused, and write the plan and the empty stores."""
        given = RunPlan.of([arm.name for arm in self.arms], prompts, self.options)
        kept = keep(prompts, self.options, self.arms, self.models)
        kept.to_jsonl(folder / PROMPTS)
        sweeps: list[Sweep] = []
        for number, arm in enumerate(self.arms):
            home = arm.name if len(self.arms) > 1 else ""
            shared: dict[str, Subject] = {}
            for place, model, name, question in self._asked(arm):
                loaded = self.models.take(model, name)
                if model not in shared:
                    shared[model] = subject(loaded.mechanisms, loaded.tokenizer, kept, self.options)
                one = job(shared[model], question, self.options)
                if not place:
                    check_nodes(one, self.options)
                where = Path(home, place)
                (folder / where).mkdir(parents=True, exist_ok=True)
                create(folder / where / "effects.zarr", one.labels(), one.plan)
                (folder / where / "graph.json").write_text(one.graph.to_json(), encoding="utf-8")
                sweeps.append(Sweep(where.as_posix(), number, model, question, one.plan, loaded.weights))
                self.jobs[where.as_posix()] = one
            main = shared[arm.model]
            strata(kept, main.encoded.lengths, self.options.strata)  # an unknown feature is refused now
        plan = replace(given, sweeps=tuple(sweeps))
        plan.write(folder)
        return plan

    def check(self, path: Path, plan: RunPlan) -> None:
        """Refuse to go on with other models than those that the run was begun with."""
        for sweep in plan.sweeps:
            loaded = self._loaded(sweep)
            if loaded.weights != sweep.weights:
                what = f"{loaded.mechanisms.name} is another model than {sweep.model}: its config or weights differ"
                refuse([what], path)

    def _loaded(self, sweep: Sweep) -> Loaded:
        """Return the model of a sweep: a checkpoint by its own name, else the one that the arm names now."""
        if sweep.family == "checkpoint":
            return self.models.take(sweep.model, Path(sweep.folder).name)
        arm = self.arms[sweep.arm]
        return self.models.take(arm.model, arm.name)

    def _asked(self, arm: Arm) -> list[tuple[str, str, str, Question]]:
        """Return every sweep of an arm: folder, model, name of the model, question."""
        found = [(place, arm.model, arm.name, question) for place, question in questions(self.options).items()]
        if self.options.checkpoints:
            main = Question(self.options.ablations[0])
            for name, model in checkpoints(Path(self.options.checkpoints)).items():
                found.append((folder_of("checkpoint", name), model, name, main))
        return found

    def work(self, path: Path, plan: RunPlan) -> dict[str, float]:
        """Compute the chunks that are not done; return the seconds that each sweep took, by folder."""
        seconds = {}
        for number, sweep in enumerate(plan.sweeps):
            markers = Markers(path / "chunks" / str(number))
            done = markers.done()
            if is_finished(path):
                held = json.loads((path / sweep.folder / "summary.json").read_text(encoding="utf-8"))
                seconds[sweep.folder] = held["wall_s"]
                continue
            if len(done) == len(sweep.plan):
                seconds[sweep.folder] = sum(done.values())
                continue
            one = self._job(path, sweep)
            name = one.subject.mechanisms.name
            what = f"{name}: {sweep.label or 'sweep'}"
            for place, chunk in enumerate(sweep.plan):
                if chunk.name in done:
                    continue
                started = time.perf_counter()
                arrays = compute(one, chunk, progress=self._progress(what, place, len(sweep.plan)))
                write(path / sweep.folder / "effects.zarr", chunk, arrays)
                markers.set(chunk, time.perf_counter() - started)
            seconds[sweep.folder] = sum(markers.done().values())
        return seconds

    def _progress(self, what: str, place: int, chunks: int) -> Callable[[int, int], None]:
        def step(done: int, total: int) -> None:
            self.say(what, (_STEPS * (place * total + done)) // total, _STEPS * chunks)

        return step

    def _job(self, path: Path, sweep: Sweep) -> Job:
        """Return the job of a sweep: from the beginning of this run, or made again from what its store holds."""
        if sweep.folder not in self.jobs:
            loaded = self._loaded(sweep)
            self.jobs[sweep.folder] = reopen(path, sweep, self.options, loaded)
        return self.jobs[sweep.folder]

    def mains(self, path: Path, plan: RunPlan) -> Mapping[str, Job]:
        """Return the job of each arm's main sweep, by folder."""
        return {sweep.folder: self._job(path, sweep) for sweep in plan.sweeps if not sweep.family}
