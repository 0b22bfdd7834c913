"""Approximations of total effects by gradients: cheap, and wrong wherever the network answers.

Each estimates ``TE`` of many interventions, at nodes or at edges, from gradients of the real forward.  None of
them sees what happens away from the natural activations: a component that only wakes up when another is gone
has no gradient.  So they belong next to the exact effects that they approximate; see
:func:`causalnet.effects.misses.compare_approximation`.

References
----------
Nanda, Attribution patching (2023).  Sundararajan, Taly and Yan, Axiomatic attribution for deep networks (2017).
Syed, Rager and Conmy, Attribution patching outperforms automated circuit discovery (2310.10348), for edges.
Hanna, Pezzelle and Belinkov, Have faith in faithfulness (2403.17806).  Kramár et al., AtP* (2403.00745).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import numpy as np
import torch

from causalnet.effects.asking import PromptedModel
from causalnet.effects.estimands import LOGIT
from causalnet.effects.first_order import Approximation, Change, Gradients, Interventions, Work
from causalnet.engine.gradients import Place, Tape, record
from causalnet.engine.natural import head_contribution
from causalnet.engine.plan import Bucket
from causalnet.engine.readings import Tokens, World0
from causalnet.errors import InputError, explain
from causalnet.expr import Assignment, InWorld, Outcome, World
from causalnet.expr.refs import Component
from causalnet.expr.values import Value
from causalnet.graph import Node
from causalnet.model.observe import Natural as Observed
from causalnet.model.observe import held, observe

__all__ = ["Approximation", "atp_star", "attribution_patching", "eap_ig", "integrated_gradients"]


def attribution_patching(
    model: PromptedModel, interventions: Interventions, *, outcome: Outcome = LOGIT
) -> Approximation:
    """Estimate total effects to first order: ``Σ (v − x) · ∂Y/∂x`` at the natural activations.

    One forward and one backward per prompt, however many interventions; an edge costs no more than a node.

    Parameters
    ----------
    model
        The model on its prompts.
    interventions
        Assignments to nodes or edges, by name; to donors, zero, means, paired prompts, vectors.
    outcome
        A smooth outcome.  The gradient of ``kl`` is zero in the natural world, so its estimates are.

    Returns
    -------
    Approximation

    Raises
    ------
    InputError
        If the outcome has no gradient, or a value is taken from another world.

    Examples
    --------
    >>> from causalnet.engine.inputs import Inputs
    >>> from causalnet.expr import attn, last, mlp, zero
    >>> from causalnet.model.compile import compile_model
    >>> from causalnet.testing.crafted import saturating_gpt2
    >>> model = PromptedModel(compile_model(saturating_gpt2()), Inputs(((1, 2), (3, 4)), targets=(0, 0)))
    >>> found = attribution_patching(model, {"a": attn[0] @ last << zero, "b": attn[1] @ last << zero})
    >>> found.values.shape, bool((abs(found.values[..., 1]) < 1e-12).all())
    ((2, 1, 2), True)
    """
    work = Work.prepare(model, interventions, outcome)
    for bucket in work.buckets():
        tape, natural, column = work.natural(bucket)
        gradients = Gradients(tape, tape.outcome(outcome, column, natural))
        for number, changes in work.changes(bucket, tape):
            if len(changes) == 1:
                ((place, (columns, delta, _)),) = changes.items()
                slope = (delta * gradients.at(place)[:, :, list(columns)]).sum((-2, -1))
            else:
                slope = _joint_slope(work, bucket, changes, column, natural)
            work.store(bucket, number, slope)
    return work.done("attribution patching")


def _joint_slope(
    work: "Work", bucket: Bucket, changes: Mapping[Place, "Change"], column: int, natural: World0
) -> torch.Tensor:
    """Return the slope [prompt, draw] along a joint change: places that are set do not answer each other."""
    sets = {place: (columns, own[:, 0]) for place, (columns, _, own) in changes.items()}
    tape = record(work.model.mechanisms, work.ids(bucket), sets)
    grads = tape.gradients(tape.outcome(work.outcome, column, natural), [tape.set_values[place] for place in changes])
    slopes = [
        (delta * grad.unsqueeze(1)).sum((-2, -1)) for grad, (_, delta, _) in zip(grads, changes.values(), strict=True)
    ]
    return torch.stack(torch.broadcast_tensors(*slopes)).sum(0)


def integrated_gradients(
    model: PromptedModel, interventions: Interventions, *, outcome: Outcome = LOGIT, steps: int = 16, rows: int = 256
) -> Approximation:
    """Estimate total effects by gradients along the way from the natural value to the one that is set.

    The values go from x to v in a straight line while everything downstream answers, so with enough steps this is
    the total effect itself, as long as the network is smooth in between (a kink costs accuracy, not more).

    Parameters
    ----------
    model, interventions, outcome
        As in :func:`attribution_patching`.
    steps
        Points of the Gauss–Legendre rule on the way; each is a forward and a backward per intervention.
    rows
        Rows of one batch.

    Raises
    ------
    InputError
        As in :func:`attribution_patching`; if ``steps`` is not positive.
    """
    points, weights = _rule(steps)
    work = Work.prepare(model, interventions, outcome)
    for bucket in work.buckets():
        base, natural, column = work.natural(bucket)
        for number, changes in work.changes(bucket, base):
            draws = max(delta.shape[1] for _, delta, _ in changes.values())
            total = torch.zeros(len(bucket.prompts), draws, dtype=torch.float64)
            for prompt, draw, point in _chunks(len(bucket.prompts), draws, steps, rows):
                alpha = torch.as_tensor(points)[point]
                sets = {}
                for place, (columns, delta, own) in changes.items():
                    change = delta.expand(-1, draws, -1, -1)[prompt, draw]
                    shares = alpha.to(change)[:, None, None]
                    sets[place] = (columns, own[prompt, 0] + shares * change)
                tape = record(model.mechanisms, work.ids(bucket)[prompt], sets)
                values = tape.outcome(outcome, column, _of_rows(natural, prompt))
                found = tape.gradients(values, [tape.set_values[place] for place in changes])
                slopes = sum(
                    (grad * delta.expand(-1, draws, -1, -1)[prompt, draw]).sum((1, 2)).double()
                    for grad, (_, delta, _) in zip(found, changes.values(), strict=True)
                )
                total.index_put_((prompt, draw), slopes.cpu() * torch.as_tensor(weights)[point], accumulate=True)  # type: ignore[union-attr]
            work.store(bucket, number, total)
    return work.done(f"integrated gradients, {steps} steps")


def eap_ig(
    model: PromptedModel, interventions: Interventions, *, outcome: Outcome = LOGIT, steps: int = 16
) -> Approximation:
    """Estimate total effects as attribution patching does, with gradients averaged along the embeddings.

    The embeddings go in a straight line from the prompt's own to those of the prompt that values are taken from (to
    zero or to their mean, where that is what is set), at every position; the gradient at a node or an edge is the mean
    over the way, times ``v − x``.

    Parameters
    ----------
    model, interventions, outcome
        As in :func:`attribution_patching`; each intervention sets one place.  Donors and paired prompts have to be of
        the prompt's own length.
    steps
        Points of the Gauss–Legendre rule on the way; each is a forward and a backward per draw and kind of value,
        however many interventions.

    Returns
    -------
    Approximation

    Raises
    ------
    InputError
        As in :func:`attribution_patching`; if an intervention sets several places or a soft value, lengths differ, or
        ``steps`` is not positive.

    References
    ----------
    Hanna, Pezzelle and Belinkov, Have faith in faithfulness (2024), arXiv 2403.17806.
    """
    rule = _rule(steps)
    work = Work.prepare(model, interventions, outcome)
    values = [_one_value(name, world) for name, world in zip(work.interventions, work.worlds, strict=True)]
    ways = {str(value): Assignment(Component("embed"), value) for value in values}
    lines = Work.prepare(model, ways, outcome)
    beside = {bucket.prompts: bucket for bucket in lines.buckets()}
    for bucket in work.buckets():
        base, natural, column = work.natural(bucket)
        changed = [changes for _, changes in work.changes(bucket, base)]
        for way, (_, line) in zip(ways, lines.changes(beside[bucket.prompts], base), strict=True):
            numbers = [number for number, value in enumerate(values) if str(value) == way]
            places = {place for number in numbers for place in changed[number]}
            read = partial(Tape.outcome, outcome=outcome, column=column, natural=natural)
            along = _mean_gradients(work, bucket, line, places, rule, read)
            for number in numbers:
                ((place, (columns, delta, _)),) = changed[number].items()
                work.store(bucket, number, (delta * along[place][:, :, list(columns)]).sum((-2, -1)))
    return work.done(f"EAP-IG, {steps} steps")


def _one_value(name: str, world: World) -> Value:
    """Return what the only place of an intervention is set to."""
    value, places = world.values[0], {(site.node, site.receiver) for site in world.sites}
    if len(places) > 1 or len(set(world.values)) > 1 or not value.hard or isinstance(value, InWorld):
        what = f"{name}: the way of the embeddings belongs to one place that is set to a value of its own"
        raise InputError(explain(what, mend="set one node or edge, or use integrated gradients"))
    return value


def _mean_gradients(
    work: Work,
    bucket: Bucket,
    line: Mapping[Place, Change],
    places: Iterable[Place],
    rule: tuple[np.ndarray, np.ndarray],
    read: Callable[[Tape], torch.Tensor],
) -> dict[Place, torch.Tensor]:
    """Return gradients [prompt, draw, position, width] averaged along a change of the embeddings."""
    ((embed, (columns, delta, own)),) = line.items()
    sums: dict[Place, list[torch.Tensor]] = {place: [] for place in places}
    for draw in range(delta.shape[1]):
        total: dict[Place, torch.Tensor] = {}
        for point, weight in zip(*rule, strict=True):
            sets = {embed: (columns, own[:, 0] + float(point) * delta[:, draw])}
            tape = record(work.model.mechanisms, work.ids(bucket), sets)
            gradients = Gradients(tape, read(tape))
            for place in sums:
                part = float(weight) * gradients.at(place)[:, 0]
                total[place] = total[place] + part if place in total else part
        for place, found in sums.items():
            found.append(total[place])
    return {place: torch.stack(found, 1) for place, found in sums.items()}


def _rule(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points and weights of the Gauss–Legendre rule between 0 and 1."""
    if steps < 1:
        raise InputError(f"{steps} steps; at least one is needed")
    points, weights = np.polynomial.legendre.leggauss(steps)
    return (points + 1) / 2, weights / 2


