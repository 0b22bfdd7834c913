"""The directive ``room``: the reference of a module, every name of its ``__all__`` once, from the docstrings."""

import importlib
import inspect
import re
import sys
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

__all__ = ["entries", "exists", "names_of", "setup"]


def names_of(module: Any) -> list[str]:
    """Return the public names of a module, in alphabetical order, capitals last."""
    return sorted(module.__all__, key=lambda name: (name[0].isupper(), name.lower()))


def entries(path: str, only: str = "", without: str = "") -> list[str]:
    """Return the names that a room's entry documents: what a package above offers as well stands there."""
    module = importlib.import_module(path)
    left_out = set(without.split())
    parts = path.split(".")
    above = [importlib.import_module(".".join(parts[:place])) for place in range(1, len(parts))]
    for parent in above:
        for name in getattr(parent, "__all__", ()):
            if name in module.__all__ and getattr(parent, name) is getattr(module, name):
                left_out.add(name)
    return [name for name in only.split() or names_of(module) if name not in left_out]


class Room(SphinxDirective):
    """``{room} module``: document its public names, or those that ``:only:`` lists, but for ``:without:``."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"only": directives.unchanged, "without": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """Return the nodes that autodoc makes."""
        path = self.arguments[0]
        module = importlib.import_module(path)
        lines = [f".. py:currentmodule:: {path}", ""]
        for name in entries(path, self.options.get("only", ""), self.options.get("without", "")):
            lines += _entry(path, name, getattr(module, name))
        text = ["```{eval-rst}", *lines, "```"]
        found = nodes.container()
        self.state.nested_parse(StringList(text, source=path), self.content_offset, found)
        return found.children


def _entry(path: str, name: str, value: Any) -> list[str]:
    full = f"{path}.{name}"
    if inspect.isclass(value):
        if issubclass(value, Exception):
            return [f".. autoexception:: {full}", "   :show-inheritance:", ""]
        return [f".. autoclass:: {full}", "   :members:", ""]
    if inspect.isroutine(value):
        return [f".. autofunction:: {full}", ""]
    doc = _comment(path, name, value)
    if not doc and type(value).__module__.startswith("causalnet"):
        # A word of the language is an instance, and says itself what it is through its class.
        doc = inspect.cleandoc(type(value).__doc__ or "").split("\n\n")[0]
    return [f".. py:data:: {full}", "", *(f"   {line}" for line in doc.splitlines()), ""]


def _comment(path: str, name: str, value: Any) -> str:
    """Return what stands in quotes below the assignment of a name, in the module where that is."""
    places = [path, *(one for one in sorted(sys.modules) if one.startswith("causalnet."))]
    for place in places:
        if getattr(sys.modules[place], name, None) is value and hasattr(sys.modules[place], "__file__"):
            found = ModuleAnalyzer.for_module(place).find_attr_docs().get(("", name))
            if found:
                return "\n".join(found).strip()
    return ""


def _escape_bars(_app: Sphinx, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    """Keep |x|, an absolute value, from being read as a substitution; code is left alone."""
    code = False
    for number, line in enumerate(lines):
        code = line.strip().startswith(">>>") or (code and bool(line.strip()))
        if not code:
            parts = line.split("``")
            parts[::2] = [re.sub(r"(?<!\\)\|(?=\S)|(?<=\S)(?<!\\)\|", r"\\|", part) for part in parts[::2]]
            lines[number] = "``".join(parts)


def _inside(_app: Sphinx, _env: Any, node: Any, contnode: nodes.Node) -> nodes.Node | None:
    """Show names of causalnet that exist but have no entry (types in signatures) as text; others stay faults."""
    if node.get("refdomain") != "py":
        return None
    target = str(node.get("reftarget", ""))
    return contnode if exists(target) or exists(f"{node.get('py:module')}.{target}") else None


def exists(name: str) -> bool:
    """Whether a dotted name leads to something in causalnet."""
    parts = name.split(".")
    if parts[0] != "causalnet":
        return False
    found: Any = importlib.import_module("causalnet")
    for place, part in enumerate(parts[1:], start=2):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(parts[:place]))
            except ImportError:
                return part in getattr(found, "__dataclass_fields__", {})
        found = getattr(found, part)
    return True


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive, and what it needs of autodoc."""
    app.add_directive("room", Room)
    app.add_config_value("code_state", "", "env", str)
    app.connect("autodoc-process-docstring", _escape_bars)
    app.connect("missing-reference", _inside)
    return {"parallel_read_safe": True}
