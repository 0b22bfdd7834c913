"""The layer sweep: every node set in turn, its total effect split by the last edge.

For a node X set to s, with Y the target's centred logit (McGrath et al. 2023; design of the split in
docs):

``TE = DE + CE + NORM``, where ``TE = E[Y | do(s)] − E[Y]``, ``DE`` is the change of X's own direct effect,
``CE`` the sum over responders of theirs, ``NORM = E[Y | do(s)] − E[Y | do(s, norm = natural)]``.

``TE`` and ``NORM`` come from the model's own final norm and unembedding, ``DE`` and ``CE`` from the
contributions, so that the closure residual says something.  Which nodes respond is read off the graph:
the descendants of X that contribute to the logits.

This is so for outcomes that are linear in the contributions once the norm is held: the centred logit of a token,
the difference of two, or the projection on a vector.  For every other outcome the same parts are differences of
worlds, and ``CE`` is no sum over responders (:mod:`causalnet.effects.curved`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.effects.curved import measure_worlds
from causalnet.effects.schema import sweep_dataset
from causalnet.engine.inputs import Inputs
from causalnet.engine.plan import Plan, Reading, plan
from causalnet.engine.run import run
from causalnet.errors import InputError, UnsupportedModelError, explain
from causalnet.expr.outcomes import LINEAR, TARGET, VECTORS, Outcome
from causalnet.expr.positions import LAST, Position
from causalnet.expr.refs import Component
from causalnet.expr.values import NATURAL, ZERO, SiteValue
from causalnet.expr.world import NATURAL_WORLD, Site, World
from causalnet.graph import CausalGraph, Node
from causalnet.model.mechanism import Mechanisms

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Cell",
    "Measured",
    "adds_up",
    "answering",
    "cells",
    "expression",
    "find_targets",
    "measure",
    "sweep",
    "swept_outcome",
]


@dataclass(frozen=True)
class Cell:
    """One row of the sweep: a node, the world in which it is set, and who may respond.

    ``frozen`` is the same world with the final norm held at its natural scale, ``held`` with everything downstream
    of the node held natural; in ``removed`` the node is 0 at the last token and everything downstream is natural.
    """

    node: Node
    world: World
    frozen: World
    held: World
    removed: World
    responders: tuple[Node, ...]

    @property
    def expression(self) -> str:
        """The cell's total effect as a do-expression."""
        return f"TE({', '.join(f'{site} = {value}' for site, value in self.world.writes)})"


def cells(
    graph: CausalGraph, nodes: Sequence[Node], value: SiteValue, position: Position | None = LAST
) -> tuple[Cell, ...]:
    """Return the cells of a sweep.

    Parameters
    ----------
    graph
        The causal graph; responders are the node's descendants among its contributors.
    nodes
        The nodes to set, one at a time.
    value
        What each is set to.
    position
        Where; default the last token.

    Examples
    --------
    >>> from causalnet.expr.values import ZERO
    >>> from causalnet.graph import Block
    >>> found = cells(CausalGraph.from_blocks([Block(0), Block(1)]), [Node("attn", 1)], ZERO)
    >>> found[0].expression, [str(node) for node in found[0].responders]
    ('TE(attn[1]@last = zero)', ['mlp[1]'])
    """
    found = []
    for node in nodes:
        write = (Site(node, position), value)
        reached = graph.descendants(node)
        # The bias of an attention whose heads are nodes is a constant: it answers nothing.
        responders = tuple(other for other in graph.contributors if other in reached and other.kind != "bias")
        frozen = World((write, (Site(Node("norm")), NATURAL)))
        below = [(Site(other), NATURAL) for other in graph.ordered(reached) if other.kind not in ("resid", "logits")]
        held, removed = World((write, *below)), World(((Site(node, LAST), ZERO), *below))
        found.append(Cell(node, World((write,)), frozen, held, removed, responders))
    return tuple(found)


def expression(cell: Cell, outcome: Outcome | None = None) -> str:
    """Return a cell's total effect on an outcome as a do-expression; without one, on the target's logit."""
    return cell.expression if outcome is None else f"{cell.expression[:-1]}; {outcome})"


def answering(found: Sequence[Cell], graph: CausalGraph) -> tuple[Node, ...]:
    """Return every node that responds to some cell, in order of computation."""
    reached = {node for cell in found for node in cell.responders}
    return tuple(node for node in graph.contributors if node in reached)


def swept_outcome(mechanisms: Mechanisms, outcome: Outcome | None = None) -> Outcome:
    """Return the outcome that a sweep splits, checked; by default the target's logit, before a soft-cap.

    Raises
    ------
    InputError
        If it is a node's direct effect, which leaves that node out of what responds, or is read elsewhere than at
        the last token.
    """
    if outcome is None:
        return Outcome("precap_logit" if mechanisms.readout.softcap is not None else "logit", (TARGET,))
    if outcome.name == "direct":
        what = f"{outcome} is one node's direct effect, not an outcome of the whole network"
        raise InputError(explain(what, mend="a sweep of logit(target) holds every node's in delta_de"))
    if outcome.position != LAST:
        raise InputError(explain(f"{outcome} is not read at the last token", mend="a sweep reads there"))
    return outcome