def atp_star(
    model: PromptedModel, interventions: Interventions, *, outcome: Outcome = LOGIT, drop: bool = True
) -> Approximation:
    """Estimate the size of effects by AtP*: attention is not linearised, and cancellation is looked for.

    The first-order effect of a node is the sum over its readers.  Where the reader is attention, the attention is
    run on the changed stream (so that a saturated softmax is not taken for a flat one) and the change of its output
    is multiplied by the gradient there.  With ``drop``, the estimate is repeated with the gradient through each
    layer's outputs left out, one layer at a time (the set layers' own excepted), and the sizes are averaged: what
    cancels between a direct and an indirect path shows once one of them is gone.

    Parameters
    ----------
    model, outcome
        As in :func:`attribution_patching`.
    interventions
        Assignments to nodes; to whole contributions or heads, no edges.
    drop
        Whether to drop layers; without, the estimates are signed.

    Raises
    ------
    InputError
        As in :func:`attribution_patching`; if an intervention sets an edge or the norm.

    Notes
    -----
    Kramár et al. correct nodes that are queries and keys.  Here the nodes are what attention *reads*, so the same
    correction is made where they enter: queries, keys, values and the norm before them together.  It takes a
    forward per intervention and draw, with every layer held natural, and no backward.
    """
    work = Work.prepare(model, interventions, outcome, one_node=True)
    layers = range(len(model.mechanisms.layers))
    for bucket in work.buckets():
        tape, natural, column = work.natural(bucket)
        observed = observe(model.mechanisms, work.ids(bucket))
        values = tape.outcome(outcome, column, natural)
        whole = Gradients(tape, values)
        dropped = {layer: Gradients(tape, values, layer) for layer in layers} if drop else {}
        for number, changes in work.changes(bucket, tape):
            ((place, change),) = changes.items()
            used = [grads for layer, grads in dropped.items() if layer != place[0].layer] or [whole]
            parts = _readers(model, place[0], change, observed)
            totals = [sum((delta * grads.of(tensor(tape))).sum((-2, -1)) for tensor, delta in parts) for grads in used]
            sizes = torch.stack([torch.as_tensor(one) for one in totals])
            work.store(bucket, number, sizes.abs().mean(0) if drop else sizes[0])
    return work.done("AtP*" if drop else "attribution patching with attention run exactly", signed=not drop)


