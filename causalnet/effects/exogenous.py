"""What is exogenous to a query: tokens, spans, paired prompts, targets, donors, vectors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from causalnet.effects.options import Options
from causalnet.effects.sweep import find_targets
from causalnet.effects.vectors import as_vector
from causalnet.engine.sources import Inputs
from causalnet.errors import PromptError, explain
from causalnet.expr.positions import Position, Span, indices
from causalnet.expr.values import Mean, Noise, Patch, Resample
from causalnet.expr.world import World
from causalnet.model.mechanism import Mechanisms
from causalnet.prompts import DonorPool, Encoded, Prompts, choose_donors, encode
from causalnet.prompts.prompt import place

__all__ = ["Exogenous"]


@dataclass(eq=False)
class Exogenous:
    """Builds the engine's inputs for queries on prompts; what they share is made once.

    Parameters
    ----------
    mechanisms, tokenizer
        The model.
    prompts, options
        The prompts, and what was chosen about donors, targets and vectors.
    worlds
        Every world that is run, nested ones too: they say which spans, pairs and donors are needed.
    positions
        Where outcomes are read.
    """

    mechanisms: Mechanisms
    tokenizer: Any
    prompts: Prompts
    options: Options
    worlds: Sequence[World]
    positions: Sequence[Position]

    def __post_init__(self) -> None:
        self.writes = [write for world in self.worlds for write in world.writes]
        spans = _span_names([*(site.position for site, _ in self.writes), *self.positions])
        pairs = {value.name for _, value in self.writes if isinstance(value, Patch)}
        self.by_answer = self.options.target == "answer"
        self.encoded = self._encode(_with_pairs(self.prompts, pairs), spans, "require" if self.by_answer else "ignore")
        self.base = Inputs(
            self.encoded.ids,
            spans=_ranges(self.encoded, spans),
            targets=self.encoded.answers() if self.by_answer else None,
            pairs={name: self._pair(name) for name in sorted(pairs)},
            vectors={name: as_vector(name, given) for name, given in self.options.vectors.items()},
            seed=int(self.options.seed),
        )
        self.pool: Encoded | None = None
        if self.options.separate is not None:
            drawn = _span_names(s.position for s, value in self.writes if isinstance(value, Resample | Mean | Noise))
            pool = _with_pairs(self.options.separate, ())
            self.pool = self._encode(pool, drawn, "read" if self.by_answer else "ignore")
            own = Inputs(self.pool.ids, spans=_ranges(self.pool, drawn))
            self.base = replace(self.base, pool=own)
            self._check_means(own)
        self.natural: tuple[list[int], list[int] | None] | None = None

    def fixed(self) -> Inputs:
        """Return inputs for queries that draw nothing."""
        return self.base

    def noisy(self) -> Inputs:
        """Return inputs for queries that draw noise and no donors."""
        return replace(self.base, draws=int(self.options.donors))

    def with_donors(self, *, same_length: bool) -> Inputs:
        """Return inputs with donors for every prompt; a prompt without any raises."""
        return replace(self.base, donors=self._donors(same_length=same_length))

    def as_if_with_donors(self) -> Inputs:
        """Return inputs without donors but with as many draws as there could be, to plan by."""
        others = len(self.prompts) - 1 if self.pool is None else len(self.pool)
        return replace(self.base, draws=max(1, min(int(self.options.donors), others)))

    def _encode(self, prompts: Prompts, spans: Sequence[str], answers: Any) -> Encoded:
        model = self.mechanisms
        return encode(
            prompts, self.tokenizer, context=model.context, vocab_size=model.vocab, spans=spans, answers=answers
        )

    def _pair(self, name: str) -> Inputs:
        paired = self.encoded.pair(name)
        names = _span_names(site.position for site, value in self.writes if value == Patch(name))
        return Inputs(paired.ids, spans=_ranges(_with_replaced(paired, self.encoded, names), names))

    def _check_means(self, pool: Inputs) -> None:
        """Refuse a mean at places that no prompt of a separate pool has."""
        for site in dict.fromkeys(site for site, value in self.writes if isinstance(value, Mean)):
            there = max(_count(pool, donor, site.position, "pool") for donor in range(len(pool.ids)))
            for prompt in range(len(self.base.ids)):
                here = _count(self.base, prompt, site.position, "prompt")
                if here > there:
                    what = f"{site} = mean covers {here} tokens, but no prompt of the pool has more than {there} there"
                    mend = "give the pool longer prompts, or name one position (@last)"
                    raise PromptError(explain(what, where=place(self.prompts[prompt], prompt), mend=mend))

    def _donors(self, *, same_length: bool) -> np.ndarray:
        targets, of_pool = self._targets()
        strata, pool = self.options.strata, None
        if self.pool is not None:
            assert of_pool is not None, "the targets of a separate pool are found with those of the prompts"
            shared = None if strata is None else self.pool.prompts.feature(strata)
            pool = DonorPool(of_pool, self.pool.lengths, shared, self.pool.ids)
        donors = choose_donors(
            targets,
            self.encoded.lengths,
            donors=int(self.options.donors),
            seed=int(self.options.seed),
            exclude_same_target=not self.options.same_target_donors,
            same_length=same_length,
            strata=None if strata is None else self.prompts.feature(strata),
            keys=self.encoded.ids,
            pool=pool,
            names=list(self.prompts.texts),
        )
        return donors[:, : int((donors >= 0).sum(1).max())]

    def _targets(self) -> tuple[list[int], list[int] | None]:
        """Return the target of each prompt and of each donor in a separate pool, for the rule against equal ones."""
        if self.natural is None:
            own = find_targets(self.mechanisms, replace(self.base, pool=None)).tolist()
            other = None
            if self.pool is not None and self.base.pool is not None:
                answers = self.pool.answer_ids
                if not self.by_answer or None in answers:
                    top = find_targets(self.mechanisms, self.base.pool).tolist()
                    answers = [a if a is not None and self.by_answer else t for a, t in zip(answers, top, strict=True)]
                other = [int(answer) for answer in answers if answer is not None]
            self.natural = own, other
        return self.natural


def _count(inputs: Inputs, prompt: int, position: Position | None, what: str) -> int:
    return len(indices(position, len(inputs.ids[prompt]), inputs.span(prompt), where=f"{what} {prompt}"))


def _span_names(positions: Iterable[Position | None]) -> list[str]:
    return sorted({position.name for position in positions if isinstance(position, Span)})


def _ranges(encoded: Encoded, names: Sequence[str]) -> tuple[dict[str, tuple[int, int]], ...]:
    """Return the token ranges of the named spans [prompt]; a span that is missing raises, with its prompt."""
    if not names:
        return ()
    found = {name: encoded.span(name) for name in names}
    return tuple({name: found[name][prompt] for name in names} for prompt in range(len(encoded)))


def _with_replaced(paired: Encoded, own: Encoded, names: Sequence[str]) -> Encoded:
    """Locate spans that paired prompts do not have: where they equal the prompt but for the span, it is known."""
    spans = dict(paired.spans)
    for name in names:
        there = spans.get(name, (None,) * len(own))
        spans[name] = tuple(
            _replaced(own.ids[prompt], paired.ids[prompt], at) if found is None else found
            for prompt, (found, at) in enumerate(zip(there, own.span(name), strict=True))
        )
    problems = {name: why for name, why in paired.span_problems.items() if name in spans and None in spans[name]}
    return replace(paired, spans=spans, span_problems=problems)


def _replaced(own: Sequence[int], other: Sequence[int], at: tuple[int, int]) -> tuple[int, int] | None:
    start, after = at[0], len(own) - at[1]
    stop = len(other) - after
    same = start < stop and own[:start] == other[:start] and own[at[1] :] == other[stop:]
    return (start, stop) if same else None


def _with_pairs(prompts: Prompts, names: Iterable[str]) -> Prompts:
    """Keep only the paired prompts that are used: what is not asked for is not checked."""
    kept = set(names)
    items = tuple(
        replace(one, pairs={name: pair for name, pair in one.pairs.items() if name in kept}) if one.pairs else one
        for one in prompts
    )
    return replace(prompts, items=items)
