"""Where values come from: donors, means, paired prompts, given vectors, noise.

A :class:`Bank` holds natural values of one set of prompts at the sites that a query asks for; a
:class:`Sources` turns the writes of one chunk into tensors.  Donors and noise are exogenous: they depend
on the prompt, the draw and the seed, never on the world, so all worlds of a query share them.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from causalnet.engine.inputs import Inputs
from causalnet.engine.natural import Natural, run_natural
from causalnet.engine.plan import Plan, Write
from causalnet.errors import InputError, OutOfMemory
from causalnet.expr.positions import Position
from causalnet.expr.values import Add, Given, InWorld, Mean, Noise, Patch, ProjectOut, Resample, Scale, Zero
from causalnet.graph import Node
from causalnet.model.mechanism import Mechanisms

__all__ = ["Bank", "Inputs", "Sources", "build_sources", "value_at"]


@dataclass(eq=False)
class Bank:
    """Natural values [prompt, offset, width] of one set of prompts, per (node, position), padded with zeros."""

    values: dict[tuple[Node, Position | None], torch.Tensor] = field(default_factory=dict)
    counts: dict[tuple[Node, Position | None], torch.Tensor] = field(default_factory=dict)


def value_at(mechanisms: Mechanisms, natural: Natural, node: Node, columns: Sequence[int]) -> torch.Tensor:
    """Return a node's natural value [prompt, column, width] in one bucket; a range of columns as a view."""
    at: list[int] | slice = [column - natural.first for column in columns]
    if isinstance(columns, range):
        at = slice(columns.start - natural.first, columns.stop - natural.first)
    if node.kind == "embed":
        return natural.streams[0][:, at]
    if node.kind == "resid":
        return natural.streams[node.layer or 0][:, at]
    if node.kind == "norm":
        return mechanisms.readout.norm.sigma(natural.streams[-1][:, at]).unsqueeze(-1)
    if node.kind == "head":
        assert node.layer is not None and node.head is not None
        every = natural.heads[node.layer][:, at]
        width = every.shape[-1] // (mechanisms.mechanism(node).heads or 1)
        return every[..., node.head * width : (node.head + 1) * width]
    if node.kind == "bias":
        part = mechanisms.mechanism(node)
        bias = getattr(part.out, "bias", None)
        reference = natural.streams[0][:, at]
        return torch.zeros_like(reference) if bias is None else (bias * part.scale).expand_as(reference)
    return natural.contributions[node][:, at]


def head_layers(nodes: Iterable[Node]) -> tuple[int, ...]:
    """Return the layers whose heads are among the nodes."""
    return tuple(sorted({node.layer for node in nodes if node.kind == "head" and node.layer is not None}))


def natural_runs(
    mechanisms: Mechanisms, inputs: Inputs, layers: Sequence[int], most: int = 256
) -> Iterator[tuple[Sequence[int], Natural]]:
    """Run the natural world of a set of prompts, at most ``most`` of one length together, fewer where memory ends."""
    groups: dict[int, list[int]] = {}
    for prompt, ids in enumerate(inputs.ids):
        groups.setdefault(len(ids), []).append(prompt)
    todo = [group[start : start + most] for group in groups.values() for start in range(0, len(group), most)]
    while todo:
        prompts = todo.pop(0)
        ids = torch.tensor([inputs.ids[prompt] for prompt in prompts], device=mechanisms.device)
        try:
            natural = run_natural(mechanisms, ids, heads=layers, cached=False)
        except torch.OutOfMemoryError as error:
            if len(prompts) == 1:
                raise OutOfMemory(f"a donor or pair of {ids.shape[1]} tokens does not fit into memory") from error
            most = len(prompts) // 2
            todo[:0] = [prompts[:most], prompts[most:]]
            continue
        yield prompts, natural


def fill_bank(
    mechanisms: Mechanisms,
    inputs: Inputs,
    wanted: Iterable[tuple[Node, Position | None]],
    runs: Iterable[tuple[Sequence[int], Natural]] | None = None,
) -> Bank:
    """Keep what is wanted of the natural world of a set of prompts.

    ``runs`` are natural runs that cover the prompts and the wanted positions; without them the prompts
    are run here.
    """
    wanted = sorted(set(wanted), key=lambda key: (key[0].sort_key, str(key[1])))
    bank = Bank()
    if not wanted:
        return bank
    if runs is None:
        runs = natural_runs(mechanisms, inputs, head_layers(node for node, _ in wanted))
    found: dict[tuple[Node, Position | None], list[tuple[int, torch.Tensor]]] = {key: [] for key in wanted}
    for prompts, natural in runs:
        for position in dict.fromkeys(position for _, position in wanted):
            groups: dict[tuple[int, ...], list[int]] = {}
            for row, prompt in enumerate(prompts):
                groups.setdefault(inputs.columns(prompt, position), []).append(row)
            for columns, rows in groups.items():
                for node in (node for node, where in wanted if where == position):
                    values = value_at(mechanisms, natural, node, columns)
                    found[node, position] += [(prompts[row], values[row]) for row in rows]
    for key, rows in found.items():
        bank.values[key], bank.counts[key] = _table(rows, len(inputs.ids))
    return bank