def adds_up(mechanisms: Mechanisms, outcome: Outcome) -> bool:
    """Return whether effects on an outcome are sums over contributions once the norm is held."""
    uncapped = mechanisms.readout.softcap is None or outcome.name in ("precap_logit", *VECTORS)
    return outcome.name in LINEAR and uncapped


def _direct(world: World, node: Node, outcome: Outcome) -> tuple[tuple[float, Reading], ...]:
    """Read a node's direct effect: of a difference of two tokens, the difference of theirs."""
    of = Component.of(node)
    reads = [Reading(world, Outcome("direct", (token,), of), (node,)) for token in outcome.tokens]
    return tuple(zip((1.0, -1.0), reads, strict=False))


def find_targets(mechanisms: Mechanisms, inputs: Inputs, *, memory: int | None = None) -> np.ndarray:
    """Return the target token [prompt]: the natural world's most likely token, or the answers given."""
    reading = Reading(NATURAL_WORLD, Outcome("logit", (TARGET,)))
    return run(mechanisms, plan(mechanisms.graph, (), [reading], inputs.shape), inputs, memory=memory).targets


def _readings(graph: CausalGraph, found: Sequence[Cell], outcome: Outcome) -> list[Reading]:
    contributors = [node for node in graph.contributors if node.kind != "bias"]
    readings = [Reading(NATURAL_WORLD, outcome)]
    readings += [read for node in contributors for _, read in _direct(NATURAL_WORLD, node, outcome)]
    for cell in found:
        readings += [Reading(cell.world, outcome), Reading(cell.frozen, outcome)]
        for node in (cell.node, *cell.responders):
            readings += [read for _, read in _direct(cell.world, node, outcome)]
    return list(dict.fromkeys(readings))


def plan_sweep(
    mechanisms: Mechanisms,
    found: Sequence[Cell],
    inputs: Inputs,
    graph: CausalGraph | None = None,
    outcome: Outcome | None = None,
) -> Plan:
    """Plan a sweep's cells, of an outcome that adds up, as one computation."""
    graph = mechanisms.graph if graph is None else graph
    worlds = [world for cell in found for world in (cell.world, cell.frozen)]
    readings = _readings(graph, found, swept_outcome(mechanisms, outcome))
    return plan(mechanisms.graph, worlds, readings, inputs.shape, draws=inputs.count)


@dataclass(frozen=True, eq=False)
class Measured:
    """What a sweep measured, before it is given names and units.

    Attributes
    ----------
    te, de, ce, norm
        [prompt, node, donor]; NaN where a prompt has fewer donors.
    delta_de
        [prompt, node, donor, responder]; the responder axis is empty where the outcome does not add up.
    clean_direct, clean_responder, clean_logit
        [prompt, node], [prompt, responder], [prompt]; the last is the outcome with nothing set.
    targets
        [prompt]: token of each prompt's target.
    """

    te: np.ndarray
    de: np.ndarray
    ce: np.ndarray
    norm: np.ndarray
    delta_de: np.ndarray
    clean_direct: np.ndarray
    clean_responder: np.ndarray
    clean_logit: np.ndarray
    targets: np.ndarray

    def arrays(self) -> dict[str, Any]:
        """Return the variables of the schema that are measured, in float64."""
        found = {name: getattr(self, name) for name in ("te", "de", "ce", "norm", "delta_de")}
        found |= {name: getattr(self, name) for name in ("clean_direct", "clean_responder", "clean_logit")}
        return {**found, "residual": self.te - self.de - self.ce - self.norm}