def _of_rows(natural: World0, prompt: torch.Tensor) -> World0:
    tokens = natural.tokens
    return World0(natural.stream[prompt], Tokens(tokens.target[prompt], tokens.lookup))


def _chunks(
    prompts: int, draws: int, steps: int, rows: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield prompt, draw and step of the rows of each batch."""
    every = torch.cartesian_prod(torch.arange(prompts), torch.arange(draws), torch.arange(steps)).view(-1, 3)
    for some in every.split(rows):
        yield some[:, 0], some[:, 1], some[:, 2]


def _readers(
    model: PromptedModel, node: Node, change: Change, observed: Observed
) -> list[tuple[Callable[[Tape], torch.Tensor], torch.Tensor]]:
    """Return what every reader of a node makes of its change, and at which tensor its gradient is taken.

    All are [prompt, draw, position, width].  Attention's own output changes by what it does on the changed
    stream; every other reader's stream by v − x.
    """
    columns, delta, _ = change
    mechanisms = model.mechanisms
    if node.kind == "head":
        assert node.head is not None
        delta = head_contribution(mechanisms.mechanism(node), delta, node.head).detach()
    stream = delta.new_zeros(*delta.shape[:2], observed.ids.shape[1], delta.shape[-1])
    stream[:, :, list(columns)] = delta
    # Heads read and write as part of their layer.
    graph = model.graph
    sender = node if node in graph else Node("attn", node.layer)
    whole = {Node("attn", one.layer) if one.kind in ("head", "bias") else one for one in graph.children(sender)}
    parts: list[tuple[Callable[[Tape], torch.Tensor], torch.Tensor]] = []
    for reader in whole:
        if reader.kind != "attn":
            parts.append((lambda tape, reader=reader: tape.reads[reader], stream))
    attention = sorted((reader for reader in whole if reader.kind == "attn"), key=lambda one: one.sort_key)
    if attention:
        shifted = [
            held(mechanisms, observed, {str(one): stream[:, draw] for one in attention})
            for draw in range(len(stream[0]))
        ]
        for reader in attention:
            name = str(reader)
            made = torch.stack([one.contributions[name] - observed.contributions[name] for one in shifted], 1)
            parts.append((lambda tape, reader=reader: tape.made[reader], made))
    return parts
