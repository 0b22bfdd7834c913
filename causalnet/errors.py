"""The error tree: every error says what, where, what was legal and how to mend it.

Each class is also a builtin, so code that knows nothing of causalnet can catch it
(``except KeyError``).  Messages are built by :func:`explain`, in one form everywhere.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "CausalnetError",
    "CompileError",
    "DataError",
    "ExpressionError",
    "GraphError",
    "InputError",
    "InterventionError",
    "NonFiniteError",
    "OutOfMemory",
    "PromptError",
    "RunExistsError",
    "UnfinishedError",
    "UnknownNameError",
    "UnknownNodeError",
    "UnsupportedModelError",
    "WorkerLostError",
    "explain",
    "nearest",
]


class CausalnetError(Exception):
    """Base of every error that causalnet raises on purpose."""

    def __str__(self) -> str:
        # KeyError would show the repr of its argument; a message is read by people.
        return str(self.args[0]) if self.args else ""


class InputError(CausalnetError, ValueError):
    """An argument, option or file that cannot be used as given."""


class PromptError(InputError):
    """A prompt, a prompt file or a named span that cannot be used."""


class ExpressionError(InputError):
    """A do-expression that cannot be read or that asks for something impossible."""


class UnknownNameError(CausalnetError, KeyError):
    """A name (of a span, a donor set, a source, a column) that does not exist."""


class UnknownNodeError(UnknownNameError):
    """A node that the graph does not have."""


class GraphError(CausalnetError, ValueError):
    """A causal graph that is malformed, or a query that it cannot answer."""


class UnsupportedModelError(CausalnetError, TypeError):
    """A model whose computation causalnet cannot express truthfully."""


class CompileError(CausalnetError, RuntimeError):
    """A compiled model that does not reproduce the real one."""


class InterventionError(CausalnetError, RuntimeError):
    """An intervention that did not fire exactly where it was planned."""


class NonFiniteError(CausalnetError, ArithmeticError):
    """An outcome that is NaN or infinite."""


class OutOfMemory(CausalnetError, MemoryError):
    """Not even one row fits into the memory of the device."""


class UnfinishedError(CausalnetError, RuntimeError):
    """Some parts of a long run could not be done; the others are done and kept."""


class WorkerLostError(CausalnetError, RuntimeError):
    """A worker elsewhere that died: it was killed, or its machine had no memory left."""


class RunExistsError(CausalnetError, FileExistsError):
    """An output folder that already holds a run."""


class DataError(CausalnetError, ValueError):
    """A stored result that does not follow its schema."""


def nearest(name: str, legal: Iterable[str]) -> str | None:
    """Return the legal name that looks most like ``name``, or None.

    Examples
    --------
    >>> nearest("resampel", ["zero", "mean", "resample"])
    'resample'
    """
    found = difflib.get_close_matches(str(name), [str(word) for word in legal], n=1, cutoff=0.5)
    return found[0] if found else None


def explain(what: str, *, where: str = "", legal: Iterable[str] = (), got: str = "", mend: str = "") -> str:
    """Build an error message: what is wrong, where, what was legal, how to mend it.

    Parameters
    ----------
    what
        One clause that says what is wrong.
    where
        The place: a file and line, a prompt, a node.
    legal
        The names that would have been accepted; long lists are shortened.
    got
        The name that was given; the nearest legal one is then suggested.
    mend
        What the reader can do about it.

    Examples
    --------
    >>> explain("unknown ablation 'zerro'", legal=["zero", "mean"], got="zerro")
    "unknown ablation 'zerro'; did you mean 'zero'? legal: zero, mean"
    """
    words = [str(word) for word in legal]
    message = f"{where}: {what}" if where else what
    guess = nearest(got, words) if got else None
    if guess:
        message += f"; did you mean {guess!r}?"
    if words:
        shown = ", ".join(words[:12]) + (f", … ({len(words)} in all)" if len(words) > 12 else "")
        message += f"{'' if guess else ';'} legal: {shown}"
    if mend:
        message += f"; {mend}"
    return message
