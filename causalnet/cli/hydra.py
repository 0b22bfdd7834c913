"""``causalnet hydra``: the Hydra study of any model, by default of the embedded ones."""

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["register"]

_HELP = """Ablate every layer, split each total effect, and say who compensates.

Without --model it runs the two embedded models on their evaluation prompts.

Examples:

  causalnet hydra

  causalnet hydra --model path/to/checkpoint --prompts prompts.jsonl --donors 15

  causalnet hydra --model path/to/checkpoint --prompts known_1000.json --ablation zero --limit 100
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="hydra", help=_HELP)(hydra)


def hydra(
    model: Annotated[str | None, typer.Option(help="Checkpoint folder or hub name; default: the embedded models.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="JSONL with a 'prompt' field, known_1000.json, CSV or plain text.")
    ] = None,
    ablation: Annotated[str, typer.Option(help="What each layer is set to: resample, zero or mean.")] = "resample",
    donors: Annotated[int, typer.Option(help="Donors per prompt (resample).")] = 15,
    limit: Annotated[int | None, typer.Option(help="Use only the first so many prompts.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of donors and of all resampling.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, …")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/hydra-<time>.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that stands at --out.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    from causalnet.cli.console import progress_bars, show_table
    from causalnet.prompts import Prompts
    from causalnet.studies.folder import refuse_existing
    from causalnet.studies.hydra import Options
    from causalnet.studies.hydra import hydra as run

    options = Options(ablation, donors, limit, seed, device, dtype)
    if out is not None:
        refuse_existing(out, overwrite=overwrite)
    arms, source = _arms(model, prompts)
    with progress_bars(quiet) as progress:
        path, results, comparison = run(
            arms, Prompts.from_file(source), options=options, out=out, overwrite=overwrite, progress=progress
        )
    for result in results:
        show_table(result.arm.name or str(result.summary["model"]), result.summary)
    if comparison is not None:
        _sentences("comparison", comparison["findings"])
    print(f"\nrun: {path}\nreport: {path / 'report.html'}")


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


def _sentences(title: str, sentences: list[str]) -> None:
    print(f"\n{title}")
    for sentence in sentences:
        print(f"  {sentence}")
