"""Reading outcomes off the values of nodes in one world."""

from collections.abc import Callable, Sequence

import torch

from causalnet.expr.outcomes import Outcome
from causalnet.graph import Node
from causalnet.interop.dowhy.trunk import Trunk

__all__ = ["read"]

Values = Callable[[Node], torch.Tensor]


def read(
    trunk: Trunk,
    outcome: Outcome,
    nodes: Sequence[Node],
    tokens: Sequence[int],
    column: int,
    world: Values,
    own: Values,
) -> float:
    """Return an outcome at one position of one prompt.

    Parameters
    ----------
    trunk
        The model.
    outcome
        What is read.
    nodes
        For ``direct``, the nodes whose contributions are summed.
    tokens
        The tokens that it names.
    column
        The position.
    world, own
        The value of a node in the world that is read, and in the natural one.
    """
    if outcome.name == "sigma":
        return float(world(Node("norm"))[column, 0])
    if outcome.name == "direct":
        readout = trunk.mechanisms.readout
        directions = readout.directions(torch.tensor(list(tokens), device=readout.weight.device))
        total = torch.stack([trunk.contribution(node, world(node))[column] for node in nodes]).sum(0)
        return float(directions.direct(total[None], own(Node("norm"))[column, :1])[0])
    logits, natural = (_wide(values(Node("logits"))[column]) for values in (world, own))
    if outcome.name == "precap_logit" and (cap := trunk.mechanisms.readout.softcap) is not None:
        logits = torch.atanh(logits / cap) * cap
    logp, natural_logp = logits.log_softmax(-1), natural.log_softmax(-1)
    if outcome.name == "entropy":
        return float(-(logp.exp() * logp).sum())
    if outcome.name == "kl":
        return float((natural_logp.exp() * (natural_logp - logp)).sum())
    first = logits[tokens[0]]
    if outcome.name in ("rank", "top1"):
        above = int((logits > first).sum())
        return float(above if outcome.name == "rank" else above == 0)
    if outcome.name == "logit_diff":
        return float(first - logits[tokens[1]])
    if outcome.name in ("logit", "precap_logit"):
        return float(first - logits.mean())
    return float(logp[tokens[0]].exp() if outcome.name == "prob" else logp[tokens[0]])


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
