"""``causalnet do``: answer one do-expression."""

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from causalnet.api import CausalModel
    from causalnet.effects.result import Result
    from causalnet.expr import Query

__all__ = ["register"]

# \b keeps the paragraph below it as it is typed.
_HELP = """Answer a do-expression: an effect's mean over prompts, with its interval.

Without --model it asks the embedded model 'plain', without --prompts on its evaluation prompts.

Examples:

\b
  causalnet do "TE(attn[3]@last = resample)"
  causalnet do "E[logprob(target) | do(mlp[2] = zero)] - E[logprob(target)]" --limit 100 --json
  causalnet do "DE(attn[9].head[6]@last = mean)" --model openai-community/gpt2 --prompts prompts.jsonl --dry-run
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="do", help=_HELP)(do)


def do(
    expression: Annotated[str, typer.Argument(metavar="EXPR", help="The do-expression, in quotes.")],
    model: Annotated[
        str | None, typer.Option(help="Checkpoint folder or hub name; default: the embedded model.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="JSONL with a 'prompt' field, known_1000.json, CSV or plain text.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Also say in plain English what is run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost; run nothing.")] = False,
    per_prompt: Annotated[bool, typer.Option("--per-prompt", help="Also print every prompt's value.")] = False,
    donors: Annotated[int, typer.Option(help="Donors (resample) or draws (noise) per prompt.")] = 15,
    pool: Annotated[
        str | None, typer.Option(help="File of prompts to draw donors from, or 'random': intervals cover the donors.")
    ] = None,
    same_target_donors: Annotated[
        bool, typer.Option("--same-target-donors", help="Allow donors whose target equals the prompt's.")
    ] = False,
    target: Annotated[str, typer.Option(help="What 'target' means: argmax or answer.")] = "argmax",
    vector: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="A vector (.npy, .safetensors) for projection, value, add or project_out; repeatable.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of donors, noise and all resampling.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Use only the first so many prompts.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, …")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no notes.")] = False,
) -> None:
    from causalnet.errors import CausalnetError

    try:
        query = _query(expression)
        options: dict[str, Any] = {"donors": donors, "target": target, "pool": _pool(pool)}
        options["vectors"] = _vectors(vector or ())
        source, given = _sources(model, prompts, limit)
        compiled = _load(source, dtype, device)
        said = compiled.explain(query) if explain else None
        if dry_run:
            _show_plan(query, compiled.plan(query, given, **options), said, as_json=as_json)
            return
        options |= {"seed": seed, "same_target_donors": same_target_donors}
        result = _answer(compiled, query, given, options, quiet=quiet)
        _show(result, said, as_json=as_json, per_prompt=per_prompt, quiet=quiet)
    except CausalnetError as error:
        if "\n" not in str(error):
            raise
        # The lines after the first show the place in the expression; they only speak as lines.
        print(f"causalnet: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


def _query(expression: str) -> "Query":
    from causalnet.expr import parse

    return parse(expression)


def _pool(pool: str | None) -> Any:
    from causalnet.prompts import Prompts

    return pool if pool is None or pool == "random" else Prompts.from_file(pool)


def _vectors(given: Sequence[str]) -> dict[str, Any]:
    """Return vectors [d_model] by name."""
    from causalnet.effects.vectors import read_vectors

    return {name: one.values for name, one in read_vectors(given).items()}


def _sources(model: str | None, prompts: Path | None, limit: int | None) -> tuple[str, Any]:
    """Return where the model is, and the prompts: the embedded ones where none are named."""
    from causalnet.errors import InputError
    from causalnet.prompts import Prompts

    if prompts is None:
        if model is not None:
            raise InputError("--model needs --prompts: a JSONL file with a 'prompt' field on each line, for example")
        from causalnet.demo import prompts_path

        prompts = prompts_path()
    if model is None:
        from causalnet.demo import model_path

        model = str(model_path("plain"))
    found = Prompts.from_file(prompts)
    return model, found if limit is None else found.take(limit)


def _load(model: str, dtype: str, device: str) -> "CausalModel":
    from causalnet.api import compile
    from causalnet.cli.console import silence_libraries

    silence_libraries()
    return compile(model, dtype=dtype, device=device)


def _answer(model: "CausalModel", query: "Query", prompts: Any, options: dict[str, Any], *, quiet: bool) -> "Result":
    from causalnet.cli.console import progress_bars
    from causalnet.effects.statistics import FewPromptsWarning

    with progress_bars(quiet) as progress, warnings.catch_warnings():
        # The result says so itself, in its notes.
        warnings.simplefilter("ignore", FewPromptsWarning)
        advance = None if progress is None else lambda done, total: progress("rows", done, total)
        return model.evaluate(query, prompts, progress=advance, **options)


def _show(result: "Result", said: str | None, *, as_json: bool, per_prompt: bool, quiet: bool) -> None:
    from causalnet.cli.console import complain

    if as_json:
        found = result.to_dict(values=per_prompt)
        print(json.dumps(found if said is None else {**found, "explanation": said}, ensure_ascii=False))
        for note in () if quiet else result.notes:
            complain(note, kind="note: ")
        return
    if said is not None:
        print(said, end="\n\n")
    print(result)
    if per_prompt:
        for prompt, value, text in zip(result.prompts, result.values.tolist(), result.texts, strict=True):
            print(f"{prompt:>6}  {value:>12.6g}  {' '.join(text.split())}")


def _show_plan(query: "Query", planned: Any, said: str | None, *, as_json: bool) -> None:
    if as_json:
        found = {
            "expression": str(query),
            "worlds": len(planned.worlds),
            "rows": planned.rows,
            "draws": planned.draws,
            "token_layers": planned.tokens,
            "share_of_full_forward": planned.share,
        }
        print(json.dumps(found if said is None else {**found, "explanation": said}, ensure_ascii=False))
        return
    if said is not None:
        print(said, end="\n\n")
    print(planned)
