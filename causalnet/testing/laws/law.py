"""What a law is: its statement, the cases it is tried on, and the residual that says how far it is off."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st

from causalnet.expr.outcomes import TARGET, Outcome
from causalnet.expr.positions import LAST, At
from causalnet.expr.refs import Component
from causalnet.expr.world import NATURAL_WORLD, World
from causalnet.graph import Node
from causalnet.testing.lab import SHORTEST, Lab, Unit, Values, lab_of

__all__ = ["Case", "Finding", "Law", "units", "worst"]


@dataclass(frozen=True)
class Finding:
    """How far a law was off in one case.

    Attributes
    ----------
    residual
        0 where it holds exactly; relative to the size of what is compared.  Infinite where something is wrong that has
        no size: an edge that carries nothing, a tie that is not refused.
    node, position
        Where it is off most.
    words
        What is wrong, where that is not the difference between two values.
    expression
        The do-expression that goes wrong, where it is another than the case's own.
    """

    residual: float
    node: Node | None = None
    position: int | None = None
    words: str = ""
    expression: str = ""

    def __str__(self) -> str:
        if self.words:
            return self.words if math.isinf(self.residual) else f"{self.words}: {self.residual:.1e}"
        where = "" if self.node is None else f"{self.node}{'' if self.position is None else f'@{self.position}'} "
        return f"{where}is off by {self.residual:.1e}"


@dataclass(frozen=True, repr=False)
class Case:
    """One case of a law: everything that its residual depends on, besides the model.

    Parameters
    ----------
    unit
        The prompts: length, seed.
    worlds
        The worlds that are compared.
    nodes
        The nodes that the law speaks of.
    queries
        Do-expressions, as text.
    options
        What else there is to choose, by name.
    """

    unit: Unit = field(default_factory=Unit)
    worlds: tuple[World, ...] = ()
    nodes: tuple[Node, ...] = ()
    queries: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    def __repr__(self) -> str:
        # Worlds in worlds have reprs that fill pages; the expression says the same.
        return f"Case({self.expression()!r}, {self.unit})"

    def expression(self, finding: Finding | None = None) -> str:
        """Return the do-expression that shows the case: a difference that the law says is 0, or the case's query."""
        if finding is not None and finding.expression:
            return finding.expression
        if self.queries:
            return self.queries[0]
        if not self.worlds and self.options:
            return ", ".join(f"{name} {value}" for name, value in self.options)
        outcome = Outcome("logit", (TARGET,)) if finding is None else _outcome(finding)
        first = self.worlds[-1] if self.worlds else NATURAL_WORLD
        second = self.worlds[0] if len(self.worlds) == 2 else NATURAL_WORLD
        if first == second:
            return _mean(outcome, first)
        return f"{_mean(outcome, first)} - {_mean(outcome, second)}"


def _mean(outcome: Outcome, world: World) -> str:
    return f"E[{outcome} | {world}]" if world else f"E[{outcome}]"


def _outcome(finding: Finding) -> Outcome:
    """Return the outcome that reads a node at a position."""
    node, position = finding.node, LAST if finding.position is None else At(finding.position)
    if node is None or not (node.contributes or node.kind == "norm"):
        return Outcome("logit", (TARGET,), None, position)
    if node.kind == "norm":
        return Outcome("sigma", (), None, position)
    return Outcome("direct", (TARGET,), Component.of(replace(node, position=None)), position)


Measure = Callable[[Any, Case], Finding]


