"""What commands print: tables on stdout, progress on stderr."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["progress_bars", "show_table"]

_COLUMNS = ("name", "de", "te", "ce", "norm", "slope", "slope_ci", "r2", "p_null", "slope_lost")


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """Yield a progress callback that draws bars on stderr; None where that would be noise."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield advance


def show_table(name: str, summary: Mapping[str, Any]) -> None:
    """Print the per-node table of one model and its findings."""
    print(f"\n{name}: {summary['prompts']} prompts, {summary['donors']} donors, {summary['ablation']} ablation")
    rows = [_COLUMNS, *([_cell(node[column]) for column in _COLUMNS] for node in summary["nodes"])]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_COLUMNS))]
    for row in rows:
        first = row[0].ljust(widths[0])
        print("  ".join([first, *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]))
    print(
        f"closure: |TE − DE − CE − NORM| at most {summary['closure_max_abs']:.1e} logits, "
        f"{summary['closure_max_rel']:.1e} relative; {summary['wall_s']:.1f} s"
    )
    for sentence in summary["findings"]:
        print(f"  {sentence}")


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return "–".join(f"{end:.2f}" for end in value)
    return f"{value:.3f}"
