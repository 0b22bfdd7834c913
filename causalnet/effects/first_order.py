"""What every approximation by gradients needs: the changes of each intervention, and gradients on a tape."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from causalnet.effects.asking import PromptedModel
from causalnet.effects.places import intervention
from causalnet.engine.gradients import Place, Tape, record
from causalnet.engine.inputs import check
from causalnet.engine.natural import head_contribution
from causalnet.engine.plan import Bucket, Plan, Write, draws_of, plan, trunk_of
from causalnet.engine.readings import Tokens, World0
from causalnet.engine.sources import Sources, build_sources
from causalnet.errors import InputError, explain
from causalnet.expr import Assignment, InWorld, Natural, Outcome, Site, World
from causalnet.expr.positions import indices
from causalnet.graph import Node
from causalnet.model.mechanism import Mechanisms

__all__ = ["Approximation", "Change", "Gradients", "Interventions", "Work"]

Interventions = Mapping[str, Assignment | Sequence[Assignment]]
"""What is approximated, by name: one assignment each, or several that are made together."""


@dataclass(frozen=True, eq=False)
class Approximation:
    """Estimated total effects.

    Attributes
    ----------
    method
        How they were estimated.
    outcome
        Y.
    interventions
        What was estimated, by name.
    values
        [prompt, draw, intervention], in the outcome's units; NaN where a prompt has no such donor.
    signed
        Whether they estimate the effect itself; False: its size alone.
    """

    method: str
    outcome: Outcome
    interventions: Mapping[str, tuple[Assignment, ...]]
    values: np.ndarray
    signed: bool = True


Change = tuple[Sequence[int], torch.Tensor, torch.Tensor]
"""Columns, v − x [prompt, draw or 1, column, width], and x [prompt, 1, column, width]."""


@dataclass(eq=False)
class Work:
    """What every method needs: worlds, values of their writes, and a table to fill."""

    model: PromptedModel
    outcome: Outcome
    interventions: dict[str, tuple[Assignment, ...]]
    worlds: list[World]
    plan: Plan
    sources: Sources
    table: np.ndarray

    @classmethod
    def prepare(cls, model: PromptedModel, given: Interventions, outcome: Outcome, *, one_node: bool = False) -> "Work":
        """Expand the interventions, check them, and make ready where their values come from.

        Raises
        ------
        InputError
            If a value is taken from another world; with ``one_node``, if more than one node is set, or an edge.
        """
        named = {name: (one,) if isinstance(one, Assignment) else tuple(one) for name, one in given.items()}
        worlds = [intervention(model.graph, some, outcome).world for some in named.values()]
        for name, world in zip(named, worlds, strict=True):
            _check(name, world, model.mechanisms, one_node=one_node)
        inputs = model.inputs
        planned = plan(model.graph, worlds, [], inputs.shape, draws=inputs.count)
        check(model.mechanisms, planned, inputs)
        with torch.no_grad():
            sources = build_sources(model.mechanisms, planned, inputs)
        draws = max((draws_of(world, inputs.count) for world in worlds), default=1)
        table = np.full((len(inputs.ids), draws, len(worlds)), np.nan)
        return cls(model, outcome, named, worlds, planned, sources, table)

    def buckets(self) -> Iterator[Bucket]:
        """Yield groups of prompts of one length, in which the outcome is read at one position."""
        inputs = self.model.inputs
        for bucket in self.plan.buckets:
            groups: dict[int, list[int]] = {}
            for prompt in bucket.prompts:
                at = indices(self.outcome.position, bucket.length, inputs.span(prompt), where=f"prompt {prompt}")[0]
                groups.setdefault(at, []).append(prompt)
            for prompts in groups.values():
                yield replace(bucket, prompts=tuple(prompts))

    def ids(self, bucket: Bucket) -> torch.Tensor:
        """Return token ids [prompt, position]."""
        rows = [self.model.inputs.ids[prompt] for prompt in bucket.prompts]
        return torch.tensor(rows, device=self.model.mechanisms.device)

    def natural(self, bucket: Bucket) -> tuple[Tape, World0, int]:
        """Return the natural forward, what readings need of it, and where the outcome is read."""
        inputs, readout = self.model.inputs, self.model.mechanisms.readout
        column = indices(self.outcome.position, bucket.length, inputs.span(bucket.prompts[0]))[0]
        tape = record(self.model.mechanisms, self.ids(bucket))
        with torch.no_grad():
            stream = tape.reads[Node("logits")][:, column]
            if inputs.targets is None:
                target = readout.precap_logits(tape.reads[Node("logits")][:, -1]).argmax(-1)
            else:
                target = torch.tensor([inputs.targets[prompt] for prompt in bucket.prompts], device=stream.device)
        return tape, tape.world0(column, Tokens(target, self.model.lookup)), column

    def changes(self, bucket: Bucket, tape: Tape) -> Iterator[tuple[int, dict[Place, Change]]]:
        """Yield what each intervention changes, by place."""
        trunks = {lane.world: lane.writes for _, lanes in bucket.waves for lane in lanes}
        for number, world in enumerate(self.worlds):
            writes = (*trunks.get(trunk_of(world), ()), *bucket.readout[world])
            parts: dict[Place, list[Change]] = {}
            for write in writes:
                parts.setdefault((write.node, write.receiver), []).append(self._change(write, bucket, tape))
            yield number, {place: _joined(some) for place, some in parts.items()}

    def _change(self, write: Write, bucket: Bucket, tape: Tape) -> Change:
        own = tape.written[write.node].detach()[:, list(write.columns)].unsqueeze(1)
        with torch.no_grad():
            value = self.sources.fetch(write, own, bucket.prompts, slice(0, self.model.inputs.count))
        return write.columns, value - own, own

    def store(self, bucket: Bucket, number: int, total: torch.Tensor | int) -> None:
        """Keep an intervention's estimates [prompt, draw or 1]."""
        self.table[list(bucket.prompts), :, number] = torch.as_tensor(total).detach().double().cpu().numpy()

    def done(self, method: str, *, signed: bool = True) -> Approximation:
        """Return the filled table; draws that a prompt has no donor for are NaN."""
        donors = self.model.inputs.donors
        if donors is not None and self.table.shape[1] == donors.shape[1]:
            for number, world in enumerate(self.worlds):
                if draws_of(world, 2) > 1:
                    self.table[..., number][donors < 0] = np.nan
        return Approximation(method, self.outcome, self.interventions, self.table, signed)


