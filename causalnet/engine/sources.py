"""Where values come from: donors, means, paired prompts, given vectors, noise.

A :class:`Sources` turns the writes of one chunk into tensors; what it needs of donors and pairs is kept in a
:class:`~causalnet.engine.bank.Bank`.  Donors and noise are exogenous: they depend on the prompt, the draw and
the seed, never on the world, so all worlds of a query share them.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from causalnet.engine.bank import Bank, Key, Wanted, fill_bank
from causalnet.engine.budget import Budget, budget_of
from causalnet.engine.inputs import Inputs
from causalnet.engine.natural import Natural
from causalnet.engine.plan import Plan, Write
from causalnet.errors import InputError
from causalnet.expr.values import Add, Given, InWorld, Mean, Noise, Patch, ProjectOut, Resample, Scale, Zero
from causalnet.model.mechanism import Mechanisms

__all__ = ["Inputs", "Sources", "build_sources"]


@dataclass(eq=False)
class Sources:
    """The values of a run's writes."""

    mechanisms: Mechanisms
    inputs: Inputs
    pool: Bank
    pairs: Mapping[str, Bank]

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
            found = self.pairs[value.name].of(key, torch.as_tensor(prompts))
            return found[:, offsets].unsqueeze(1).to(current.device)
        if isinstance(value, Noise):
            return current + self._noise(write, value, prompts, draws, current)
        if isinstance(value, InWorld):
            raise InputError(f"{write.site}: values of other worlds are made in the wave")
        return self._with_vector(write, current, prompts)

    def _donated(self, key: Key, prompts: Sequence[int], draws: slice) -> torch.Tensor:
        assert self.inputs.donors is not None
        return self.pool.of(key, torch.as_tensor(np.maximum(self.inputs.donors[list(prompts), draws], 0)))

    def _mean(self, key: Key) -> torch.Tensor:
        """Return the mean [offset, width] over the pool, at each place over the prompts that have it."""
        return self.pool.means[key]

    def _noise(
        self, write: Write, value: Noise, prompts: Sequence[int], draws: slice, current: torch.Tensor
    ) -> torch.Tensor:
        """Return noise [prompt, draw, column, width], keyed by seed, prompt, node, position and draw."""
        spread = self.pool.spreads[write.node, write.site.position]
        count = range(*draws.indices(self.inputs.count))
        out = np.empty((len(prompts), len(count), len(write.columns), current.shape[-1]))
        for i, prompt in enumerate(prompts):
            for j, draw in enumerate(count):
                for k, column in enumerate(write.columns):
                    seed = f"{self.inputs.seed}/{self.inputs.first + prompt}/{write.node}/{column}/{draw}".encode()
                    digest = int.from_bytes(hashlib.blake2b(seed, digest_size=16).digest(), "big")
                    out[i, j, k] = np.random.Generator(np.random.Philox(digest)).standard_normal(current.shape[-1])
        return torch.as_tensor(out * (value.size * spread)).to(current)

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
    budget: Budget | None = None,
) -> Sources:
    """Run what the values of a plan need.

    ``own`` are natural runs of the prompts themselves, used where these are their own donor pool; ``budget`` says
    how much natural runs may take, as much as the device has room for unless it is given.
    """
    budget = budget_of(mechanisms) if budget is None else budget
    drawn: set[Key] = set()
    means: set[Key] = set()
    spreads: set[Key] = set()
    paired: dict[str, set[Key]] = {}
    for world in plan.worlds:
        for site, value in world.writes:
            key = (site.node, site.position)
            if isinstance(value, Resample):
                drawn.add(key)
            elif isinstance(value, Mean):
                means.add(key)
            elif isinstance(value, Noise):
                spreads.add(key)
            elif isinstance(value, Patch):
                paired.setdefault(value.name, set()).add(key)
    pool = inputs if inputs.pool is None else inputs.pool
    donors = () if inputs.donors is None else np.unique(inputs.donors[inputs.donors >= 0]).tolist()
    wanted = Wanted(tuple(donors) if drawn else (), frozenset(drawn), frozenset(means), frozenset(spreads))
    return Sources(
        mechanisms,
        inputs,
        fill_bank(mechanisms, pool, wanted, budget, own if inputs.pool is None else None),
        {
            name: fill_bank(mechanisms, pair, Wanted(tuple(range(len(pair.ids))), frozenset(paired[name])), budget)
            for name, pair in inputs.pairs.items()
            if name in paired
        },
    )
