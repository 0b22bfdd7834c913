"""What an intervention puts in place of a node's value, read off the twin's own natural values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from causalnet.errors import ExpressionError, InputError, explain
from causalnet.expr.positions import indices
from causalnet.expr.values import (
    Add,
    Given,
    InWorld,
    Mean,
    Natural,
    Noise,
    Patch,
    ProjectOut,
    Resample,
    Scale,
    SiteValue,
    Zero,
)
from causalnet.expr.world import Site, World, ground
from causalnet.graph import Edge, Node

__all__ = ["Rows", "Unit", "Writer"]


@dataclass(frozen=True)
class Rows:
    """Prompts as tokens and spans, and where the natural value of a node in one of them is found."""

    ids: Sequence[Sequence[int]]
    spans: Sequence[Mapping[str, tuple[int, int]]]
    natural: Callable[[int, Node], torch.Tensor]

    def columns(self, row: int, site: Site) -> tuple[int, ...]:
        """Return the token indices of a site's position in one prompt."""
        return indices(site.position, len(self.ids[row]), self.span(row), where=f"prompt {row}")

    def span(self, row: int) -> Mapping[str, tuple[int, int]]:
        """Return the named spans of one prompt."""
        return self.spans[row] if self.spans else {}


@dataclass(frozen=True)
class Unit:
    """A prompt with the donor that it has in this draw (-1: none), and its values in other worlds."""

    prompt: int
    donor: int
    worlds: Mapping[World, Callable[[Node], torch.Tensor]]


@dataclass(frozen=True)
class Writer:
    """Makes the values of writes.

    Parameters
    ----------
    prompts, pool
        The prompts, and those that donors and means come from.
    pairs
        Paired prompts by name.
    vectors
        Vectors [d_model] or [prompt, d_model] by name.
    """

    prompts: Rows
    pool: Rows
    pairs: Mapping[str, Rows]
    vectors: Mapping[str, torch.Tensor]

    def written(self, world: World, key: Node | Edge, unit: Unit, current: torch.Tensor) -> torch.Tensor:
        """Return a value [position, width] after what a world writes to a node, or to an edge that carries it."""
        row = unit.prompt
        table = ground(world, len(self.prompts.ids[row]), self.prompts.span(row), where=f"prompt {row}")
        address = (key.source, key.target) if isinstance(key, Edge) else (key, None)
        new = current.clone()
        for column, (site, value) in table.get(address, {}).items():
            new[column] = self._value(site, value, unit, column, current[column])
        return new

    def _value(self, site: Site, value: SiteValue, unit: Unit, column: int, current: torch.Tensor) -> torch.Tensor:
        if isinstance(value, Zero):
            return torch.zeros_like(current)
        if isinstance(value, Scale):
            return current * value.factor
        if isinstance(value, Natural):
            return self.prompts.natural(unit.prompt, site.node)[column]
        if isinstance(value, InWorld):
            return unit.worlds[value.world](site.node)[column]
        if isinstance(value, Noise):
            what = f"{site} = {value}: the twin draws no noise of the language"
            mend = "give the noise as a vector: add(name), or put it into the twin's data and ask a counterfactual"
            raise ExpressionError(explain(what, mend=mend))
        offset = self.prompts.columns(unit.prompt, site).index(column)
        if isinstance(value, Resample):
            return self._at(self.pool, unit.donor, site, offset)
        if isinstance(value, Mean):
            having = [row for row in range(len(self.pool.ids)) if len(self.pool.columns(row, site)) > offset]
            values = torch.stack([self._at(self.pool, row, site, offset) for row in having])
            return values.to(torch.promote_types(values.dtype, torch.float32)).mean(0).to(current)
        if isinstance(value, Patch):
            return self._at(self.pairs[value.name], unit.prompt, site, offset)
        return self._with_vector(site, value, unit.prompt, current)

    def _at(self, rows: Rows, row: int, site: Site, offset: int) -> torch.Tensor:
        return rows.natural(row, site.node)[rows.columns(row, site)[offset]]

    def _with_vector(self, site: Site, value: Any, prompt: int, current: torch.Tensor) -> torch.Tensor:
        if site.node.kind in ("head", "norm"):
            raise InputError(f"{site}: a vector of the residual stream cannot be set on a {site.node.kind} node")
        vector = self.vectors[value.name].to(current)
        vector = vector if vector.dim() == 1 else vector[prompt]
        if isinstance(value, Given):
            return vector
        if isinstance(value, Add):
            return current + value.factor * vector
        assert isinstance(value, ProjectOut)
        unit = vector / vector.norm()
        return current - (current @ unit) * unit
