"""The Hydra study: ablate every layer, split each total effect, and say who compensates.

McGrath et al. (2023), "The Hydra Effect: Emergent Self-repair in Language Model Computations".
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from causalnet.engine.crew import Crew, Done, Executor, Here, Step
from causalnet.errors import InputError, UnfinishedError, explain
from causalnet.prompts import Prompts
from causalnet.studies.chunks import Chunk
from causalnet.studies.finish import Result, Run
from causalnet.studies.folder import default_folder, is_finished, is_unfinished, refuse_existing, remove_unfinished
from causalnet.studies.options import ABLATIONS, Arm, Options
from causalnet.studies.places import place, reach, refresh
from causalnet.studies.plan import RunPlan, check_same, read_plan
from causalnet.studies.store import clean
from causalnet.studies.sweeps import sweep_model
from causalnet.studies.worker import Worker, markers

__all__ = ["ABLATIONS", "Arm", "Options", "Result", "Run", "hydra", "sweep_model"]

Progress = Callable[[str, int, int], None]

_STEPS = 1000
"""Steps of progress that one chunk counts for."""
_NAMED = 5
"""Chunks that an error names with their reasons."""


def hydra(
    arms: Sequence[Arm],
    prompts: Prompts,
    *,
    options: Options | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
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
        The run folder, or a URL that fsspec knows such as ``s3://bucket/run``; default ``runs/hydra-<time>``.
    overwrite
        Replace a run that stands there, once everything that can be refused has been checked.
    resume
        Go on with an unfinished run that stands there, or begin one; it ends with the same bytes of data as
        one that was never stopped.
    progress
        Called with (what, done, total).
    executor
        Who does the work: None: this process; :class:`causalnet.interop.ray.Ray`: workers of a cluster, which must
        all reach the models and ``out``.

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
    UnfinishedError
        If some chunks could not be computed: each is named with its reason, and all others are done.

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
    path = place(default_folder("hydra") if out is None else out)
    reach(path)
    say: Progress = (lambda what, done, total: None) if progress is None else progress
    going_on = resume and (is_unfinished(path) or is_finished(path))
    if going_on:
        check_same(read_plan(path), RunPlan.of([arm.name for arm in arms], prompts, options), path)
        clean(path)
    else:
        refuse_existing(path, overwrite=overwrite)
    begun = going_on
    try:
        with (executor or Here()).crew(Worker, str(path), tuple(arms), options) as crew:
            if going_on:
                crew.call("check")
            else:
                crew.call("begin", prompts, overwrite, again=False)
                begun = True
                refresh(path)
            if not (going_on and is_finished(path)):
                _chunks(crew, path, read_plan(path), say)
            say("figures and report", 0, 1)
            run = crew.call("finish")
    finally:
        if not begun:
            remove_unfinished(path)
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


def _chunks(crew: Crew, path: Path, plan: RunPlan, say: Progress) -> None:
    """Let the crew do every chunk that is not done, and say at the end which could not be done.

    Raises
    ------
    UnfinishedError
        If the computation of some chunks failed; the others are done.
    OSError, InputError
        At once, if the place of the run or a worker cannot be used.
    """
    tasks, over = [], [0] * len(plan.sweeps)
    for number, sweep in enumerate(plan.sweeps):
        done = markers(path, number).done()
        over[number] = len(done)
        tasks += [(number, chunk) for chunk in sweep.plan if chunk.name not in done]
    if tasks:
        first = tasks[0][0]
        say(plan.title(first), _STEPS * over[first], _STEPS * len(plan.sweeps[first].plan))
    by_worker: dict[str, int] = {}
    failed: list[Done] = []

    def step(task: tuple[int, Chunk]) -> Step:
        number, total = task[0], len(plan.sweeps[task[0]].plan)
        what = plan.title(number)
        return lambda done, of: say(what, (_STEPS * (over[number] * of + done)) // max(of, 1), _STEPS * total)

    for done in crew.map("chunk", tasks, step=step):
        number, _ = done.item
        if isinstance(done.error, OSError | InputError):
            raise done.error
        if done.error is not None:
            failed.append(done)
            continue
        over[number] += 1
        say(plan.title(number), _STEPS * over[number], _STEPS * len(plan.sweeps[number].plan))
        if done.worker:
            by_worker[done.worker] = by_worker.get(done.worker, 0) + 1
            say(done.worker, by_worker[done.worker], len(tasks))
    if failed:
        raise _unfinished(failed, plan, len(tasks), path) from failed[0].error


def _unfinished(failed: Sequence[Done], plan: RunPlan, tasks: int, path: Path) -> UnfinishedError:
    """Return the error that names every chunk that could not be done, with its reason."""
    said = []
    for done in failed[:_NAMED]:
        number, chunk = done.item
        first, last = chunk.prompts
        where = f"{plan.title(number)}, chunk {chunk.name} (prompts {first} to {last - 1})"
        said.append(f"{where}: {type(done.error).__name__}: {done.error}")
    more = f"; and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    what = f"{len(failed)} of {tasks} chunks could not be done: {'; '.join(said)}{more}; the others are done and kept"
    return UnfinishedError(explain(what, where=str(path), mend="mend the cause and go on with --resume"))
