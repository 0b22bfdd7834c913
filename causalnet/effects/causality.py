"""Actual causality: why an event came about, for nodes whose single ablation shows nothing.

In the modified Halpern–Pearl definition a set of nodes X ∪ C is a cause of an event if setting them to their
contrasts, while other nodes W (the witness) are held at their natural values, makes the event false, and no
proper subset does so with any witness.  A node that is compensated is exposed by its smallest witness (the
compensator, held still); a node that is redundant by its joint cause (the other one, taken away as well).
The responsibility of a node is ``1 / (|cause| + |witness|)``, the largest over the causes that it belongs to.

References
----------
Halpern, A modification of the Halpern–Pearl definition of causality (2015).  Chockler and Halpern,
Responsibility and blame (2004).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from causalnet.effects.asking import Scm
from causalnet.effects.witness import Found, Oracle, Unit, Variables, every_witness, greedy, variables
from causalnet.expr import TARGET, Assignment, Outcome
from causalnet.graph import Node

__all__ = ["Cause", "Causes", "Event", "actual_causes"]


TOP = Outcome("top1", (TARGET,))


@dataclass(frozen=True)
class Event:
    """An event of a world: an outcome is above a threshold.

    Parameters
    ----------
    outcome
        What is read; default whether the target is the most likely token.
    above
        The threshold: a number, or one per prompt [prompt].
    score
        What a greedy search lowers, where the outcome itself only says yes or no.
    """

    outcome: Outcome = TOP
    above: float | np.ndarray = 0.5
    score: Outcome | None = None

    @property
    def guide(self) -> Outcome:
        """The outcome that a greedy search lowers."""
        if self.score is None and self.outcome.name == "top1":
            return Outcome("logprob", self.outcome.tokens, position=self.outcome.position)
        return self.outcome if self.score is None else self.score

    def holds(self, values: np.ndarray) -> np.ndarray:
        """Whether the event is true [prompt, draw], given the outcome's values."""
        threshold = np.asarray(self.above, dtype=np.float64)
        return values > (threshold if threshold.ndim == 0 else threshold[:, None])


@dataclass(frozen=True)
class Cause:
    """A cause of the event in one unit.

    Parameters
    ----------
    nodes
        The nodes that are set to their contrasts, together.
    witness
        The nodes that are held natural meanwhile; a smallest such set (in a greedy search: one from which no
        node can be left out).
    certain
        Whether it is known that no proper subset of the nodes is a cause; a single node is always certain.
    """

    nodes: tuple[str, ...]
    witness: tuple[str, ...] = ()
    certain: bool = True

    @property
    def responsibility(self) -> float:
        """The responsibility that each of its nodes has by this cause."""
        return 1.0 / (len(self.nodes) + len(self.witness))

    def __str__(self) -> str:
        held = (
            f" while {', '.join(self.witness)} {'is' if len(self.witness) == 1 else 'are'} held" if self.witness else ""
        )
        return f"{{{', '.join(self.nodes)}}}{held}"


@dataclass(frozen=True, eq=False)
class Causes:
    """The causes of an event in every unit.

    Attributes
    ----------
    variables
        The nodes that could be causes.
    responsibility
        [prompt, draw, variable]; 0 where the node is in no cause, NaN where the event was false to begin with.
        A lower bound where ``exact`` is False.
    causes
        By (prompt, draw): every minimal cause, most responsible first.
    exact
        Whether every set and every witness was tried.
    worlds
        How many worlds were run.
    """

    variables: tuple[str, ...]
    responsibility: np.ndarray
    causes: Mapping[tuple[int, int], tuple[Cause, ...]]
    exact: bool
    worlds: int

    def __str__(self) -> str:
        how = "every witness was tried" if self.exact else "greedy search: lower bounds"
        lines = [f"causes among {len(self.variables)} nodes ({how}, {self.worlds} worlds)"]
        means = np.nanmean(self.responsibility.reshape(-1, len(self.variables)), axis=0)
        lines += [
            f"{name:>16}  mean responsibility {mean:.3f}" for name, mean in zip(self.variables, means, strict=True)
        ]
        return "\n".join(lines)


def actual_causes(
    scm: Scm,
    *contrasts: Assignment,
    event: Event | None = None,
    witnesses: Sequence[Node] | None = None,
    most_worlds: int = 4096,
) -> Causes:
    """Find the actual causes of an event among some nodes, unit by unit.

    Parameters
    ----------
    scm
        The model on its prompts.
    contrasts
        What each candidate is set to when it is taken away: ``(attn[0:3] | mlp[0:3]) @ last << zero``.  Every
        node and position that they name is one candidate.
    event
        The event to explain; default: the target is the most likely token.
    witnesses
        Nodes that may be held besides the candidates; default: everything downstream of a candidate, the final
        norm included.
    most_worlds
        Where trying every cause with every witness takes more worlds than this, the search is greedy.

    Returns
    -------
    Causes
        Relative to the candidates and witnesses that were named.

    Raises
    ------
    ExpressionError
        If a contrast is no assignment to nodes.
    InputError
        If a witness is not downstream of any candidate.

    Notes
    -----
    The greedy search looks for a small witness of each node by itself (a node alone is always minimal, so its
    responsibility is a true lower bound) and, where it finds none, for a joint cause whose minimality is tested
    against these witnesses only: such a cause is listed as not certain and counts for no responsibility.

    Examples
    --------
    >>> from causalnet.expr import attn, logit, mlp, target, zero
    >>> from causalnet.testing.motifs import motif
    >>> event = Event(logit(target), above=0.5)
    >>> found = actual_causes(motif("self_repair"), (attn[0] | mlp[0]) << zero, event=event)
    >>> print(found.causes[0, 0][0], found.responsibility[0, 0].tolist())
    {attn[0]} while mlp[0] is held [0.5, 0.0]
    """
    event = Event() if event is None else event
    places = variables(scm.graph, contrasts, event.outcome, witnesses)
    oracle = Oracle(scm, event.outcome, event.holds, event.guide)
    exact = places.count(most_worlds) is not None
    found = every_witness(oracle, places) if exact else greedy(oracle, places)
    return _causes(oracle, places, found, exact=exact)


def _causes(oracle: Oracle, places: Variables, found: Mapping[Unit, list[Found]], *, exact: bool) -> Causes:
    """Name what was found, and take each candidate's largest responsibility."""
    table = np.zeros((len(oracle.true), oracle.draws, len(places.contrasts)))
    listed = {}
    for unit, some in found.items():
        named = []
        for one in some:
            cause = Cause(
                tuple(places.names[n] for n in one.members), tuple(places.names[n] for n in one.witness), one.certain
            )
            named.append(cause)
            if one.certain:
                members = list(one.members)
                table[unit][members] = np.maximum(table[unit][members], cause.responsibility)
        listed[unit] = tuple(sorted(named, key=lambda one: (not one.certain, -one.responsibility, one.nodes)))
    table[~oracle.true] = np.nan
    table[oracle.missing] = np.nan
    return Causes(places.names[: len(places.contrasts)], table, listed, exact, len(oracle.values))