def _table(rows: Sequence[tuple[int, torch.Tensor]], prompts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack values [offset, width] into one table [prompt, offset, width], padded, and count the offsets."""
    longest = max(value.shape[0] for _, value in rows)
    table = rows[0][1].new_zeros(prompts, longest, rows[0][1].shape[-1])
    counts = torch.zeros(prompts, dtype=torch.long)
    for prompt, value in rows:
        table[prompt, : value.shape[0]] = value
        counts[prompt] = value.shape[0]
    return table, counts


@dataclass(eq=False)
class Sources:
    """The values of a run's writes."""

    mechanisms: Mechanisms
    inputs: Inputs
    pool: Bank
    pairs: Mapping[str, Bank]
    means: dict[tuple[Node, Position | None], torch.Tensor] = field(default_factory=dict)
    spread: dict[tuple[Node, Position | None], float] = field(default_factory=dict)

    def fetch(self, write: Write, current: torch.Tensor, prompts: Sequence[int], draws: slice) -> torch.Tensor:
        """Return the value [prompt, draw or 1, column, width] that a write puts in place of ``current``."""
        value, key, offsets = write.value, (write.node, write.site.position), list(write.offsets)
        if isinstance(value, Zero):
            return torch.zeros_like(current)
        if isinstance(value, Scale):
            return current * value.factor
        if isinstance(value, Resample):
            return self._donated(key, prompts, draws)[:, :, offsets].to(current.device)
        if isinstance(value, Mean):
            return self._mean(key)[offsets].expand(len(prompts), 1, -1, -1).to(current.device)
        if isinstance(value, Patch):
            table = self.pairs[value.name].values[key]
            return table[list(prompts)][:, offsets].unsqueeze(1).to(current.device)
        if isinstance(value, Noise):
            return current + self._noise(write, value, prompts, draws, current)
        if isinstance(value, InWorld):
            raise InputError(f"{write.site}: values of other worlds are made in the wave")
        return self._with_vector(write, current, prompts)

    def _donated(self, key: tuple[Node, Position | None], prompts: Sequence[int], draws: slice) -> torch.Tensor:
        assert self.inputs.donors is not None
        which = torch.as_tensor(np.maximum(self.inputs.donors[list(prompts), draws], 0))
        table = self.pool.values[key]
        return table[which.to(table.device)]

    def _mean(self, key: tuple[Node, Position | None]) -> torch.Tensor:
        """Return the mean [offset, width] over the pool, at each place over the prompts that have it."""
        if key not in self.means:
            table, counts = self.pool.values[key], self.pool.counts[key]
            wide = torch.promote_types(table.dtype, torch.float32)
            have = (counts[:, None] > torch.arange(table.shape[1])).sum(0).to(table.device)
            self.means[key] = (table.sum(0, dtype=wide) / have[:, None]).to(table.dtype)
        return self.means[key]

    def _noise(
        self, write: Write, value: Noise, prompts: Sequence[int], draws: slice, current: torch.Tensor
    ) -> torch.Tensor:
        """Return noise [prompt, draw, column, width], keyed by seed, prompt, node, position and draw."""
        key = (write.node, write.site.position)
        if key not in self.spread:
            table, counts = self.pool.values[key], self.pool.counts[key]
            rows = torch.cat([table[prompt, : int(count)] for prompt, count in enumerate(counts)])
            self.spread[key] = float(rows.double().std())
        count = range(*draws.indices(self.inputs.count))
        out = np.empty((len(prompts), len(count), len(write.columns), current.shape[-1]))
        for i, prompt in enumerate(prompts):
            for j, draw in enumerate(count):
                for k, column in enumerate(write.columns):
                    seed = f"{self.inputs.seed}/{self.inputs.first + prompt}/{write.node}/{column}/{draw}".encode()
                    digest = int.from_bytes(hashlib.blake2b(seed, digest_size=16).digest(), "big")
                    out[i, j, k] = np.random.Generator(np.random.Philox(digest)).standard_normal(current.shape[-1])
        return torch.as_tensor(out * (value.size * self.spread[key])).to(current)

    def _with_vector(self, write: Write, current: torch.Tensor, prompts: Sequence[int]) -> torch.Tensor:
        value = write.value
        assert isinstance(value, Given | Add | ProjectOut)
        vector = self.inputs.vectors[value.name].to(current)
        vector = vector.view(1, 1, 1, -1) if vector.dim() == 1 else vector[list(prompts)][:, None, None]
        if isinstance(value, Given):
            return vector.expand(len(prompts), 1, len(write.columns), -1)
        if isinstance(value, Add):
            return current + value.factor * vector
        unit = vector / vector.norm(dim=-1, keepdim=True)
        return current - (current * unit).sum(-1, keepdim=True) * unit


def build_sources(
    mechanisms: Mechanisms,
    plan: Plan,
    inputs: Inputs,
    own: Iterable[tuple[Sequence[int], Natural]] | None = None,
) -> Sources:
    """Run what the values of a plan need.

    ``own`` are natural runs of the prompts themselves, used where these are their own donor pool.
    """
    pooled: set[tuple[Node, Position | None]] = set()
    paired: dict[str, set[tuple[Node, Position | None]]] = {}
    for world in plan.worlds:
        for site, value in world.writes:
            key = (site.node, site.position)
            if isinstance(value, Resample | Mean | Noise):
                pooled.add(key)
            elif isinstance(value, Patch):
                paired.setdefault(value.name, set()).add(key)
    pool = inputs if inputs.pool is None else inputs.pool
    return Sources(
        mechanisms,
        inputs,
        fill_bank(mechanisms, pool, pooled, own if inputs.pool is None else None),
        {name: fill_bank(mechanisms, inputs.pairs[name], keys) for name, keys in paired.items()},
    )
