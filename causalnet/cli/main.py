"""``causalnet``: the command, its help, and what its exit codes mean."""

import sys
from collections.abc import Sequence

import typer

from causalnet.cli import do, hydra
from causalnet.errors import CausalnetError

__all__ = ["app", "main"]

app = typer.Typer(
    name="causalnet",
    help="Causal-graph modelling of transformer language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def causalnet() -> None:
    """Causal-graph modelling of transformer language models.

    Exit status: 0 success, 1 a check or law failed, 2 bad input or a refused model, 130 interrupted.
    """


do.register(app)
hydra.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors that causalnet raises on purpose are one line on stderr and exit 2."""
    try:
        code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted; nothing was left half-written", file=sys.stderr)
        code = 130
    except CausalnetError as error:
        print(f"causalnet: {_one_line(error)}", file=sys.stderr)
        code = 2
    except OSError as error:
        print(f"causalnet: {_one_line(error)}", file=sys.stderr)
        code = 2
    except Exception as error:
        import click

        if not isinstance(error, click.ClickException):
            raise
        error.show()
        code = error.exit_code
    sys.exit(code or 0)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
