"""What commands print: results on stdout, progress and complaints on stderr."""

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from causalnet.cli.process import stop_if_asked

__all__ = ["complain", "progress_bars", "show_sentences", "show_summary", "silence_libraries", "warnings_as_lines"]

_EVERY = 5.0  # seconds between two lines of progress where stderr is not a terminal

# Keys of a node in summary.json, so that what the table shows can be looked up there.
_COLUMNS = ("name", "de", "te", "ce", "ce_attn", "ce_mlp", "norm", "slope", "slope_ci", "r2", "p_null", "slope_lost")

Progress = Callable[[str, int, int], None]


def complain(problem: object, code: int = 0, *, kind: str = "") -> int:
    """Write one line on stderr and return ``code``."""
    print(f"causalnet: {kind}{' '.join(str(problem).split())}", file=sys.stderr, flush=True)
    return code


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Show each warning once, as one line on stderr."""
    shown: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = " ".join(str(message).split())
        if text not in shown:
            shown.add(text)
            complain(text, kind="warning: ")

    with warnings.catch_warnings():
        warnings.filterwarnings("always", module=r"causalnet\b")
        warnings.showwarning = show
        yield


def silence_libraries() -> None:
    """Keep libraries' loading bars and advice off the terminal; their errors still come as errors."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def progress_bars(quiet: bool = False) -> Iterator[Progress]:
    """Yield a callback (what, done, total): bars on a terminal, now and then a line elsewhere.

    Every call is also a moment at which a request to stop is honoured.
    """
    if quiet:
        yield _stopping(lambda what, done, total: None)
    elif sys.stderr.isatty():
        with _bars() as advance:
            yield _stopping(advance)
    else:
        yield _stopping(_lines())


def _stopping(advance: Progress) -> Progress:
    def step(what: str, done: int, total: int) -> None:
        stop_if_asked()
        advance(what, done, total)

    return step


def _lines() -> Progress:
    started: dict[str, float] = {}
    # The first step is always shown: it says that all that can be refused has been checked.
    last = [-_EVERY]

    def advance(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        since = started.setdefault(what, now)
        if done < total and now - last[0] < _EVERY:
            return
        last[0] = now
        print(f"{what}: {100 * done // max(total, 1)} % ({now - since:.0f} s)", file=sys.stderr, flush=True)

    return advance


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bars:
        tasks: dict[str, Any] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield advance


def show_summary(name: str, summary: Mapping[str, Any]) -> None:
    """Print the per-node table of one model, its closure and its findings."""
    from causalnet.effects.words import words_of

    counts = [
        _count(summary["prompts"], "prompt"),
        *([_count(summary["donors"], "donor")] if summary["donors"] else []),
    ]
    words = words_of(summary)
    read = "" if words.usual else f" of {words.outcome}"
    print(f"{name}: {', '.join(counts)}, {summary['ablation']} ablation; means{read} in {words.unit}")
    columns = [key for key in _COLUMNS if all(key in node for node in summary["nodes"])]
    rows = [columns, *([_cell(node[key]) for key in columns] for node in summary["nodes"])]
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))
    print(
        f"closure: |TE − DE − CE − NORM| at most {summary['closure_max_abs']:.1e} {words.unit}, "
        f"{summary['closure_max_rel']:.1e} relative; {summary['wall_s']:.1f} s"
    )
    show_sentences("", summary["findings"])


def show_sentences(title: str, sentences: list[str]) -> None:
    """Print a title, if any, and sentences under it."""
    if title:
        print(title)
    for sentence in sentences:
        print(f"- {sentence}")
    print()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return f"[{', '.join(f'{end:.2f}' for end in value)}]"
    return f"{value:.3f}" if value == 0 or abs(value) >= 5e-4 else f"{value:.0e}"
