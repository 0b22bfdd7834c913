"""The split by the last edge, for any intervention and any outcome: ``TE = DE + CE + NORM``.

With the norm held the readout is linear in the contributions, so the parts can be computed twice: by worlds,
from the model's own logits, and by adding up contributions.  The gap between both is the closure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from causalnet.effects.asking import PromptedModel, Scm, Weighted, add_up
from causalnet.effects.estimands import LOGIT, natural_effects
from causalnet.engine.plan import Reading
from causalnet.errors import InputError, explain
from causalnet.expr import CE, NATURAL_WORLD, NORM, Assignment, Outcome, World, compile_queries
from causalnet.expr.outcomes import LINEAR, LOGITS
from causalnet.expr.refs import Component
from causalnet.graph import CausalGraph, Node

__all__ = ["KINDS", "Split", "fractions", "response_kinds", "split"]


@dataclass(frozen=True, eq=False)
class Split:
    """One intervention's total effect and what it consists of.

    Every array is in the outcome's units, an effect being ``Y(do) − Y``; [prompt, draw].

    Attributes
    ----------
    outcome
        Y.
    te, de, ce, norm
        Total, direct and compensatory effect and the norm's, by worlds: exact for every outcome.
    by_parts
        Whether the parts could also be added up from contributions: the readout is linear in them, and s changes
        contributions (not an edge into the logits, nor the residual stream itself).
    responders
        The contributors downstream of X, in order of computation; none where ``by_parts`` is False.
    delta_de
        [prompt, draw, responder]: how much each responder's direct effect changes.
    clean_responder
        [prompt, responder]: the responders' direct effects in the natural world.
    clean_direct
        [prompt]: the direct effect of X itself in the natural world.
    de_parts
        The direct effect by contributions: what X's own contribution changes.
    """

    outcome: Outcome
    te: np.ndarray
    de: np.ndarray
    ce: np.ndarray
    norm: np.ndarray
    by_parts: bool
    responders: tuple[Node, ...]
    delta_de: np.ndarray
    clean_responder: np.ndarray
    clean_direct: np.ndarray
    de_parts: np.ndarray

    @property
    def self_repair(self) -> np.ndarray:
        """TE − DE = CE + NORM, as Rushing and Nanda (2024) define it; positive where it comes back."""
        return self.te - self.de

    @property
    def residual(self) -> np.ndarray:
        """Closure [prompt, draw]: TE less direct effect, responders' changes and NORM; NaN without parts."""
        if not self.by_parts:
            return np.full_like(self.te, np.nan)
        return self.te - self.de_parts - self.delta_de.sum(-1) - self.norm


def split(scm: Scm, *s: Assignment, outcome: Outcome = LOGIT) -> Split:
    """Split the total effect of an intervention into direct, compensatory and norm part, by two routes.

    Parameters
    ----------
    scm
        The model on its prompts.
    s
        The intervention: any nodes or sets of nodes, any positions, any source.
    outcome
        Any outcome.  With ``logit``, ``logit_diff``, ``precap_logit`` or ``projection`` the parts are also added up
        from contributions; of logits, a model with a soft-cap needs ``precap_logit`` for that.

    Returns
    -------
    Split

    Raises
    ------
    ExpressionError
        If the intervention cannot be meant, or sets the norm.

    Notes
    -----
    A curved outcome (probability, KL) splits by worlds alone; its CE is no sum over responders.

    References
    ----------
    McGrath et al., The Hydra effect (2023); Rushing and Nanda (2024), arXiv 2402.15390.

    Examples
    --------
    >>> from causalnet.expr import attn, zero
    >>> from causalnet.testing.motifs import motif
    >>> found = split(motif("erasure"), attn[0] << zero)
    >>> found.te[:, 0].tolist(), found.de[:, 0].tolist(), found.ce[:, 0].tolist()
    ([0.0, 0.0, 0.0], [-1.0, -2.0, -3.0], [1.0, 2.0, 3.0])
    >>> [str(node) for node in found.responders], found.clean_responder[:, 0].tolist()
    (['mlp[0]'], [-1.0, -2.0, -3.0])
    """
    named = natural_effects(*s, outcome=outcome)
    compiled = compile_queries([named["TE"], named["NDE"], CE(*s, outcome), NORM(*s, outcome)], scm.graph)
    worlds = [one.worlds[one.readings[0].world] for one in compiled[:2]]
    if Node("norm") in worlds[0].nodes:
        raise InputError(explain(f"{worlds[0]} sets the norm, which the split holds", mend="ask for TE"))
    by_parts = _adds_up(scm, worlds[0], outcome)
    own, responders = _who(compiled[0].graph, worlds[0]) if by_parts else ((), ())
    contributors = (*own, *responders)
    # The worlds are those of the effects: a query that reads a node's direct effect would leave it out of desc(X).
    readings = [_direct(node, outcome, one) for one in (*worlds, NATURAL_WORLD) for node in contributors]
    te, de, ce, norm, *parts = _same_width(add_up(scm, compiled, readings))
    stacked = np.stack(parts, -1) if parts else np.empty((*te.shape, 0))
    moved, held, clean = (stacked[..., place * len(contributors) :][..., : len(contributors)] for place in range(3))
    change = moved - held
    # A node of X responds at positions where it is not set; then it is a responder as well.
    kept = [n for n in range(len(contributors)) if n >= len(own) or np.nanmax(np.abs(change[..., n])) > 0]
    return Split(
        outcome,
        te,
        de,
        ce,
        norm,
        by_parts,
        tuple(contributors[n] for n in kept),
        change[..., kept],
        clean[:, 0][:, kept],
        clean[:, 0, : len(own)].sum(-1),
        (held - clean)[..., : len(own)].sum(-1),
    )


