"""What is kept of the natural values of donors and pairs: their own, means over all, standard deviations.

Natural runs come in blocks, are looked at once and let go; what stays is what some write reads.  Means and
standard deviations are added up prompt by prompt in float64, in an order that the prompts alone decide, so
that they do not depend on how the runs were cut beyond the rounding of the runs themselves.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from causalnet.engine.budget import Budget
from causalnet.engine.inputs import Inputs
from causalnet.engine.natural import Natural, kept_of, run_natural, value_at
from causalnet.errors import OutOfMemory
from causalnet.expr.positions import Position
from causalnet.graph import Node
from causalnet.model.mechanism import Mechanisms

__all__ = ["Bank", "Key", "Wanted", "fill_bank"]

Key = tuple[Node, Position | None]
"""A node and the position label at which it is set."""


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a set of prompts.

    Attributes
    ----------
    members
        The prompts whose own values are read.
    drawn, means, spreads
        Where values of members, means, and standard deviations over all prompts are read.
    """

    members: tuple[int, ...] = ()
    drawn: frozenset[Key] = frozenset()
    means: frozenset[Key] = frozenset()
    spreads: frozenset[Key] = frozenset()

    @property
    def keys(self) -> list[Key]:
        """Everything that is read, in order."""
        return sorted(self.drawn | self.means | self.spreads, key=lambda key: (key[0].sort_key, str(key[1])))

    def prompts(self, inputs: Inputs) -> Sequence[int]:
        """Return the prompts that have to be run."""
        return range(len(inputs.ids)) if self.means or self.spreads else self.members


@dataclass(eq=False)
class Bank:
    """Natural values of one set of prompts, per (node, position).

    Attributes
    ----------
    place
        Row of each prompt in ``values``.
    values
        Values [member, offset, width], padded with zeros.
    means
        Means [offset, width], at each offset over the prompts that have it.
    spreads
        Standard deviations over all prompts, offsets and the width.
    """

    place: torch.Tensor
    values: dict[Key, torch.Tensor] = field(default_factory=dict)
    means: dict[Key, torch.Tensor] = field(default_factory=dict)
    spreads: dict[Key, float] = field(default_factory=dict)

    def of(self, key: Key, prompts: torch.Tensor) -> torch.Tensor:
        """Return the values [..., offset, width] of some members, by their numbers in the set [...]."""
        table = self.values[key]
        return table[self.place[prompts].to(table.device)]


def fill_bank(
    mechanisms: Mechanisms,
    inputs: Inputs,
    wanted: Wanted,
    budget: Budget,
    runs: Iterable[tuple[Sequence[int], Natural]] | None = None,
) -> Bank:
    """Keep what is wanted of the natural world of a set of prompts.

    ``runs`` are natural runs that cover the prompts and the wanted positions; without them the prompts
    are run here.
    """
    keys = wanted.keys
    filling = _Filling(inputs, wanted)
    if not keys:
        return filling.bank
    if runs is None:
        runs = _natural_runs(mechanisms, inputs, wanted.prompts(inputs), keys, budget)
    for prompts, natural in runs:
        for position in dict.fromkeys(position for _, position in keys):
            groups: dict[tuple[int, ...], list[int]] = {}
            for row, prompt in enumerate(prompts):
                groups.setdefault(inputs.columns(prompt, position), []).append(row)
            for node in (node for node, where in keys if where == position):
                found: dict[int, torch.Tensor] = {}
                for columns, rows in groups.items():
                    values = value_at(mechanisms, natural, node, columns)
                    found.update({prompts[row]: values[row] for row in rows})
                filling.take((node, position), {prompt: found[prompt] for prompt in prompts})
        del natural  # before the next is made
    filling.finish()
    return filling.bank


