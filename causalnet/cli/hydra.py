"""``causalnet hydra``: the Hydra study of any model, by default of the embedded ones."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from causalnet.studies.hydra import Run

__all__ = ["register"]

# \b keeps the paragraph below it as it is typed.
_HELP = """Ablate every layer, split each total effect, and say who compensates.

Every attention and MLP layer's output at the last position is set to what it is on other prompts (or to zero,
or to the mean).  Printed per node: the mean direct (de), total (te), compensatory (ce) and norm effect on the
target's logit, effect = Y(do) − Y; the slope of ce on the unablated direct effect (+1 is perfect repair
under zero ablation) with its 95 % interval, R² and permutation p; the slope on what was lost.

Without --model it runs the two embedded models on their evaluation prompts.

The run folder holds effects.zarr (every number), summary.json, report.html, graph.json and graph.svg; with several
models one such folder for each, comparison.json and a report of all.

Examples:

\b
  causalnet hydra
  causalnet hydra --limit 200 --ablation zero --out runs/zero
  causalnet hydra --model path/to/checkpoint --prompts prompts.jsonl
  causalnet hydra --model openai-community/gpt2 --prompts known_1000.json --donors 5 --json
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="hydra", help=_HELP)(hydra)


def hydra(
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
    ablation: Annotated[str, typer.Option(help="What each layer is set to: resample, zero or mean.")] = "resample",
    donors: Annotated[int, typer.Option(help="Other prompts that each layer is resampled from, per prompt.")] = 15,
    limit: Annotated[
        int | None, typer.Option(help="Use the first so many prompts.", show_default="all prompts")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of donors, intervals and permutations.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, …")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16, float16 or auto.")] = "float32",
    out: Annotated[Path | None, typer.Option(help="Run folder to make.", show_default="runs/hydra-<time>")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that stands there.")] = False,
    same_target_donors: Annotated[
        bool, typer.Option("--same-target-donors", help="Allow donors whose target equals the prompt's.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")] = False,
) -> None:
    from causalnet.cli.console import complain, progress_bars, silence_libraries
    from causalnet.cli.process import fit_threads
    from causalnet.prompts import Prompts
    from causalnet.studies.folder import refuse_existing
    from causalnet.studies.hydra import Options
    from causalnet.studies.hydra import hydra as study

    options = Options(ablation, donors, limit, seed, device, dtype, same_target_donors)
    if out is not None:
        refuse_existing(out, overwrite=overwrite)
    arms, source = _arms(model, prompts)
    loaded = Prompts.from_file(source)
    for note in loaded.notes:
        complain(f"{source}: {note}", kind="note: ")
    silence_libraries()
    fit_threads()
    with progress_bars(quiet) as progress:
        run = study(arms, loaded, options=options, out=out, overwrite=overwrite, progress=progress)
    if as_json:
        json.dump(run.to_json(), sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
        print()
    else:
        _show(run)
    if run.misfits:
        raise typer.Exit(complain("; ".join(run.misfits), 1))


def _show(run: "Run") -> None:
    from causalnet.cli.console import show_sentences, show_summary

    for result in run.results:
        show_summary(result.name, result.summary)
    if run.comparison is not None:
        show_sentences("comparison", run.comparison["findings"])
    print(f"run: {run.path}\nreport: {run.path / 'report.html'}")


def _arms(model: str | None, prompts: Path | None) -> tuple[list[Any], Path]:
    """Return the models and the prompt file: the embedded ones where none is named."""
    from causalnet.errors import InputError
    from causalnet.studies.hydra import Arm

    if model is not None:
        if prompts is None:
            raise InputError("--model needs --prompts: a JSONL file with a 'prompt' field on each line, for example")
        return [Arm("", model)], prompts
    from causalnet.demo import ARMS, model_path, prompts_path

    return [Arm(name, str(model_path(name))) for name in ARMS], prompts_path() if prompts is None else prompts
