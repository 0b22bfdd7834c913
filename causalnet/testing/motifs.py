"""Toys with known answers: a residual network of two layers, motifs ``y = x(u) + f(x, u)``, and one of two causes.

References
----------
McGrath et al., The Hydra effect (2023), figures 5 and 6.  Halpern, A modification of the Halpern–Pearl definition of
causality (2015), for the overdetermined outcome.
"""

from collections.abc import Callable, Mapping

import numpy as np

from causalnet.errors import InputError, explain
from causalnet.graph import Block, CausalGraph, Node
from causalnet.testing.networks import Mechanism, Network, Values

__all__ = ["MOTIFS", "motif", "residual_network"]

_X, _F = Node("attn", 0), Node("mlp", 0)


def _repair(x: np.ndarray, u: np.ndarray) -> np.ndarray:
    return np.where(x == u, 0.0, u)


MOTIFS: Mapping[str, tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], str]] = {
    "erasure": (lambda x, u: -x, "f = -x: TE = 0 and DE = x' - x for every x'; f's clean effect is negative"),
    "self_repair": (_repair, "f = 0 if x = u else u: TE = x' and DE = x' - u; f's clean effect is 0"),
    "load_bearing": (lambda x, u: 0.0 * u, "f = 0: TE = DE = x' - u"),
    "passive_redundancy": (lambda x, u: u, "y does not read x, f = u: TE = DE = 0"),
    "partial_repair": (lambda x, u: 0.7 * (u - x), "f = 0.7 (u - x): 70 % of what x loses comes back"),
}
"""Each motif's ``f(x, u)`` and what is known of it; x is u unless it is set."""


def motif(name: str, units: tuple[float, ...] = (1.0, 2.0, 3.0)) -> Network:
    """Return a motif as a network: ``attn[0]`` is x, ``mlp[0]`` is f, the target's logit is y.

    Parameters
    ----------
    name
        A key of :data:`MOTIFS`, or ``overdetermined``: two voters ``attn[0]`` and ``attn[1]``, both u, of which
        one is enough for ``mlp[1]`` to write u, and only ``mlp[1]`` is read.
    units
        The values of u, one per prompt.

    Raises
    ------
    InputError
        If there is no such motif.

    Examples
    --------
    >>> from causalnet.effects.asking import unit_effects
    >>> from causalnet.expr import DE, TE, attn, zero
    >>> found = unit_effects(motif("erasure"), {"TE": TE(attn[0] << zero), "DE": DE(attn[0] << zero)})
    >>> found["TE"][:, 0].tolist(), found["DE"][:, 0].tolist()
    ([0.0, 0.0, 0.0], [-1.0, -2.0, -3.0])
    """
    if name == "overdetermined":
        return _overdetermined(units)
    if name not in MOTIFS:
        raise InputError(explain(f"unknown motif {name!r}", legal=(*MOTIFS, "overdetermined"), got=name))
    rule = MOTIFS[name][0]
    edges = ["embed -> attn[0]", "embed -> mlp[0]", "attn[0] -> mlp[0]", "mlp[0] -> norm", "mlp[0] -> logits"]
    if name != "passive_redundancy":
        edges += ["attn[0] -> norm", "attn[0] -> logits"]
    nodes = ["embed", "attn[0]", "mlp[0]", "norm", "logits"]
    graph = CausalGraph.from_edges(nodes, [*edges, "norm -> logits"], blocks=[Block(0)], name=name)
    embed = Node("embed")
    return _scalar(graph, units, {_X: lambda read, u: read[embed], _F: lambda read, u: rule(read[_X], read[embed])})


def residual_network(first: float = 1.0, second: float = -0.6, units: tuple[float, ...] = (1.0, 2.0, 3.0)) -> Network:
    """Return a residual network of two layers: ``x = first · u``, ``m = second · (u + x)``, ``y = u + x + m``.

    ``embed`` is u, ``mlp[0]`` is x, ``mlp[1]`` is m, the target's logit is y.  The graph is that of two layers without
    attention.  For every x', TE = (1 + second) (x' − x), NDE = x' − x and NIE = second · (x' − x).

    Parameters
    ----------
    first, second
        What each layer makes of the stream that it reads; with second < 0 the second layer makes up for the first.
    units
        The values of u, one per prompt.

    References
    ----------
    McGrath et al., The Hydra effect (2023), figure 5.

    Examples
    --------
    >>> from causalnet.effects.asking import unit_effects
    >>> from causalnet.effects.estimands import natural_effects
    >>> from causalnet.expr import mlp, zero
    >>> found = unit_effects(residual_network(units=(1.0,)), natural_effects(mlp[0] << zero))
    >>> [f"{name} {found[name].item():+.1f}" for name in ("TE", "NDE", "NIE")]
    ['TE -0.4', 'NDE -1.0', 'NIE +0.6']
    """
    x, m, embed = Node("mlp", 0), Node("mlp", 1), Node("embed")
    graph = CausalGraph.from_blocks([Block(0, attn=False), Block(1, attn=False)], name="two-layer residual network")
    made: dict[Node, Mechanism] = {
        x: lambda read, u: first * read[embed],
        m: lambda read, u: second * (read[embed] + read[x]),
    }
    return _scalar(graph, units, made)


def _overdetermined(units: tuple[float, ...]) -> Network:
    voters, writer, embed = [Node("attn", 0), Node("attn", 1)], Node("mlp", 1), Node("embed")
    edges = ["embed -> attn[0]", "embed -> attn[1]", "attn[0] -> mlp[1]", "attn[1] -> mlp[1]", "embed -> mlp[1]"]
    edges += ["mlp[1] -> norm", "mlp[1] -> logits", "norm -> logits"]
    nodes = ["embed", "attn[0]", "attn[1]", "mlp[1]", "norm", "logits"]
    blocks = [Block(0, mlp=False), Block(1)]
    graph = CausalGraph.from_edges(nodes, edges, blocks=blocks, name="overdetermined")

    def write(read: Values, u: np.ndarray) -> np.ndarray:
        return np.where((read[voters[0]] != 0) | (read[voters[1]] != 0), read[embed], 0.0)

    one: dict[Node, Mechanism] = dict.fromkeys(voters, lambda read, u: read[embed])
    return _scalar(graph, units, {**one, writer: write})


def _scalar(graph: CausalGraph, units: tuple[float, ...], mechanisms: Mapping[Node, Mechanism]) -> Network:
    """Return a network of scalars with a constant norm, whose logits are (y, -y), so that y is the target's logit."""

    def logits(read: Values, u: np.ndarray) -> np.ndarray:
        total = sum((read[node] for node in read if node.kind != "norm"), np.zeros((len(u), 1)))
        return np.concatenate([total, -total], axis=1) / read[Node("norm")]

    fixed: dict[Node, Mechanism] = {
        Node("embed"): lambda read, u: u,
        Node("norm"): lambda read, u: np.ones((len(u), 1)),
        Node("logits"): logits,
    }
    prompts = tuple(np.array([[unit]], dtype=np.float64) for unit in units)
    return Network(graph, {**fixed, **mechanisms}, prompts, targets=(0,) * len(units))