def _natural_runs(
    mechanisms: Mechanisms, inputs: Inputs, prompts: Iterable[int], keys: Sequence[Key], budget: Budget
) -> Iterator[tuple[Sequence[int], Natural]]:
    """Run prompts of one length together, as many as the budget allows; keep what is looked at under ``keys``."""
    kept = kept_of((node for node, _ in keys), len(mechanisms.layers))
    labels = tuple(dict.fromkeys(position for _, position in keys))
    groups: dict[int, list[int]] = {}
    for prompt in prompts:
        groups.setdefault(len(inputs.ids[prompt]), []).append(prompt)
    for length, group in groups.items():
        starts = (column for prompt in group for label in labels for column in inputs.columns(prompt, label)[:1])
        first = min(starts, default=length - 1)
        step = budget.prompts(length, kept.bytes(mechanisms, length - first, 0))
        todo = [group[start : start + step] for start in range(0, len(group), step)]
        while todo:
            some = todo.pop(0)
            ids = torch.tensor([inputs.ids[prompt] for prompt in some], device=mechanisms.device)
            try:
                natural = run_natural(mechanisms, ids, kept, first)
            except torch.OutOfMemoryError as error:
                if len(some) == 1:
                    raise OutOfMemory(f"a donor or pair of {length} tokens does not fit into memory") from error
                todo[:0] = [some[: len(some) // 2], some[len(some) // 2 :]]
                continue
            yield some, natural
            del natural


@dataclass(eq=False)
class _Filling:
    """A bank while it is filled, block by block."""

    inputs: Inputs
    wanted: Wanted
    bank: Bank = field(init=False)
    totals: dict[Key, torch.Tensor] = field(default_factory=dict)
    dtypes: dict[Key, torch.dtype] = field(default_factory=dict)
    moments: dict[Key, dict[int, tuple[int, torch.Tensor]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.members = set(self.wanted.members)
        place = torch.zeros(len(self.inputs.ids), dtype=torch.long)
        place[list(self.wanted.members)] = torch.arange(len(self.wanted.members))
        self.bank = Bank(place)
        labels = {position for _, position in self.wanted.drawn | self.wanted.means}
        every = range(len(self.inputs.ids))
        self.counts = {label: [len(self.inputs.columns(prompt, label)) for prompt in every] for label in labels}

    def take(self, key: Key, found: Mapping[int, torch.Tensor]) -> None:
        """Take what is wanted of the values [offset, width] of some prompts."""
        some = next(iter(found.values()))
        if key in self.wanted.drawn:
            if key not in self.bank.values:
                longest = max(self.counts[key[1]][prompt] for prompt in self.wanted.members)
                self.bank.values[key] = some.new_zeros(len(self.wanted.members), longest, some.shape[-1])
            table = self.bank.values[key]
            for prompt in self.members.intersection(found):
                table[self.bank.place[prompt], : len(found[prompt])] = found[prompt]
        if key in self.wanted.means:
            if key not in self.totals:
                longest = max(self.counts[key[1]])
                self.totals[key] = some.new_zeros(longest, some.shape[-1], dtype=torch.float64)
                self.dtypes[key] = some.dtype
            for value in found.values():
                self.totals[key][: len(value)] += value
        if key in self.wanted.spreads:
            for prompt, value in found.items():
                if value.numel():
                    moments = torch.var_mean(value.double().contiguous(), correction=0)
                    self.moments.setdefault(key, {})[prompt] = value.numel(), torch.stack(moments)

    def finish(self) -> None:
        """Turn what was added up into means and standard deviations."""
        for key, total in self.totals.items():
            have = torch.tensor(self.counts[key[1]])[:, None] > torch.arange(total.shape[0])
            self.bank.means[key] = (total / have.sum(0).to(total.device)[:, None]).to(self.dtypes[key])
        for key, found in self.moments.items():
            self.bank.spreads[key] = _spread([found[prompt] for prompt in sorted(found)])


def _spread(found: Sequence[tuple[int, torch.Tensor]]) -> float:
    """Return the standard deviation of all from the count, variance and mean of each (Chan et al. 1983)."""
    each = torch.stack([moments for _, moments in found]).tolist()
    count, mean, squares = 0, 0.0, 0.0
    for (own, _), (variance, centre) in zip(found, each, strict=True):
        gap, count = centre - mean, count + own
        mean += gap * own / count
        squares += variance * own + gap * gap * own * (count - own) / count
    return (squares / (count - 1)) ** 0.5
