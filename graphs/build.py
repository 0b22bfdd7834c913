"""Rebuild the gallery: the causal graph of each model family, compiled from a small random model of it.

Run ``make graphs``, or ``python graphs/build.py [--out FOLDER] [FAMILY ...]``.
"""

import argparse
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from causalnet.errors import CompileError, InputError, UnsupportedModelError

if TYPE_CHECKING:
    from causalnet.graph import CausalGraph
    from causalnet.model.describe import Portrait

HERE = Path(__file__).resolve().parent

_HEAD = """# Graphs of model families

One causal graph for each family of decoder-only language models in `transformers` {version} that causalnet compiles:
{count} of them, {recorded} by a family record, {discovered} by discovery alone. Every graph is compiled from a small
random model with the code of the family, at least one layer of each kind, and checked against that model (residual
closure, read points, readout closure).

- `.graphml` holds the whole graph; `CausalGraph.from_graphml` reads it back. Any graph tool reads it too.
- `.dot` is the same graph for Graphviz: every edge, so it is dense.
- `.svg` is the picture: the residual stream as spine, attention left, MLPs right.

The table's words: **block**: whether the MLP reads what the attention of its layer added (sequential) or not
(parallel), and whether the two share one norm. **norm**: whether a norm stands before each mechanism (pre), after
it (post) or both (sandwich), and the kind of the final norm. **mixer**: how a layer crosses positions. **window**:
how many positions it sees; small models have a window of {window} where the family has a sliding one. **heads**: of
the small model; `-` where they cannot be told apart. **found**: whether the structure was read from a family record
or discovered by probing.

`make graphs` rebuilds this folder. A family that is missing is refused, and
`causalnet graph path/to/config.json` says why.

| family | block | norm | mixer | window | heads | found | files |
|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Entry:
    """One family of the gallery: its name, its graph, and what the table says of it."""

    family: str
    graph: "CausalGraph"
    portrait: "Portrait"

    @property
    def row(self) -> str:
        """The family's line of the table."""
        shown, name = self.portrait, self.family
        files = f"[graphml]({name}.graphml) · [dot]({name}.dot) · [svg]({name}.svg)"
        cells = (name, shown.block, shown.norm, shown.mixers, shown.windows, shown.heads, shown.found, files)
        return f"| {' | '.join(cells)} |\n"

    def write(self, folder: Path) -> None:
        """Write the graph's three files; where Graphviz is missing, a picture that is there already stays."""
        from causalnet.draw import GraphvizMissingError, draw

        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.family}.graphml").write_text(self.graph.to_graphml(), encoding="utf-8", newline="\n")
        (folder / f"{self.family}.dot").write_text(self.graph.to_dot(), encoding="utf-8", newline="\n")
        try:
            (folder / f"{self.family}.svg").write_bytes(draw(self.graph).render("svg"))
        except GraphvizMissingError as error:
            print(f"{self.family}: no picture: {error}", file=sys.stderr)


def families() -> list[str]:
    """Return the types of decoder-only language models that the installed ``transformers`` has."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    found = []
    for family in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        try:
            # The decoder of a translation model compiles; the model itself is refused.
            if CONFIG_MAPPING[family]().is_encoder_decoder:
                continue
        except Exception as error:  # whatever a stranger's constructor raises
            print(f"{family}: no config: {type(error).__name__}", file=sys.stderr)
            continue
        found.append(family)
    return found


def entry(family: str) -> Entry:
    """Compile a small model of a family.

    Raises
    ------
    UnsupportedModelError, CompileError, InputError
        If the family is refused, or no small model of it can be built.
    """
    from causalnet.model.compile import compile_model
    from causalnet.model.describe import portrait
    from causalnet.model.small import small_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mechanisms = compile_model(small_model(family), name=family)
    return Entry(family, mechanisms.graph, portrait(mechanisms))


def entries(names: Iterable[str]) -> Iterator[Entry]:
    """Compile every family that can be; say on stderr which ones are refused."""
    every = set(names)
    for name in sorted(every):
        try:
            found = entry(name)
        except (UnsupportedModelError, CompileError, InputError) as refusal:
            print(f"{name}: refused: {' '.join(str(refusal).split())[:160]}", file=sys.stderr)
            continue
        # A larger model (of text and pictures) around a text model that has its own type shows nothing new.
        inner = found.portrait.family
        if inner != name and inner in every:
            continue
        yield found


def readme(found: Iterable[Entry]) -> str:
    """Return the text of README.md."""
    import transformers

    from causalnet.model.shrink import WINDOW

    listed = sorted(found, key=lambda one: one.family)
    recorded = sum(one.portrait.found == "record" for one in listed)
    head = _HEAD.format(
        count=len(listed),
        recorded=recorded,
        discovered=len(listed) - recorded,
        version=transformers.__version__,
        window=WINDOW,
    )
    return head + "".join(one.row for one in listed)


def main() -> None:
    """Rebuild the gallery, or some families of it."""
    parser = argparse.ArgumentParser(description="Rebuild the gallery of compiled graphs.")
    parser.add_argument("family", nargs="*", help="only these families; the table is then left as it is")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    asked = parser.parse_args()
    from transformers.utils import logging

    logging.set_verbosity_error()
    written = []
    for one in entries(asked.family or families()):
        one.write(asked.out)
        written.append(one)
        print(f"{one.family}: {one.portrait.block}; {one.portrait.found}", file=sys.stderr)
    if asked.family:
        return
    names = {one.family for one in written}
    for stale in (*asked.out.glob("*.graphml"), *asked.out.glob("*.dot"), *asked.out.glob("*.svg")):
        if stale.stem not in names:
            stale.unlink()
    (asked.out / "README.md").write_text(readme(written), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
