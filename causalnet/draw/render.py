"""DOT text, and the Graphviz program that turns it into pictures."""

import functools
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalnet.errors import CausalnetError, InputError, explain

__all__ = ["FORMATS", "Drawing", "GraphvizMissingError", "escape_label"]

FORMATS = ("svg", "png", "pdf", "dot")
_INSTALL = "install it (Debian and Ubuntu: apt install graphviz; macOS: brew install graphviz)"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class GraphvizMissingError(CausalnetError, FileNotFoundError):
    """The Graphviz program ``dot`` is not on this machine."""


def escape_label(text: str) -> str:
    r"""Return ``text`` as Graphviz must be given it to show exactly these characters.

    Graphviz reads backslashes (``\N`` is the node's name), entities (``&lt;``) and labels in angle brackets
    (markup); text that comes from a model or a prompt may be none of these.

    Examples
    --------
    >>> escape_label(r"<b>&\N")
    '&lt;b&gt;&amp;\\\\N'
    """
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\\", "\\\\")
    return text.replace("\r", " ").replace("\n", " ")


@functools.cache
def _warn_missing() -> None:
    # Cached: a study draws many graphs and one warning is enough.
    warnings.warn(f"the Graphviz program 'dot' was not found, so only DOT text is written; {_INSTALL}", stacklevel=3)


@dataclass(frozen=True)
class Drawing:
    """A drawn graph: its DOT text, and pictures made from it on request.

    Parameters
    ----------
    dot
        The graph in the DOT language; equal graphs give equal text.
    path
        The file that was written, or None.
    """

    dot: str
    path: Path | None = None

    def __str__(self) -> str:
        """Return the DOT text."""
        return self.dot

    def render(self, format: str = "svg") -> bytes:
        """Return the picture as ``svg``, ``png``, ``pdf`` or ``dot`` bytes.

        Raises
        ------
        InputError
            If the format is unknown.
        GraphvizMissingError
            If the Graphviz program is not installed (``dot`` needs none).
        """
        if format not in FORMATS:
            raise InputError(explain(f"unknown picture format {format!r}", legal=FORMATS, got=format))
        if format == "dot":
            return self.dot.encode()
        import graphviz

        try:
            return graphviz.Source(self.dot).pipe(format=format, quiet=True)
        except graphviz.ExecutableNotFound as error:
            raise GraphvizMissingError(f"the Graphviz program 'dot' was not found; {_INSTALL}") from error

    def svg(self) -> str:
        """Return the picture as an ``<svg>`` element, ready to be put into a page."""
        text = self.render("svg").decode()
        return text[text.index("<svg") :].strip()

    def save(self, path: str | Path, format: str | None = None) -> "Drawing":
        """Write the picture; where Graphviz is missing, write its DOT text beside it and warn once.

        Parameters
        ----------
        path
            The file to write.
        format
            ``svg``, ``png``, ``pdf`` or ``dot``; by default the file's ending.

        Returns
        -------
        Drawing
            The same drawing with ``path`` set to the file that was written.
        """
        path = Path(path)
        chosen = format or path.suffix.lstrip(".").lower()
        try:
            content = self.render(chosen)
        except GraphvizMissingError:
            _warn_missing()
            path, content = path.with_suffix(".dot"), self.dot.encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return Drawing(self.dot, path)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Show the picture in a notebook, or the DOT text where Graphviz is missing."""
        try:
            return {"image/svg+xml": self.svg(), "text/plain": self.dot}
        except GraphvizMissingError:
            _warn_missing()
            return {"text/plain": self.dot}
