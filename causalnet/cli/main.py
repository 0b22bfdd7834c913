"""``causalnet``: the command, its help, and what its exit codes mean."""

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from causalnet.cli import check, do, graph, hydra, report
from causalnet.cli.console import complain, warnings_as_lines
from causalnet.cli.hydra import ALONE
from causalnet.cli.process import stoppable
from causalnet.errors import CausalnetError

__all__ = ["app", "main"]

app = typer.Typer(
    name="causalnet",
    help="Causal-graph modelling of transformer language models.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def causalnet() -> None:
    """Causal-graph modelling of transformer language models.

    Exit status: 0 success, 1 a check or law failed, 2 bad input or a refused model, 130 interrupted.
    """


check.register(app)
do.register(app)
graph.register(app)
hydra.register(app)
report.register(app)

_BAD_INPUT, _INTERRUPTED, _NOBODY_READS = 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Errors that causalnet raises on purpose, and those of the operating system, are one line on stderr
    and exit status 2; any other error is a fault of the program and keeps its traceback.

    Parameters
    ----------
    arguments
        What stands after ``causalnet``; default those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show Δ gets a replacement, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with warnings_as_lines(), stoppable():
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run the application and return the exit status."""
    try:
        # Without arguments the help is what was asked for.
        code = app(args=_with_address(arguments) or ["--help"], standalone_mode=False, prog_name="causalnet")
        sys.stdout.flush()
    except typer.Exit as stop:
        code = stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    except SystemExit as stop:
        # The parser turns a broken pipe into an exit of its own.
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        code = _NOBODY_READS
    except BrokenPipeError:
        # Whoever read our output went away; Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _NOBODY_READS
    except (CausalnetError, OSError) as error:
        return complain(error, _BAD_INPUT)
    except Exception as error:
        # What the command-line parser raises has no common public base over typer's versions.
        if not hasattr(error, "format_message"):
            raise
        return complain(_parsing(error), _BAD_INPUT)
    if code == _INTERRUPTED:
        complain("interrupted; nothing was left half-written")
    return code if isinstance(code, int) else 0


def _with_address(arguments: list[str]) -> list[str]:
    """Give ``--ray`` its value where none follows: the parser knows no option whose value may be left out."""
    found = []
    for place, word in enumerate(arguments):
        found.append(word)
        if word == "--ray" and (place + 1 == len(arguments) or arguments[place + 1].startswith("-")):
            found.append(ALONE)
    return found


def _parsing(error: Any) -> str:
    """Say what was wrong with the command line, and where its help is."""
    context = getattr(error, "ctx", None)
    command = "causalnet" if context is None else context.command_path
    return f"{str(error.format_message()).rstrip('.')}; see '{command} --help'"
