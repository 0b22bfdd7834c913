"""The layer sweep: every node set in turn, its total effect split by the last edge.

For a node X set to s, with Y the target's centred logit (McGrath et al. 2023; design of the split in
docs):

``TE = DE + CE + NORM``, where ``TE = E[Y | do(s)] − E[Y]``, ``DE`` is the change of X's own direct effect,
``CE`` the sum over responders of theirs, ``NORM = E[Y | do(s)] − E[Y | do(s, norm = natural)]``.

``TE`` and ``NORM`` come from the model's own final norm and unembedding, ``DE`` and ``CE`` from the
contributions, so that the closure residual says something.  Which nodes respond is read off the graph:
the descendants of X that contribute to the logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.effects.schema import sweep_dataset
from causalnet.engine.inputs import Inputs
from causalnet.engine.plan import Plan, Reading, plan
from causalnet.engine.run import run
from causalnet.errors import UnsupportedModelError
from causalnet.expr.outcomes import TARGET, Outcome
from causalnet.expr.positions import LAST, Position
from causalnet.expr.refs import Component
from causalnet.expr.values import NATURAL, SiteValue
from causalnet.expr.world import NATURAL_WORLD, Site, World
from causalnet.graph import CausalGraph, Node
from causalnet.model.mechanism import Mechanisms

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Cell", "cells", "find_targets", "sweep"]


@dataclass(frozen=True)
class Cell:
    """One row of the sweep: a node, the world in which it is set, and who may respond.

    ``frozen`` is the same world with the final norm held at its natural scale.
    """

    node: Node
    world: World
    frozen: World
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
        responders = tuple(other for other in graph.contributors if other in reached)
        frozen = World((write, (Site(Node("norm")), NATURAL)))
        found.append(Cell(node, World((write,)), frozen, responders))
    return tuple(found)


def _outcome(mechanisms: Mechanisms) -> Outcome:
    """Return the outcome that the split belongs to: before the soft-cap, where the model has one."""
    return Outcome("logit" if mechanisms.readout.softcap is None else "precap_logit", (TARGET,))


def _direct(world: World, node: Node) -> Reading:
    return Reading(world, Outcome("direct", (TARGET,), Component.of(node)), (node,))


def find_targets(mechanisms: Mechanisms, inputs: Inputs) -> np.ndarray:
    """Return the target token [prompt]: the natural world's most likely token, or the answers given."""
    reading = Reading(NATURAL_WORLD, Outcome("logit", (TARGET,)))
    return run(mechanisms, plan(mechanisms.graph, (), [reading], inputs.shape), inputs).targets


def _readings(graph: CausalGraph, found: Sequence[Cell], outcome: Outcome) -> list[Reading]:
    contributors = [node for node in graph.contributors if node.kind != "bias"]
    readings = [Reading(NATURAL_WORLD, outcome)]
    readings += [_direct(NATURAL_WORLD, node) for node in contributors]
    for cell in found:
        readings += [Reading(cell.world, outcome), Reading(cell.frozen, outcome)]
        readings += [_direct(cell.world, node) for node in (cell.node, *cell.responders)]
    return readings


def plan_sweep(mechanisms: Mechanisms, found: Sequence[Cell], inputs: Inputs, graph: CausalGraph | None = None) -> Plan:
    """Plan a sweep's cells as one computation."""
    graph = mechanisms.graph if graph is None else graph
    worlds = [world for cell in found for world in (cell.world, cell.frozen)]
    readings = _readings(graph, found, _outcome(mechanisms))
    return plan(mechanisms.graph, worlds, readings, inputs.shape, draws=inputs.count)


def sweep(
    mechanisms: Mechanisms,
    inputs: Inputs,
    nodes: Sequence[Node],
    value: SiteValue,
    *,
    texts: Sequence[str],
    decode: Callable[[int], str],
    record: dict[str, Any],
    graph: CausalGraph | None = None,
    position: Position | None = LAST,
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
    memory, progress
        As in :func:`causalnet.engine.run.run`.

    Returns
    -------
    xarray.Dataset
        ``te, de, ce, norm, residual [prompt, node, donor]`` and the rest of the sweep schema; logits
        centred over the vocabulary, effect = Y(do) − Y.

    Raises
    ------
    UnsupportedModelError
        If a node's direct effect is not defined (heads before a norm).
    """
    graph = mechanisms.graph if graph is None else graph
    _check_direct(graph, nodes)
    found = cells(graph, nodes, value, position)
    planned = plan_sweep(mechanisms, found, inputs, graph)
    trace = run(mechanisms, planned, inputs, memory=memory, progress=progress)
    outcome = _outcome(mechanisms)
    responders = [node for node in graph.contributors if any(node in cell.responders for cell in found)]
    clean = trace[Reading(NATURAL_WORLD, outcome)]
    natural = {node: trace[_direct(NATURAL_WORLD, node)] for node in {*nodes, *responders}}
    prompts, draws = len(texts), trace[Reading(found[0].world, outcome)].shape[1]
    te, de, norm = (np.empty((prompts, len(found), draws)) for _ in range(3))
    delta = np.zeros((prompts, len(found), draws, len(responders)))
    place = {node: index for index, node in enumerate(responders)}
    for index, cell in enumerate(found):
        total = trace[Reading(cell.world, outcome)]
        te[:, index] = total - clean
        norm[:, index] = total - trace[Reading(cell.frozen, outcome)]
        de[:, index] = trace[_direct(cell.world, cell.node)] - natural[cell.node]
        for node in cell.responders:
            delta[:, index, :, place[node]] = trace[_direct(cell.world, node)] - natural[node]
        missing = np.isnan(total)
        delta[:, index][missing] = np.nan
    donors = inputs.donors if inputs.donors is not None and draws == inputs.count else None
    return sweep_dataset(
        te=te,
        de=de,
        norm=norm,
        delta_de=delta,
        clean_direct=np.concatenate([natural[cell.node] for cell in found], axis=1),
        clean_responder=np.concatenate([natural[node] for node in responders], axis=1)
        if responders
        else np.zeros((prompts, 0)),
        clean_logit=clean[:, 0],
        target_id=trace.targets,
        target=[decode(int(token)) for token in trace.targets],
        text=list(texts),
        nodes=[str(cell.node) for cell in found],
        responders=[str(node) for node in responders],
        donor_index=np.full((prompts, draws), -1) if donors is None else donors,
        model=mechanisms.name,
        ablation=str(value),
        run=record,
        expression=found[0].expression,
        position="every" if position is None else str(position).lstrip("@"),
    )


def _check_direct(graph: CausalGraph, nodes: Sequence[Node]) -> None:
    for node in nodes:
        if node not in graph.contributors:
            raise UnsupportedModelError(
                f"{node} does not add to the residual stream by itself (a norm comes after it), so it has no direct "
                f"effect; ablate attn[{node.layer}] instead"
            )
