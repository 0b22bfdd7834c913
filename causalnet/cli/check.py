"""``causalnet check``: hold the compiled form of a model against the model."""

import json
import math
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from causalnet.model.check import CheckReport, Misfit
    from causalnet.model.edges import EdgeReport, TestedEdge
    from causalnet.model.mechanism import Mechanisms
    from causalnet.testing.report import LawReport

__all__ = ["register"]

_SHOWN = 10
"""Failed edges that are printed; --json lists them all."""

# \b keeps the paragraph below it as it is typed.
_HELP = """Check that a model's causal graph is its computation.

On random tokens it is measured that every layer's change is the sum of its contributions (residual closure),
that each mechanism reads what the graph says and nothing besides (read points), and that the model's own logits
are the sum of direct effects and constants (readout closure).  One line per closure: its worst layer, the
relative misfit there, the tolerance that the dtype explains, and whether it holds.

With --laws the laws of structural causal models are tried on it as well: what is no descendant of an intervention
keeps its value, every edge carries, total effects split into their parts, and so on.  One line per law: its cases,
the worst residual, and whether it holds; of one that fails the smallest case that was found, as a do-expression.

MODEL is a checkpoint folder or a hub name; no tokenizer is needed.  Exit status 1: something fails.

Examples:

\b
  causalnet check path/to/checkpoint
  causalnet check openai-community/gpt2 --edges
  causalnet check path/to/checkpoint --laws --cases 50
  causalnet check path/to/checkpoint --dtype float64 --json
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="check", help=_HELP)(check)


def check(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint folder or hub name.")],
    edges: Annotated[
        bool, typer.Option("--edges", help="Also test every edge of the layer graph, and every absent one.")
    ] = False,
    laws: Annotated[bool, typer.Option("--laws", help="Also try the laws of structural causal models.")] = False,
    cases: Annotated[int, typer.Option(help="With --laws: cases per law.", min=1)] = 10,
    seed: Annotated[int, typer.Option(help="With --laws: seed of the cases.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, …")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16, float16 or auto.")] = "float32",
) -> None:
    from causalnet.cli.console import complain, silence_libraries
    from causalnet.cli.graph import model_name
    from causalnet.model.edges import check_edges
    from causalnet.model.load import load_model

    silence_libraries()
    mechanisms, report = _measured(load_model(model, dtype=dtype, device=device), model_name(model))
    tested = check_edges(mechanisms) if edges else None
    tried = _laws(mechanisms, cases, seed) if laws else None
    if as_json:
        found = _object(mechanisms, report, tested, tried)
        print(json.dumps(found, ensure_ascii=False, allow_nan=False))
    else:
        _show(mechanisms, report, tested)
        if tried is not None:
            print("\n".join(tried.lines()))
    failed = [report.misfit] if not report.holds else []
    if tested is not None and not tested.holds:
        failed.append(
            f"{mechanisms.name}: {len(tested.failed)} of {len(tested.rows)} pairs of nodes are not as the graph says"
        )
    if tried is not None and not tried.holds:
        names = ", ".join(row.law.name for row in tried.failed)
        failed.append(f"{mechanisms.name}: {len(tried.failed)} of {len(tried.rows)} laws fail: {names}")
    if failed:
        raise typer.Exit(complain("; ".join(failed), 1))


def _laws(mechanisms: "Mechanisms", cases: int, seed: int) -> "LawReport":
    from causalnet.cli.console import progress_bars
    from causalnet.testing.report import check_laws

    # On a terminal only: elsewhere the table is all that is wanted.
    with progress_bars(quiet=not sys.stderr.isatty()) as advance:
        return check_laws(mechanisms, cases=cases, seed=seed, progress=lambda done, of: advance("laws", done, of))


def _measured(hf: Any, name: str) -> "tuple[Mechanisms, CheckReport]":
    """Compile and measure; where the family's record misses and discovery does not, take what was discovered."""
    from causalnet.cli.console import complain
    from causalnet.errors import CompileError
    from causalnet.model.check import check
    from causalnet.model.compile import compile_model

    mechanisms = compile_model(hf, name=name, verify=False)
    report = check(mechanisms)
    if report.holds or mechanisms.found == "discovery":
        return mechanisms, report
    try:
        discovered = compile_model(hf, name=name)
    except CompileError:
        return mechanisms, report
    complain(f"by discovery, because {report.misfit}", kind="note: ")
    return discovered, check(discovered)


