"""``causalnet hydra``: the Hydra study of any model, by default of the embedded ones."""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from causalnet.engine.crew import Executor
    from causalnet.studies.hydra import Run

__all__ = ["ALONE", "register"]

ALONE = "local"
"""What ``--ray`` means where no address follows it."""

# \b keeps the paragraph below it as it is typed.
_HELP = """Ablate every layer, split each total effect, and say who compensates.

Every attention and MLP layer's output at the last position is set to what it is on other prompts (or to zero,
or to the mean, or noise is added).  Printed per node: the mean direct (de), total (te), compensatory (ce) and norm
effect on the target's logit, effect = Y(do) − Y; the slope of ce on the unablated direct effect (+1 is perfect
repair under zero ablation) with its 95 % interval, R² and permutation p; the slope on what was lost.

Without --model it runs the two embedded models on their evaluation prompts.

The run folder holds effects.zarr (every number), summary.json, tables/*.csv, report.html, graph.json, graph.svg,
plan.json and prompts.jsonl; what is asked besides (--ablation zero after another, --position, --outcome, --heads,
--freeze-norm, --stratum, --checkpoints) lies in variants/.  With several models there is one such folder for each,
comparison.json and a report of all.

A run that was stopped at any moment goes on with --resume --out RUN and the same arguments.  With --ray the work is
done by the workers of a Ray cluster, all of which must reach the model and --out; the data are the same bytes.

Examples:

\b
  causalnet hydra
  causalnet hydra --limit 200 --ablation zero --out runs/zero
  causalnet hydra --ablation resample --ablation zero --ablation mean --heads
  causalnet hydra --model path/to/checkpoint --prompts prompts.jsonl
  causalnet hydra --model path/to/one --compare path/to/other --prompts known_1000.json --correct-only
  causalnet hydra --model openai-community/gpt2 --prompts known_1000.json --donors 5 --json
  causalnet hydra --resume --out runs/hydra-20260101-120000
  causalnet hydra --ray --workers 2
  causalnet hydra --ray auto --gpus-per-worker 1 --device cuda --model path/to/checkpoint --prompts prompts.jsonl \\
    --out s3://bucket/run
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    group = typer.Typer(name="hydra", help=_HELP, invoke_without_command=True, rich_markup_mode=None)
    group.callback(help=_HELP)(hydra)
    group.command(name="example", help=_EXAMPLE)(example)
    app.add_typer(group)


def hydra(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(help="Checkpoint folder or hub name.", show_default="the embedded models"),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="JSONL with a 'prompt' field (and 'answer', 'subject', …), known_1000.json, CSV or plain text.",
            show_default="those of the embedded models",
        ),
    ] = None,
    compare: Annotated[str | None, typer.Option(help="A second model, on the same prompts.")] = None,
    ablation: Annotated[
        list[str] | None,
        typer.Option(
            help="What each layer is set to: resample, zero, mean or noise; given again, further kinds.",
            show_default="resample",
        ),
    ] = None,
    donors: Annotated[int, typer.Option(help="Other prompts that each layer is resampled from, per prompt.")] = 15,
    limit: Annotated[
        int | None, typer.Option(help="Use the first so many prompts.", show_default="all prompts")
    ] = None,
    position: Annotated[
        list[str] | None, typer.Option(help="Set layers at this position too: -2, 0, 3:6, subject; repeatable.")
    ] = None,
    outcome: Annotated[
        list[str] | None, typer.Option(help='Read this too, such as \'logit_diff(" Mary", " John")\'; repeatable.')
    ] = None,
    vector: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="A vector (.npy, .safetensors) that --outcome projection names; repeatable."
        ),
    ] = None,
    heads: Annotated[bool, typer.Option("--heads", help="Set every head too.")] = False,
    freeze_norm: Annotated[bool, typer.Option("--freeze-norm", help="Hold the final norm too.")] = False,
    stratum: Annotated[
        list[str] | None, typer.Option(help="Split by a feature too: relation, length, …; repeatable.")
    ] = None,
    joint: Annotated[
        int | None, typer.Option(help="Ablate up to so many layers together too, chosen greedily.")
    ] = None,
    responsible: Annotated[
        list[str] | None,
        typer.Option(help="Search this layer's responsibility and smallest witnesses too; repeatable."),
    ] = None,
    checkpoints: Annotated[Path | None, typer.Option(help="Run every checkpoint in this folder too.")] = None,
    relation: Annotated[list[str] | None, typer.Option(help="Keep prompts of this relation; repeatable.")] = None,
    correct_only: Annotated[
        bool, typer.Option("--correct-only", help="Keep prompts that every model answers as they say.")
    ] = False,
    single_token_answers: Annotated[
        bool, typer.Option("--single-token-answers", help="Keep prompts whose answer is one token.")
    ] = False,
    cuts: Annotated[int | None, typer.Option(help="Cut each text at so many places into next-token prompts.")] = None,
    cut_at: Annotated[list[int] | None, typer.Option(help="Cut each text after so many tokens; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of donors, intervals and permutations.")] = 0,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:0, …; auto: over all GPUs that there are (needs accelerate).")
    ] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16, float16 or auto.")] = "float32",
    memory: Annotated[str, typer.Option(help="For data and activations, beside the weights.")] = "2GiB",
    chunk: Annotated[
        int | None, typer.Option(help="Prompts per chunk of work.", show_default="found from the sizes")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|URL", help="Run folder to make, or s3://bucket/run.", show_default="runs/hydra-<time>"
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Work on a Ray cluster: auto or host:port; alone: on this machine's own.",
            show_default="work in this process",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="With --ray: how many workers.", show_default="found from the cluster")
    ] = None,
    gpus_per_worker: Annotated[float, typer.Option(help="With --ray: GPUs of each worker.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that stands there.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run at --out.")] = False,
    same_target_donors: Annotated[
        bool, typer.Option("--same-target-donors", help="Allow donors whose target equals the prompt's.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")] = False,
) -> None:
    if context.invoked_subcommand is not None:
        return
    from causalnet.cli.console import complain, progress_bars, silence_libraries
    from causalnet.cli.process import fit_threads
    from causalnet.errors import InputError
    from causalnet.prompts import Prompts
    from causalnet.studies.folder import default_folder, refuse_existing
    from causalnet.studies.hydra import Options
    from causalnet.studies.hydra import hydra as study
    from causalnet.studies.places import place, reach

    options = Options(
        ",".join(ablation or ["resample"]), donors, limit, seed, device, dtype, same_target_donors,
        positions=tuple(position or ()), outcomes=tuple(outcome or ()), vectors=tuple(vector or ()),
        heads=heads, frozen_norm=freeze_norm,
        strata=tuple(stratum or ()), cuts=cuts, cut_at=tuple(cut_at or ()), correct_only=correct_only,
        single_token_answers=single_token_answers, relations=tuple(relation or ()),
        joint=joint, responsible=tuple(responsible or ()),
        checkpoints="" if checkpoints is None else str(checkpoints), chunk=chunk, memory=memory,
    )  # fmt: skip
    if resume and (out is None or overwrite):
        raise InputError("--resume needs --out, the run to go on with, and goes without --overwrite")
    path = place(default_folder("hydra") if out is None else out)
    reach(path)
    if not resume:
        refuse_existing(path, overwrite=overwrite)
    executor = _executor(ray, workers, gpus_per_worker)
    arms, source = _arms(model, compare, prompts)
    loaded = Prompts.from_file(source)
    for note in loaded.notes:
        complain(f"{source}: {note}", kind="note: ")
    silence_libraries()
    if executor is None:
        fit_threads()
    how: dict[str, Any] = {"overwrite": overwrite, "resume": resume, "executor": executor}
    try:
        # What a cluster has to say of its workers is not what was asked for.
        with progress_bars(quiet) as progress, redirect_stdout(sys.stderr):
            run = study(arms, loaded, options=options, out=path, progress=progress, **how)
    except (KeyboardInterrupt, SystemExit):
        _say_how_to_go_on(path)
        raise
    if not quiet and (relation or correct_only or single_token_answers or cuts or cut_at):
        for line in json.loads(run.results[0].data.attrs["run"])["prompts"]["dropped"]:
            complain(line, kind="note: ")
    if as_json:
        json.dump(run.to_json(), sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
        print()
    else:
        _show(run)
    if run.misfits:
        raise typer.Exit(complain("; ".join(run.misfits), 1))


def _executor(ray: str | None, workers: int | None, gpus_per_worker: float) -> "Executor | None":
    """Return who does the work; None: this process."""
    from causalnet.errors import InputError

    if ray is None:
        if workers is not None or gpus_per_worker:
            raise InputError("--workers and --gpus-per-worker go with --ray")
        return None
    from causalnet.interop.ray import Ray

    return Ray("" if ray == ALONE else ray, workers, gpus_per_worker)


def _say_how_to_go_on(path: Path) -> None:
    from causalnet.cli.console import complain
    from causalnet.studies.folder import is_unfinished

    if is_unfinished(path):
        complain(f"finished chunks are kept; go on with the same arguments and --resume --out {path}")


def _show(run: "Run") -> None:
    from causalnet.cli.console import show_sentences, show_summary

    for result in run.results:
        show_summary(result.name, result.summary)
        for place, summary in result.variants.items():
            show_sentences(f"{result.name}, {place.removeprefix('variants/')}", summary["findings"][:1])
    if run.comparison is not None:
        show_sentences("comparison", run.comparison["findings"])
    print(f"run: {run.path}\nreport: {run.path / 'report.html'}")


def _arms(model: str | None, other: str | None, prompts: Path | None) -> tuple[list[Any], Path]:
    """Return the models and the prompt file: the embedded ones where none is named."""
    from causalnet.errors import InputError
    from causalnet.studies.hydra import Arm

    if model is not None:
        if prompts is None:
            raise InputError("--model needs --prompts: a JSONL file with a 'prompt' field on each line, for example")
        if other is None:
            return [Arm("", model)], prompts
        names = [Path(one).expanduser().resolve().name for one in (model, other)]
        if names[0] == names[1]:
            names = [f"{name}-{number}" for number, name in enumerate(names, 1)]
        return [Arm(name, one) for name, one in zip(names, (model, other), strict=True)], prompts
    if other is not None:
        raise InputError("--compare needs --model, the model to compare with")
    from causalnet.demo import ARMS, model_path, prompts_path

    return [Arm(name, str(model_path(name))) for name in ARMS], prompts_path() if prompts is None else prompts


_EXAMPLE = """Show one prompt: the impact of every layer, clean and with one layer ablated.

