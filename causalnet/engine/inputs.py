"""What is exogenous of a run, and whether it fits a plan: everything here is checked before anything runs."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from causalnet.engine.plan import Plan, Reading, Shape, draws_of
from causalnet.errors import ExpressionError, InputError, PromptError, UnknownNameError, explain
from causalnet.expr.outcomes import Along
from causalnet.expr.positions import At, Position, indices
from causalnet.expr.values import Add, Given, Mean, Noise, Patch, ProjectOut, Resample, SiteValue
from causalnet.expr.world import Site

if TYPE_CHECKING:
    import torch

    from causalnet.model.mechanism import Mechanisms

__all__ = ["Inputs", "check", "check_tokens", "part"]


@dataclass(frozen=True)
class Inputs:
    """Everything exogenous of a run.

    Attributes
    ----------
    ids
        Token ids of each prompt.
    spans
        Named spans of each prompt as half-open token indices.
    targets
        Target token of each prompt; None: the natural world's most likely token.
    pool
        Prompts that donors are drawn from; None: the prompts themselves.
    donors
        Index of each prompt's donors in the pool, [prompt, draw]; -1 where there are fewer.
    pairs
        Paired prompts by name, for ``patch("name")``.
    vectors
        Vectors [d_model] or [prompt, d_model] by name, for ``value``, ``add`` and ``project_out``; what an outcome
        reads along is looked up instead (:class:`causalnet.engine.readings.Lookup`).
    draws
        Number of draws where no donors are given (noise).
    seed
        Seed of the noise.
    first
        Number of the first prompt: noise is keyed by the numbers of prompts, so that a block of a larger set
        draws what it would draw as part of it.
    """

    ids: tuple[tuple[int, ...], ...]
    spans: tuple[Mapping[str, tuple[int, int]], ...] = ()
    targets: tuple[int, ...] | None = None
    pool: "Inputs | None" = None
    donors: np.ndarray | None = None
    pairs: Mapping[str, "Inputs"] = field(default_factory=dict)
    vectors: Mapping[str, "torch.Tensor"] = field(default_factory=dict)
    draws: int = 1
    seed: int = 0
    first: int = 0

    @property
    def shape(self) -> Shape:
        """Lengths and spans, for the planner."""
        return Shape(tuple(len(ids) for ids in self.ids), self.spans)

    @property
    def count(self) -> int:
        """Draws per prompt: donors, or noise seeds."""
        return self.draws if self.donors is None else int(self.donors.shape[1])

    def span(self, prompt: int) -> Mapping[str, tuple[int, int]]:
        """Return the named spans of one prompt."""
        return self.spans[prompt] if self.spans else {}

    def columns(self, prompt: int, position: Position | None, where: str = "") -> tuple[int, ...]:
        """Return the token indices that a position means in one prompt."""
        return indices(position, len(self.ids[prompt]), self.span(prompt), where=where or f"prompt {prompt}")


def part(inputs: Inputs, rows: slice, *, whole_pool: bool) -> Inputs:
    """Return the inputs of some prompts: each draws the donors and the noise that it draws among all.

    Parameters
    ----------
    inputs
        Those of all prompts.
    rows
        Which.
    whole_pool
        Keep every prompt of the pool, for means and standard deviations; else the donors alone.
    """
    first, last, _ = rows.indices(len(inputs.ids))
    if last - first == len(inputs.ids):
        return inputs
    own = replace(
        inputs,
        ids=inputs.ids[rows],
        spans=inputs.spans[rows],
        targets=None if inputs.targets is None else inputs.targets[rows],
        pairs={name: part(pair, rows, whole_pool=True) for name, pair in inputs.pairs.items()},
        vectors={name: vector if vector.dim() == 1 else vector[rows] for name, vector in inputs.vectors.items()},
        donors=None if inputs.donors is None else inputs.donors[rows],
        first=inputs.first + first,
    )
    pool = Inputs(inputs.ids, spans=inputs.spans) if inputs.pool is None else inputs.pool
    if whole_pool:
        return replace(own, pool=pool)
    if own.donors is None:
        return replace(own, pool=None)
    members = np.unique(own.donors[own.donors >= 0])
    # Numbers in the pool become numbers among the donors; missing ones stay -1.
    local = np.where(own.donors < 0, -1, np.searchsorted(members, own.donors))
    chosen = members.tolist()
    spans = tuple(pool.spans[one] for one in chosen) if pool.spans else ()
    return replace(own, pool=Inputs(tuple(pool.ids[one] for one in chosen), spans=spans), donors=local)


def check(mechanisms: "Mechanisms", plan: Plan, inputs: Inputs) -> None:
    """Check that a plan can be run on these inputs; nothing is run.

    Raises
    ------
    PromptError
        If a prompt is empty, longer than the model's context or of another vocabulary, or if its donors or
        pairs are missing or do not fill the positions that they must fill; the prompt is named.
    UnknownNameError
        If a paired prompt or a vector is not given.
    InputError
        If the model is in training mode, the plan was made for other prompts, a vector has the wrong size, or
        a value has no meaning on its node.
    """
    if any(module.training for module in mechanisms.hf.modules()):
        raise InputError("the model is in training mode, so dropout would make it random; call model.eval()")
    for what, given in _sets(inputs):
        for index, ids in enumerate(given.ids):
            _check_prompt(mechanisms, ids, f"{what} {index}")
    if plan.shape.lengths != inputs.shape.lengths:
        raise InputError("the plan was made for prompts of other lengths; plan again with inputs.shape")
    if any(draws_of(world, 2) > 1 for world in plan.worlds) and plan.draws != inputs.count:
        raise InputError(f"the plan has {plan.draws} draws per prompt and the inputs have {inputs.count}; plan again")
    filled: dict[tuple[SiteValue, Position | None], Site] = {}
    for site, value in dict.fromkeys(write for world in plan.worlds for write in world.writes):
        if isinstance(value, Resample | Mean | Patch):
            filled.setdefault((value, site.position), site)
        elif isinstance(value, Noise):
            _check_noise(inputs, site)
        elif isinstance(value, Given | Add | ProjectOut):
            _check_vector(mechanisms, inputs, site, value)
    for (value, _), site in filled.items():
        if isinstance(value, Resample):
            _check_donors(inputs, site)
        elif isinstance(value, Patch):
            _check_pairs(inputs, site, value.name)
        else:
            _check_pool(inputs, site)


def check_tokens(
    mechanisms: "Mechanisms",
    readings: tuple[Reading, ...],
    targets: tuple[int, ...] | None,
    lookup: Callable[[str], int] | None,
) -> None:
    """Check that every token that is read has a logit, and that every vector that is read along is one.

    Raises
    ------
    UnknownNameError, InputError
        If a vector is not given, has the wrong size, is not finite, or is zero.
    ExpressionError
        If an outcome names a token that the vocabulary does not have, or a text and there is no tokenizer.
    PromptError
        If the target of a prompt is no such token.
    """
    size = mechanisms.readout.weight.shape[0]
    for outcome in dict.fromkeys(reading.outcome for reading in readings):
        for token in outcome.tokens:
            if isinstance(token, Along):
                _check_along(mechanisms, token, getattr(lookup, "vectors", {}))
            if isinstance(token, str) and lookup is None:
                raise ExpressionError(explain(f"{token!r} names a token, but no tokenizer was given"))
            number = lookup(token) if isinstance(token, str) and lookup is not None else token
            if isinstance(number, int) and not 0 <= number < size:
                raise ExpressionError(f"{outcome}: there is no token {number}; the model has {size} logits")
    for prompt, target in enumerate(targets or ()):
        if not 0 <= target < size:
            raise PromptError(f"prompt {prompt}: its target is token {target}, and the model has {size} logits")


def _check_along(mechanisms: "Mechanisms", token: Along, vectors: "Mapping[str, torch.Tensor]") -> None:
    if token.name not in vectors:
        mend = f'give vectors={{"{token.name}": v}}'
        raise UnknownNameError(explain(f"{token}: no vector of that name", legal=vectors, got=token.name, mend=mend))
    vector = vectors[token.name]
    if tuple(vector.shape) != (mechanisms.width,):
        raise InputError(f"{token}: the vector has shape {tuple(vector.shape)}; legal: ({mechanisms.width},)")
    if not bool(vector.isfinite().all()) or not bool(vector.any()):
        state = "zero" if bool(vector.isfinite().all()) else "not finite"
        raise InputError(f"{token}: the vector is {state}, so it has no direction")


def _sets(inputs: Inputs) -> Iterator[tuple[str, Inputs]]:
    yield "prompt", inputs
    if inputs.pool is not None:
        yield "donor", inputs.pool
    for name, pair in inputs.pairs.items():
        yield f"pair {name!r} of prompt", pair


def _check_prompt(mechanisms: "Mechanisms", ids: tuple[int, ...], where: str) -> None:
    if not ids:
        raise PromptError(f"{where}: no tokens; an empty prompt has no last position")
    if mechanisms.context is not None and len(ids) > mechanisms.context:
        raise PromptError(explain(f"{len(ids)} tokens, but the model's context is {mechanisms.context}", where=where))
    strange = next((token for token in ids if not 0 <= token < mechanisms.vocab), None)
    if strange is not None:
        what = f"token id {strange}, but the model has {mechanisms.vocab} tokens"
        raise PromptError(explain(what, where=where, mend="use the tokenizer that belongs to the model"))


def _pool(inputs: Inputs) -> tuple[Inputs, str]:
    """Return where donors come from, and how one of them is called."""
    return (inputs, "prompt") if inputs.pool is None else (inputs.pool, "donor")


def _count(given: Inputs, index: int, site: Site, what: str) -> int:
    return len(given.columns(index, site.position, f"{what} {index}"))


def _check_count(site: Site, prompt: int, needed: int, has: int, who: str) -> None:
    if has != needed:
        mend = "name one position (@last), or use prompts of equal length"
        what = f"{site} covers {needed} tokens, but {who} has {has} there"
        raise PromptError(explain(what, where=f"prompt {prompt}", mend=mend))


def _check_donors(inputs: Inputs, site: Site) -> None:
    if inputs.donors is None:
        raise InputError(f"{site} = resample: no donors were chosen")
    if len(inputs.donors) != len(inputs.ids):
        raise InputError(f"donors are chosen for {len(inputs.donors)} prompts, and there are {len(inputs.ids)}")
    pool, what = _pool(inputs)
    has = [_count(pool, donor, site, what) for donor in range(len(pool.ids))]
    for prompt, row in enumerate(inputs.donors.tolist()):
        chosen = [donor for donor in row if donor >= 0]
        if not chosen:
            mend = "add prompts to the pool, or allow donors with the same target"
            raise PromptError(explain("there is no donor for it", where=f"prompt {prompt}", mend=mend))
        if max(chosen) >= len(has):
            message = f"donor {max(chosen)} was chosen, and the pool has {len(has)} prompts"
            raise PromptError(explain(message, where=f"prompt {prompt}"))
        if not isinstance(site.position, At):  # one token is one token everywhere
            needed = len(inputs.columns(prompt, site.position))
            for donor in chosen:
                _check_count(site, prompt, needed, has[donor], f"donor {donor}")


def _check_pool(inputs: Inputs, site: Site) -> None:
    """Check that the mean is taken over something at every place that it fills."""
    pool, what = _pool(inputs)
    longest = max((_count(pool, donor, site, what) for donor in range(len(pool.ids))), default=0)
    for prompt in range(len(inputs.ids)):
        needed = len(inputs.columns(prompt, site.position))
        if needed > longest:
            message = f"{site} covers {needed} tokens, but the longest prompt of the donor pool has {longest} there"
            raise PromptError(explain(message, where=f"prompt {prompt}", mend="add longer prompts to the pool"))


def _check_noise(inputs: Inputs, site: Site) -> None:
    if site.node.kind == "head":
        raise InputError(f"{site} = noise: noise on a head is not defined; set noise on its attn node")
    pool, what = _pool(inputs)
    values = sum(_count(pool, donor, site, what) for donor in range(len(pool.ids)))
    if values < 1 + (site.node.kind == "norm"):
        raise InputError(f"{site} = noise: its size is in standard deviations over the pool, which has too few values")


def _check_pairs(inputs: Inputs, site: Site, name: str) -> None:
    _check_name("patch", name, inputs.pairs, "paired prompts")
    pair = inputs.pairs[name]
    if len(pair.ids) != len(inputs.ids):
        raise InputError(f'patch("{name}"): {len(pair.ids)} paired prompts for {len(inputs.ids)} prompts')
    for prompt in range(len(inputs.ids)):
        has = _count(pair, prompt, site, f"pair {name!r} of prompt")
        _check_count(site, prompt, len(inputs.columns(prompt, site.position)), has, f"its paired prompt {name!r}")


def _check_vector(mechanisms: "Mechanisms", inputs: Inputs, site: Site, value: Given | Add | ProjectOut) -> None:
    what = {Given: "value", Add: "add", ProjectOut: "project_out"}[type(value)]
    _check_name(what, value.name, inputs.vectors, "vector")
    if site.node.kind in ("head", "norm"):
        raise InputError(f"{site}: a vector of the residual stream cannot be set on a {site.node.kind} node")
    vector = inputs.vectors[value.name]
    size, legal = tuple(vector.shape), ((mechanisms.width,), (len(inputs.ids), mechanisms.width))
    if size not in legal:
        raise InputError(f"vector {value.name!r} has shape {size}; legal: {legal[0]} or {legal[1]}")
    if not bool(vector.isfinite().all()):
        raise InputError(f"vector {value.name!r} has entries that are NaN or infinite")
    if isinstance(value, ProjectOut) and not bool(vector.reshape(-1, mechanisms.width).any(-1).all()):
        raise InputError(f"vector {value.name!r} is zero, so it has no direction to project out")


def _check_name(what: str, name: str, given: Mapping[str, object], kind: str) -> None:
    if name not in given:
        raise UnknownNameError(explain(f'{what}("{name}"): no {kind} of that name', legal=given, got=name))