def _adds_up(scm: Scm, world: World, outcome: Outcome) -> bool:
    """Whether effects in this world are sums over contributions."""
    capped = isinstance(scm, PromptedModel) and scm.mechanisms.readout.softcap is not None
    if outcome.name not in LINEAR or (capped and outcome.name in LOGITS and outcome.name != "precap_logit"):
        return False
    return all(
        site.node.contributes and (site.receiver is None or site.receiver.kind != "logits") for site in world.sites
    )


def _who(graph: CausalGraph, world: World) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """Return the contributors that are set, and those downstream of them."""
    below = graph.descendants([site.node for site in world.sites])
    moved = {site.node for site in world.sites if site.receiver is None}
    own = tuple(node for node in graph.contributors if node in moved)
    return own, tuple(node for node in graph.contributors if node in below and node not in own)


def _direct(node: Node, outcome: Outcome, world: World) -> Weighted:
    """Read a node's direct effect on a linear outcome: of a contrast, the difference of two tokens'."""
    of = Component.of(node)
    reads = [Outcome("direct", (token,), of, outcome.position) for token in outcome.tokens]
    return tuple((sign, Reading(world, read, (node,))) for sign, read in zip((1.0, -1.0), reads, strict=False))


def _same_width(tables: Sequence[np.ndarray]) -> list[np.ndarray]:
    widest = max(table.shape[1] for table in tables)
    return [np.broadcast_to(table, (len(table), widest)) for table in tables]


KINDS = ("repairing", "erasing less", "breaking", "silent")
"""How a responder may answer; see :func:`response_kinds`."""


def response_kinds(clean: np.ndarray, delta: np.ndarray, *, tolerance: float = 1e-9) -> np.ndarray:
    """Tell repair from erasure by the responder's clean direct effect.

    Total and direct effect of the ablated node cannot: both are the same for a responder that steps in and for
    one that stops cancelling.

    Parameters
    ----------
    clean
        The responders' direct effects in the natural world.
    delta
        How much each changes when a promoting node is ablated; shapes must broadcast.
    tolerance
        Changes (and clean effects) this small, in the outcome's units, count as 0.

    Returns
    -------
    numpy.ndarray of str
        ``repairing``: the clean effect is at least 0 and grows; ``erasing less``: it is negative and shrinks;
        ``breaking``: it falls; ``silent``: it does not change.

    Examples
    --------
    >>> import numpy as np
    >>> response_kinds(np.array([0.0, -1.0, 1.0, 1.0]), np.array([1.0, 1.0, -0.5, 0.0])).tolist()
    ['repairing', 'erasing less', 'breaking', 'silent']
    """
    clean, delta = np.broadcast_arrays(clean, delta)
    rising = np.where(clean < -tolerance, KINDS[1], KINDS[0])
    return np.where(delta > tolerance, rising, np.where(delta < -tolerance, KINDS[2], KINDS[3]))


def fractions(self_repair: np.ndarray, de: np.ndarray) -> dict[str, float]:
    """Return the share of the lost direct effect that comes back, pooled and as a mean of ratios.

    Parameters
    ----------
    self_repair
        CE + NORM of each unit.
    de
        Direct effect of each unit; negative where something was lost.

    Returns
    -------
    dict
        ``pooled`` = Σ self-repair / Σ (−DE) and ``mean_of_ratios`` over the units in which something changed.
        A unit that lost next to nothing can carry the mean of ratios anywhere, the pooled share hardly.

    Raises
    ------
    InputError
        If nothing was lost in any unit.

    Examples
    --------
    >>> import numpy as np
    >>> found = fractions(np.array([0.7, 1.4, 0.1]), np.array([-1.0, -2.0, -0.001]))
    >>> round(found["pooled"], 3), round(found["mean_of_ratios"], 3)
    (0.733, 33.8)
    """
    fine = np.isfinite(self_repair) & np.isfinite(de) & (de != 0)
    lost = -np.asarray(de)[fine]
    if lost.sum() == 0:
        raise InputError("nothing was lost directly, so no share of it can come back")
    back = np.asarray(self_repair)[fine]
    return {"pooled": float(back.sum() / lost.sum()), "mean_of_ratios": float((back / lost).mean())}
