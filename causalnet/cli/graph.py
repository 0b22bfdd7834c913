"""``causalnet graph``: the causal graph of a model, as text or as a picture."""

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from causalnet.draw import Drawing
    from causalnet.graph import CausalGraph

__all__ = ["model_name", "register"]

_GRANULARITIES = ("layer", "head")
_TEXTS = ("dot", "graphml", "json")
_PICTURES = ("svg", "pdf", "png")
_BINARY = ("pdf", "png")
_ENDINGS = {f".{name}": name for name in (*_TEXTS, *_PICTURES)} | {".gv": "dot"}

# \b keeps the paragraph below it as it is typed.
_HELP = """Write the causal graph of a model: its nodes, and which of them reads which.

MODEL is a checkpoint folder, a hub name or a config.json.  Only the config is read: no weights, no tokenizer.

Without -o the graph is written to stdout, as DOT unless --format says otherwise.  graphml and json hold the
whole graph: CausalGraph.from_graphml and CausalGraph.from_json give the equal one back.  Every component reads
all earlier ones, so the graph is dense; above a million edges its sparse form is written, as with --spine.
Pictures (svg, pdf, png) draw the residual stream as a spine; over positions they draw each attention as one box,
whatever the granularity.  Where the Graphviz program dot is missing, DOT is written in their place.

Examples:

\b
  causalnet graph path/to/checkpoint
  causalnet graph openai-community/gpt2 -o gpt2.svg
  causalnet graph config.json --granularity head --spine -o heads.graphml
  causalnet graph path/to/checkpoint --unroll 4 -o positions.pdf
  causalnet graph path/to/checkpoint --format json | jq '.nodes | length'
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="graph", help=_HELP)(graph)


def graph(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint folder, hub name or config.json.")],
    granularity: Annotated[str, typer.Option(help="layer, or head: the heads of each attention are nodes.")] = "layer",
    unroll: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Every node once per position, for N positions.")
    ] = None,
    spine: Annotated[
        bool, typer.Option("--spine", help="The sparse form: the residual stream between layers is a node.")
    ] = False,
    format: Annotated[
        str | None,
        typer.Option(help="dot, svg, pdf, png, graphml or json.", show_default="by the ending of -o, else dot"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write to this file.")] = None,
) -> None:
    from causalnet.errors import InputError, explain

    if granularity not in _GRANULARITIES:
        what = f"unknown granularity {granularity!r}"
        raise InputError(explain(what, legal=_GRANULARITIES, got=granularity))
    chosen = _format(format, out)
    if chosen in _BINARY and out is None and sys.stdout.isatty():
        raise InputError(f"{chosen} is not text for a terminal; name a file with -o, or redirect the output")
    compiled = _compiled(model, granularity)
    if chosen in _TEXTS:
        _write(_text(_shaped(compiled, unroll, spine=spine), chosen).encode(), out)
    else:
        _write_picture(_drawing(compiled, unroll), chosen, out)


def _format(format: str | None, out: Path | None) -> str:
    """Return the format that was asked for, by name or by the ending of the file."""
    from causalnet.errors import InputError, explain

    legal = (*_TEXTS, *_PICTURES)
    if format is not None:
        if format not in legal:
            raise InputError(explain(f"unknown format {format!r}", legal=legal, got=format))
        return format
    if out is None:
        return "dot"
    found = _ENDINGS.get(out.suffix.lower())
    if found is None:
        what = (
            f"the ending {out.suffix!r} is no format's" if out.suffix else "the file has no ending to tell the format"
        )
        raise InputError(
            explain(what, where=str(out), legal=_ENDINGS, got=out.suffix.lower(), mend="or name it with --format")
        )
    return found


def _compiled(model: str, granularity: str) -> "CausalGraph":
    from causalnet.cli.console import silence_libraries
    from causalnet.model.compile import compile_config
    from causalnet.model.load import load_config

    silence_libraries()
    return compile_config(load_config(model), granularity=granularity, name=model_name(model))


def model_name(model: str) -> str:
    """Return how the model is called: a hub name as it is, a path by its folder."""
    path = Path(model).expanduser()
    if not path.exists():
        return model
    path = path.resolve()
    if path.is_dir():
        return path.name
    return path.parent.name if path.name == "config.json" else path.stem


def _shaped(compiled: "CausalGraph", unroll: int | None, *, spine: bool) -> "CausalGraph":
    """Return the graph over positions, sparse where that is asked for or there are too many edges to list."""
    from causalnet.errors import InputError
    from causalnet.graph.surgery import EDGES_AT_MOST

    _check_size(compiled, unroll)
    sparse = compiled.spine()
    shaped = _unrolled(sparse if spine else compiled, unroll)
    if shaped.number_of_edges <= EDGES_AT_MOST:
        return shaped
    if not spine:
        dense, shaped = shaped.number_of_edges, _unrolled(sparse, unroll)
        if shaped.number_of_edges <= EDGES_AT_MOST:
            warnings.warn(f"the graph has {dense:,} edges; its sparse form is written (--spine)", stacklevel=2)
            return shaped
    edges = f"{shaped.number_of_edges:,} edges in the sparse form"
    raise InputError(f"{_size(compiled, unroll)} make {edges}; unroll fewer positions")


def _check_size(compiled: "CausalGraph", unroll: int | None) -> None:
    """Refuse, before anything is built, what has too many edges even in the sparse form."""
    from causalnet.errors import InputError
    from causalnet.graph.surgery import EDGES_AT_MOST

    # A node of the sparse form has two edges and more.
    if len(compiled.spine()) * (unroll or 1) * 2 > EDGES_AT_MOST:
        raise InputError(f"{_size(compiled, unroll)} make more than a million edges; unroll fewer positions")


def _unrolled(graph: "CausalGraph", positions: int | None) -> "CausalGraph":
    return graph if positions is None else graph.unroll(positions)


def _size(graph: "CausalGraph", positions: int | None) -> str:
    return f"{len(graph):,} nodes at {positions or 1:,} positions"


def _text(graph: "CausalGraph", format: str) -> str:
    if format == "dot":
        return graph.to_dot()
    return graph.to_graphml() if format == "graphml" else graph.to_json()


def _drawing(compiled: "CausalGraph", unroll: int | None) -> "Drawing":
    from causalnet.draw import draw

    _check_size(compiled, unroll)
    return draw(_unrolled(compiled, unroll), fold=compiled.granularity == "layer")


def _write_picture(drawing: "Drawing", format: str, out: Path | None) -> None:
    """Write a picture; where Graphviz is missing, its DOT text, beside where the picture would be."""
    from causalnet.draw import GraphvizMissingError

    try:
        content = drawing.render(format)
    except GraphvizMissingError as error:
        content, out = drawing.dot.encode(), out and out.with_suffix(".dot")
        warnings.warn(f"{error}; DOT text is written{f' to {out}' if out else ''} instead of {format}", stacklevel=2)
    _write(content, out)


def _write(content: bytes, out: Path | None) -> None:
    if out is None:
        # Bytes: the encoding that a file declares must not depend on the terminal.
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(content)