def _joined(parts: Sequence[Change]) -> Change:
    """Join writes of one place at several positions."""
    draws = max(delta.shape[1] for _, delta, _ in parts)
    columns = [column for some, _, _ in parts for column in some]
    delta = torch.cat([delta.expand(-1, draws, -1, -1) for _, delta, _ in parts], 2)
    return columns, delta, torch.cat([own for _, _, own in parts], 2)


@dataclass(eq=False)
class Gradients:
    """Gradients of an outcome at the places of a tape, each taken once."""

    tape: Tape
    values: torch.Tensor
    drop: int | None = None

    def __post_init__(self) -> None:
        tensors = [*self.tape.written.values(), *self.tape.reads.values(), *self.tape.made.values()]
        found = self.tape.gradients(self.values, tensors, drop=self.drop)
        self.known = {id(tensor): grad.unsqueeze(1) for tensor, grad in zip(tensors, found, strict=True)}

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the gradient [prompt, 1, position, width] at a tensor of the tape."""
        return self.known[id(tensor)]

    def at(self, place: Place) -> torch.Tensor:
        """Return the gradient at what a node writes, or at what an edge carries."""
        node, receiver = place
        if receiver is None:
            return self.of(self.tape.written[node])
        grad = self.of(self.tape.reads[receiver])
        if node.kind != "head":
            return grad
        # A head's value reaches the stream through its slice of the output projection.
        assert node.head is not None
        part = self.tape.mechanisms.mechanism(node)
        basis = torch.eye(self.tape.written[node].shape[-1], dtype=grad.dtype, device=grad.device)
        return grad @ head_contribution(part, basis, node.head).detach().T


def _check(name: str, world: World, mechanisms: Mechanisms, *, one_node: bool) -> None:
    """Refuse what has no first-order effect, or is not defined at first order."""
    for site, value in world.writes:
        if isinstance(value, Natural | InWorld):
            what = f"{site} = {value}: an approximation starts from the natural world and knows no other"
            raise InputError(explain(what, mend="ask for the exact effect"))
        if site.node.kind == "bias":
            what = f"{site}: heads are nodes in this graph, and no gradient is taken at the bias beside them"
            raise InputError(explain(what, mend="name heads, or compile at the granularity of layers"))
        inside = site.node.kind == "head" and not mechanisms.mechanism(site.node).heads_sum
        if inside and (one_node or site.receiver is not None):
            what = (
                f"{site}: a norm comes after the heads of layer {site.node.layer}, so they write nothing by themselves"
            )
            raise InputError(explain(what, mend=f"name attn[{site.node.layer}]"))
    if len({(site.node, site.receiver) for site in world.sites}) > 1 and not all(value.hard for value in world.values):
        what = f"{name}: a value that depends on the node's own is not at first order what it is beside other changes"
        raise InputError(explain(what, mend="approximate one of them at a time"))
    if one_node and (len({site.node for site in world.sites}) > 1 or not all(_adds(site) for site in world.sites)):
        what = f"{name}: AtP* is for one node at a time that adds to the stream"
        raise InputError(explain(what, mend="use attribution patching"))


def _adds(site: Site) -> bool:
    return site.receiver is None and site.node.contributes
