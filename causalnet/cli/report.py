"""``causalnet report``: the report of a run, written again from its folder."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

# \b keeps the paragraph below it as it is typed.
_HELP = """Write the report of a run: one HTML file that is complete in itself.

RUN is a folder that a study wrote (summary.json and effects.zarr, or one such folder per model).  The report
opens with what was asked, what was found and how sure that is; then comes an explorer of every ablation, prompt
and model.  It loads nothing from the network.  Printed is where it was written.

Examples:

\b
  causalnet report runs/demo
  causalnet report runs/demo --out demo.html --title "Two models"
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(name="report", help=_HELP)(report)


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or its URL.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="File to write.", show_default="RUN/report.html")
    ] = None,
    title: Annotated[str, typer.Option(help="Heading.", show_default="made from the models' names")] = "",
    prompt: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Prompt that is shown first.", show_default="the mean")
    ] = None,
    memory: Annotated[str, typer.Option(help="For the data; what does not fit is read in parts.")] = "2GiB",
) -> None:
    from causalnet.draw import report as write
    from causalnet.studies.options import bytes_of
    from causalnet.studies.places import mirrored, place, reach

    room = bytes_of(memory)
    where = place(run)
    reach(where)
    with mirrored(where) as folder:
        written = write(folder, out, title=title, prompt=prompt, memory=room)
    print(where / "report.html" if out is None else written)