Every layer's direct effect on the target's logit (the model's most likely next token) is given unablated, with the
chosen layer's output at the last position taken from each of several other prompts, and their mean; then who
answers the ablation, the largest change first.

The run folder holds effects.zarr (every layer ablated in this prompt), impacts.csv, responders.csv, example.svg and
summary.json.

Examples:

\b
  causalnet hydra example --prompt "the river is in the"
  causalnet hydra example --prompt "the river is in the" --layer 3
  causalnet hydra example --model path/to/checkpoint --prompts pool.jsonl --prompt "Big Ben is in" --layer mlp[5]
"""


def example(
    prompt: Annotated[str, typer.Option(help="The prompt.")],
    layer: Annotated[
        str | None,
        typer.Option(
            help="attn[3], mlp[3], or 3 for attn[3].", show_default="the largest direct effect that others can answer"
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Checkpoint folder or hub name.", show_default="the embedded model trained with dropout"),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Prompts that donors are drawn from.", show_default="those of the embedded models"),
    ] = None,
    ablation: Annotated[str, typer.Option(help="What layers are set to: resample, zero, mean or noise.")] = "resample",
    donors: Annotated[int, typer.Option(help="Other prompts that layers are resampled from.")] = 15,
    seed: Annotated[int, typer.Option(help="Seed of the donors.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, …")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16, float16 or auto.")] = "float32",
    out: Annotated[Path | None, typer.Option(help="Run folder to make.", show_default="runs/example-<time>")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that stands there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    from causalnet.cli.console import silence_libraries
    from causalnet.cli.process import fit_threads
    from causalnet.errors import InputError
    from causalnet.prompts import Prompts
    from causalnet.studies.example import example as study
    from causalnet.studies.options import Arm, Options

    options = Options(ablation, donors, None, seed, device, dtype)
    if len(options.ablations) > 1:
        raise InputError("an example shows one kind of ablation")
    if model is None:
        from causalnet.demo import ARMS, model_path, prompts_path

        model, prompts = str(model_path(ARMS[-1])), prompts or prompts_path()
    pool = Prompts()
    if prompts is not None:
        pool = Prompts.from_file(prompts)
    elif ablation != "zero":
        raise InputError("--model needs --prompts, where donors come from; or --ablation zero, which needs none")
    silence_libraries()
    fit_threads()
    found = study(Arm("", model), prompt, pool, layer=layer, options=options, out=out, overwrite=overwrite)
    if as_json:
        json.dump(found.to_json(), sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
        print()
        return
    facts = found.facts
    drawn = f", {facts['donors']} donors" if facts["donors"] else ""
    print(f"{facts['model']}: {facts['prompt']!r} -> {facts['target']!r} (logit {facts['clean_logit']:.3f})")
    means = ", ".join(f"{name} {facts[name]:.3f}" for name in ("te", "de", "ce", "norm"))
    print(f"{found.node} ablated ({facts['ablation']}{drawn}): unablated direct effect {facts['clean_direct']:.3f}")
    print(f"means: {means} (logits, effect = Y(do) − Y)")
    print(f"{'responder':<16}{'clean':>9}{'change':>9}{'sd':>8}{'same sign':>11}  kind")
    for row in found.responders:
        print(
            f"{row['responder']:<16}{row['clean']:>9.3f}{row['delta_de']:>9.3f}{row['sd']:>8.3f}"
            f"{row['same_sign']:>11.2f}  {row['kind']}"
        )
    print(f"run: {found.path}")