def _closure(row: "Misfit") -> str:
    """Return which of the three closures a row belongs to."""
    if "sum of" in row.what:
        return "residual"
    return "readout" if "readout" in row.what or "direct" in row.what else "read points"


def _what(row: "Misfit") -> str:
    """Say what was compared, without the layer."""
    return row.what if row.layer is None else row.what.replace(f"[{row.layer}]", "")


def _verdict(holds: bool) -> str:
    return "holds" if holds else "fails"


def _show(mechanisms: "Mechanisms", report: "CheckReport", tested: "EdgeReport | None") -> None:
    graph = mechanisms.graph
    kind = str(mechanisms.dtype).removeprefix("torch.")
    print(
        f"{mechanisms.name}: {mechanisms.config.model_type} by {mechanisms.found}, {graph.layers} layers, "
        f"{len(graph)} nodes, {graph.number_of_edges} edges; {kind} on {mechanisms.device}"
    )
    rows = [("closure", "what is compared", "worst in", "misfit", "tolerance", "")]
    for row in report.summary:
        place = "" if row.layer is None else f"layer {row.layer}"
        rows.append((_closure(row), _what(row), place, f"{row.size:.1e}", f"{row.tolerance:.0e}", _verdict(row.holds)))
    rows += [] if tested is None else _edge_rows(tested)
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    for row in rows:
        cells = [cell.rjust(width) if place in (3, 4) else cell.ljust(width)
                 for place, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        print("  ".join(cells).rstrip())
    for row in () if tested is None else tested.failed[:_SHOWN]:
        print(f"{row.source} -> {row.target}: {_wrong(row)}")
    if tested is not None and len(tested.failed) > _SHOWN:
        print(f"… and {len(tested.failed) - _SHOWN} more")


def _wrong(row: "TestedEdge") -> str:
    """Say in what the model differs from the graph."""
    if not row.present:
        return f"no edge, but it moves by {row.moved:.1e}"
    return f"an edge, but it moves its child by {row.moved:.1e} only" if row.moved else "an edge, but it moves nothing"


def _edge_rows(tested: "EdgeReport") -> list[tuple[str, ...]]:
    """Return one row for the edges and one for the absent ones, each with its worst figure."""
    rows = []
    for present, name, what in ((True, "edges", "{} edges each move their child"),
                                (False, "absent edges", "{} absent edges move nothing")):  # fmt: skip
        some = [row for row in tested.rows if row.present == present]
        if not some:
            continue
        # The edge that moves least, the absent one that moves most.
        worst = (min if present else max)(some, key=lambda row: row.moved)
        bound = f"> {worst.tolerance:.0e}" if present else "0"
        holds = all(row.holds for row in some)
        rows.append((name, what.format(len(some)), f"{worst.source} -> {worst.target}", f"{worst.moved:.1e}", bound,
                     _verdict(holds)))  # fmt: skip
    return rows


def _object(
    mechanisms: "Mechanisms", report: "CheckReport", tested: "EdgeReport | None", tried: "LawReport | None"
) -> dict[str, Any]:
    """Return everything that was measured; what is no number is null."""
    found: dict[str, Any] = {
        "model": mechanisms.name,
        "model_type": mechanisms.config.model_type,
        "found": mechanisms.found,
        "layers": mechanisms.graph.layers,
        "nodes": len(mechanisms.graph),
        "edges": mechanisms.graph.number_of_edges,
        "dtype": str(mechanisms.dtype).removeprefix("torch."),
        "device": str(mechanisms.device),
        "holds": report.holds and (tested is None or tested.holds) and (tried is None or tried.holds),
        "closures": [_misfit(row) | {"what": _what(row)} for row in report.summary],
        "rows": [_misfit(row) for row in report.rows],
    }
    if tested is not None:
        found["edge_check"] = {
            "holds": tested.holds,
            **{key.replace(" ", "_"): count for key, count in tested.summary.items()},
            "failed": [
                {
                    "source": str(row.source),
                    "target": str(row.target),
                    "edge": row.present,
                    "moved": _number(row.moved),
                    "tolerance": row.tolerance,
                }
                for row in tested.failed
            ],
        }
    if tried is not None:
        found["laws"] = tried.as_dict()["laws"]
    return found


def _misfit(row: "Misfit") -> dict[str, Any]:
    return {"closure": _closure(row), **asdict(row), "size": _number(row.size), "holds": row.holds}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