def measure(
    mechanisms: Mechanisms,
    inputs: Inputs,
    found: Sequence[Cell],
    *,
    graph: CausalGraph,
    responders: Sequence[Node] | None = None,
    outcome: Outcome | None = None,
    lookup: Callable[[str], int] | None = None,
    memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Run cells and split their effects.

    Parameters
    ----------
    mechanisms, inputs
        The compiled model; prompts, donors, targets.
    found
        The cells.
    graph
        Where responders are read from.
    responders
        The responder axis; default those of these cells.
    outcome, lookup
        What is read (see :func:`swept_outcome`), and how its tokens become numbers.
    memory, progress
        As in :func:`causalnet.engine.run.run`.

    Returns
    -------
    Measured

    Raises
    ------
    UnsupportedModelError
        If a node's direct effect is not defined (heads before a norm).
    InputError
        If the outcome cannot be swept.
    """
    _check_direct(graph, [cell.node for cell in found])
    outcome = swept_outcome(mechanisms, outcome)
    if not adds_up(mechanisms, outcome):
        parts, targets = measure_worlds(
            mechanisms, inputs, found, outcome, lookup=lookup, memory=memory, progress=progress
        )
        none = np.zeros((*parts["te"].shape, 0))
        return Measured(**parts, delta_de=none, clean_responder=none[:, 0, 0], targets=targets)
    planned = plan_sweep(mechanisms, found, inputs, graph, outcome)
    trace = run(mechanisms, planned, inputs, lookup=lookup, memory=memory, progress=progress)
    values = trace.values
    responders = answering(found, graph) if responders is None else tuple(responders)

    def direct(world: World, node: Node) -> np.ndarray:
        return sum((sign * values[read] for sign, read in _direct(world, node, outcome)), np.zeros(1))

    clean = values[Reading(NATURAL_WORLD, outcome)]
    natural = {node: direct(NATURAL_WORLD, node) for node in {*responders, *(cell.node for cell in found)}}
    prompts, draws = len(inputs.ids), max(values[Reading(cell.world, outcome)].shape[1] for cell in found)
    te, de, norm = (np.empty((prompts, len(found), draws)) for _ in range(3))
    delta = np.zeros((prompts, len(found), draws, len(responders)))
    place = {node: index for index, node in enumerate(responders)}
    for index, cell in enumerate(found):
        total = values[Reading(cell.world, outcome)]
        te[:, index] = total - clean
        norm[:, index] = total - values[Reading(cell.frozen, outcome)]
        changed = direct(cell.world, cell.node) - natural[cell.node]
        # Where a node is set before the last token, what it writes there is what it wrote: not nearly, but exactly.
        de[:, index] = np.where(_reads_last(cell, inputs), changed, np.abs(0.0 * changed))
        for node in cell.responders:
            delta[:, index, :, place[node]] = direct(cell.world, node) - natural[node]
        delta[:, index][np.isnan(total)] = np.nan
    empty = np.zeros((prompts, 0))
    return Measured(
        te,
        de,
        delta.sum(-1),
        norm,
        delta,
        np.concatenate([natural[cell.node] for cell in found], axis=1),
        np.concatenate([natural[node] for node in responders], axis=1) if responders else empty,
        clean[:, 0],
        trace.targets,
    )


def _reads_last(cell: Cell, inputs: Inputs) -> np.ndarray:
    """Return whether a cell sets its node at the last token [prompt, 1], where the outcome is read."""
    (site,) = cell.world.sites
    last = [len(ids) - 1 in inputs.columns(row, site.position) for row, ids in enumerate(inputs.ids)]
    return np.array(last)[:, None]


def sweep(
    mechanisms: Mechanisms,
    inputs: Inputs,
    nodes: Sequence[Node],
    value: SiteValue,
    *,
    texts: Sequence[str],
    decode: Callable[[int], str],
    record: Mapping[str, Any],
    graph: CausalGraph | None = None,
    position: Position | None = LAST,
    outcome: Outcome | None = None,
    lookup: Callable[[str], int] | None = None,
    memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> "xr.Dataset":
    """Set every node in turn and split its total effect.

    Parameters
    ----------
    mechanisms
        The compiled model.
    inputs
        Prompts, donors, targets.
    nodes
        The nodes to set; layers' attention and MLP outputs, or heads.
    value
        What each is set to: ``resample``, ``zero``, ``mean``, …
    texts, decode
        The prompts' texts, and the text of a token id, for the result.
    record
        The run record: versions, seed, dtype, device, arguments.
    graph
        Where responders are read from; default the model's own graph.
    position
        Where the nodes are set; default the last token.
    outcome, lookup, memory, progress
        As in :func:`measure`.

    Returns
    -------
    xarray.Dataset
        ``te, de, ce, norm, residual [prompt, node, donor]`` and the rest of the sweep schema, in the outcome's
        units (logits centred over the vocabulary, by default); effect = Y(do) − Y.

    Raises
    ------
    UnsupportedModelError
        If a node's direct effect is not defined (heads before a norm).
    InputError
        If the outcome cannot be swept.
    """
    graph = mechanisms.graph if graph is None else graph
    found = cells(graph, nodes, value, position)
    responders = answering(found, graph) if adds_up(mechanisms, swept_outcome(mechanisms, outcome)) else ()
    made = measure(
        mechanisms, inputs, found, graph=graph, responders=responders, outcome=outcome, lookup=lookup,
        memory=memory, progress=progress,
    )  # fmt: skip
    draws = made.te.shape[2]
    donors = inputs.donors if inputs.donors is not None and draws == inputs.count else None
    return sweep_dataset(
        **made.arrays(),
        target_id=made.targets,
        target=[decode(int(token)) for token in made.targets],
        text=list(texts),
        nodes=[str(cell.node) for cell in found],
        responders=[str(node) for node in responders],
        donor_index=np.full((len(texts), draws), -1) if donors is None else donors,
        model=mechanisms.name,
        ablation=str(value),
        run=record,
        expression=expression(found[0], outcome),
        position="every" if position is None else str(position).lstrip("@"),
    )


def _check_direct(graph: CausalGraph, nodes: Sequence[Node]) -> None:
    for node in nodes:
        if node not in graph.contributors:
            raise UnsupportedModelError(
                f"{node} does not add to the residual stream by itself (a norm comes after it), so it has no direct "
                f"effect; ablate attn[{node.layer}] instead"
            )