@dataclass(frozen=True, eq=False)
class Law:
    """A statement that holds in every structural causal model, or of causalnet itself, and how it is tried.

    Parameters
    ----------
    name
        Short name.
    number
        Number in the list of laws.
    statement
        One sentence.
    needs
        ``scm``: any model or network; ``model``: a compiled model; ``nothing``: networks or numbers of its own.
    draw
        From a lab to a strategy of cases (from None, where nothing is needed).
    measure_on
        From a lab and a case to the finding.
    bound
        From a lab and a case to the residual up to which the law holds; default the rounding of the dtype.

    Examples
    --------
    Three ways to use a law: in a test of your own, on a live model, at the shell.

    >>> from hypothesis import given, settings
    >>> from causalnet.testing import check_laws, law
    >>> from causalnet.testing.finite import field_network
    >>> network = field_network(length=5)
    >>> @settings(max_examples=5, database=None)
    ... @given(case=law("composition").cases(network))
    ... def test_composition(case):
    ...     law("composition").check(network, case)
    >>> test_composition()
    >>> check_laws(network, laws=["composition"], cases=5).holds
    True

    Each call measures anew how a large model rounds; :func:`causalnet.testing.lab.lab_of` gives something that
    remembers, and is accepted wherever a model is.
    """

    name: str
    number: int
    statement: str
    needs: Literal["scm", "model", "nothing"]
    draw: Callable[[Any], st.SearchStrategy[Case]]
    measure_on: Measure
    bound: Callable[[Any, Case], float] | None = None
    weight: float = 1.0

    def cases(self, model: Any = None) -> st.SearchStrategy[Case]:
        """Return a strategy of cases for a model or a network (None for a law that needs neither)."""
        return self.draw(None if self.needs == "nothing" else lab_of(model))

    def measure(self, model: Any, case: Case) -> Finding:
        """Try the law on one case.

        An error of causalnet during the run is a finding too: a write that did not fire breaks the law.
        """
        from causalnet.errors import CausalnetError

        lab = None if self.needs == "nothing" else lab_of(model)
        try:
            return self.measure_on(lab, case)
        except CausalnetError as error:
            return Finding(math.inf, words=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")

    def tolerance(self, model: Any, case: Case) -> float:
        """Return the residual up to which the law holds."""
        lab = None if self.needs == "nothing" else lab_of(model)
        if self.bound is not None:
            return self.bound(lab, case)
        return 0.0 if lab is None else lab.tolerance

    def check(self, model: Any, case: Case) -> None:
        """Try the law on one case.

        Raises
        ------
        AssertionError
            If it fails, with the do-expression that shows it.
        """
        lab = None if self.needs == "nothing" else lab_of(model)
        found, bound = self.measure(lab, case), self.tolerance(lab, case)
        if not found.residual <= bound:
            where = "" if lab is None else f" on {lab.name}"
            tokens = "" if lab is None else f"\n  tokens {list(lab.tokens(case.unit))}"
            raise AssertionError(
                f"{self.name} fails{where}: {found} (tolerance {bound:.0e})\n  {self.statement}\n"
                f"  {self.shown(lab, case, found)}{tokens}"
            )

    def shown(self, model: Any, case: Case, found: Finding) -> str:
        """Return the do-expression that shows a finding: one that the language accepts on the model's graph.

        What moved and should not is often nothing that the language lets one read: it knows that it cannot move.  Then
        the expression reads the logits in the same worlds.
        """
        from causalnet.errors import CausalnetError
        from causalnet.expr.compiled import compile_query
        from causalnet.expr.parser import parse

        if self.needs == "nothing":
            return case.expression(found)
        graph = lab_of(model).graph
        for text in (case.expression(found), case.expression()):
            try:
                compile_query(parse(text), graph)
            except CausalnetError:
                continue
            return text
        return case.expression()


@st.composite
def units(draw: st.DrawFn, lab: Lab, *, mixed: bool = False) -> Unit:
    """Draw the exogenous part of a case; ``mixed`` allows donors of another length."""
    length = draw(st.sampled_from(range(SHORTEST, lab.longest + 1)))
    return Unit(length, draw(st.integers(0, 7)), mixed and draw(st.booleans()))


def worst(
    lab: Lab,
    unit: Unit,
    one: Values,
    other: Values,
    nodes: Iterable[Node],
    keep: Callable[[Node, int], bool] = lambda node, position: True,
) -> Finding:
    """Return the largest difference between two worlds among some nodes at the positions that are kept."""
    found = Finding(0.0)
    for node in nodes:
        gaps = lab.gap(unit, node, np.asarray(one[node]), np.asarray(other[node]))
        for position, gap in enumerate(gaps):
            if gap > found.residual and keep(node, position):
                found = Finding(float(gap), node, position)
    return found
