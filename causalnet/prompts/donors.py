"""Which other prompts a prompt's resampled activations come from."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from causalnet.errors import PromptError, explain
from causalnet.prompts.prompt import shorten

__all__ = ["DonorPool", "choose_donors"]

# Keeps the donors' random numbers apart from those of other parts that use the same seed.
STREAM = 0x646F6E6F72


@dataclass(frozen=True)
class DonorPool:
    """What must be known of the prompts that donors are drawn from.

    Parameters
    ----------
    targets [donor]
        Target token of each.
    lengths [donor]
        Number of tokens of each; needed where donors must have the prompt's length.
    strata [donor]
        A value of a prompt feature for each; needed where donors must share it.
    keys [donor]
        What identifies each (its token ids, say); a donor whose key equals the prompt's is never drawn.

    Examples
    --------
    >>> choose_donors([7], donors=2, seed=0, pool=DonorPool(targets=[7, 8])).tolist()
    [[1, -1]]
    """

    targets: Sequence[int]
    lengths: Sequence[int] | None = None
    strata: Sequence[Hashable] | None = None
    keys: Sequence[Hashable] | None = None


def choose_donors(
    targets: Sequence[int],
    lengths: Sequence[int] | None = None,
    *,
    donors: int,
    seed: int,
    exclude_same_target: bool = True,
    same_length: bool = False,
    strata: Sequence[Hashable] | None = None,
    keys: Sequence[Hashable] | None = None,
    pool: DonorPool | None = None,
    rows: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> npt.NDArray[np.int64]:
    """Draw donors for each prompt, without replacement, never the prompt itself.

    An effect that is averaged over these donors is conditional on the donor pool: it estimates
    the mean over the eligible donors *of this pool*, and an interval over prompts that keeps
    their donors says nothing about other pools.

    Each prompt's donors are those with the smallest of random keys that depend on the seed, the
    prompt's index and the donor's index alone. So the draw does not depend on which ``rows`` are
    asked for together; the first k donors are the same however many are asked for; and a
    stricter rule only takes donors out of the order, it does not deal anew.

    Parameters
    ----------
    targets [prompt]
        Target token of each prompt.
    lengths [prompt]
        Number of tokens of each prompt; needed for ``same_length``.
    donors
        How many donors each prompt gets, at most.
    seed
        A whole number, 0 or larger.
    exclude_same_target
        Leave out donors whose target equals the prompt's: they would not remove what is measured.
    same_length
        Only donors with as many tokens as the prompt.
    strata [prompt]
        Only donors with an equal value.
    keys [prompt]
        What identifies each prompt; donors with an equal key (copies of the prompt) are left out.
    pool
        Where donors come from, if not from the prompts themselves; the index is then into the pool.
    rows
        The prompts to draw for; all by default. Row i of the result belongs to ``rows[i]``.
    names [prompt]
        What to call the prompts in messages.

    Returns
    -------
    numpy.ndarray [prompt, donor]
        Index of each donor; -1 at the end of a row where fewer are eligible than asked.

    Raises
    ------
    PromptError
        If a prompt has no eligible donor (it is named, with the reasons), or an argument is wrong.

    Examples
    --------
    >>> index = choose_donors([7, 7, 8, 9], donors=3, seed=0)
    >>> index.shape, sorted(index[0].tolist())
    ((4, 3), [-1, 2, 3])
    >>> fewer = choose_donors([7, 7, 8, 9], donors=2, seed=0)
    >>> (index[:, :2] == fewer).all().item()
    True
    """
    _check_counts(donors, seed)
    if not len(targets):
        raise PromptError(explain("no prompts were given", mend="give at least one"))
    own = DonorPool(targets, lengths, strata, keys)
    source = own if pool is None else pool
    _check_sizes(own, "prompts")
    _check_sizes(source, "pool")
    rules = []
    if exclude_same_target:
        rules.append(_rule("the same target", own, source, "targets", keep_equal=False))
    if same_length:
        rules.append(_rule("another length", own, source, "lengths", keep_equal=True))
    if strata is not None:
        rules.append(_rule("another stratum", own, source, "strata", keep_equal=True))
    if keys is not None and source.keys is not None:
        rules.append(_rule("the same text", own, source, "keys", keep_equal=False))
    chosen = range(len(targets)) if rows is None else [int(row) for row in rows]
    result = np.full((len(chosen), donors), -1, dtype=np.int64)
    for row, prompt in enumerate(chosen):
        if not 0 <= prompt < len(targets):
            raise PromptError(explain(f"there is no prompt {prompt}", mend=f"rows are 0 to {len(targets) - 1}"))
        eligible = np.ones(len(source.targets), dtype=bool)
        if pool is None:
            eligible[prompt] = False
        for rule in rules:
            eligible &= (rule.pool == rule.own[prompt]) == rule.keep_equal
        if not eligible.any():
            name = f"prompt {prompt}" + (f" {shorten(names[prompt])}" if names is not None else "")
            raise PromptError(_why_none(name, prompt, rules, len(eligible), itself=pool is None))
        drawn = _smallest(seed, prompt, eligible, donors)
        result[row, : len(drawn)] = drawn
    return result


class _Rule(NamedTuple):
    """A condition on donors: values coded as numbers, to be equal or unequal to the prompt's."""

    reason: str
    own: npt.NDArray[np.int64]
    pool: npt.NDArray[np.int64]
    keep_equal: bool


def _rule(reason: str, own: DonorPool, source: DonorPool, what: str, *, keep_equal: bool) -> _Rule:
    codes: dict[Hashable, int] = {}
    sides = []
    for side, whose in ((own, "prompts"), (source, "pool")):
        values = getattr(side, what)
        if values is None:
            raise PromptError(explain(f"the {what} of the {whose} are needed and missing", mend=f"give {what}"))
        # Elements of tensors are hashed by identity: equal ones would pass for different.
        plain = [value.item() if hasattr(value, "item") else value for value in values]
        coded = [codes.setdefault(value, len(codes)) for value in plain]
        sides.append(np.asarray(coded, dtype=np.int64))
    return _Rule(reason, sides[0], sides[1], keep_equal)


def _smallest(seed: int, prompt: int, eligible: npt.NDArray[np.bool_], donors: int) -> npt.NDArray[np.int64]:
    """Return the eligible indices with the smallest random keys, in the order of their keys."""
    generator = np.random.default_rng(np.random.SeedSequence((STREAM, int(seed), prompt)))
    candidates = np.flatnonzero(eligible)
    keys = generator.random(len(eligible))[candidates]
    if donors < len(candidates):  # a full sort of a large pool for a few donors is wasted
        first = np.argpartition(keys, donors - 1)[:donors]
        candidates, keys = candidates[first], keys[first]
    return candidates[np.argsort(keys, kind="stable")]


def _why_none(name: str, prompt: int, rules: list[_Rule], size: int, *, itself: bool) -> str:
    others = size - 1 if itself else size
    if others == 0:
        what = "there is no other prompt to draw donors from" if itself else "the donor pool is empty"
        mend = "give more prompts, a donor pool, or an ablation that needs no donors (zero, mean)"
        return explain(what, where=name, mend=mend)
    counts = []
    for rule in rules:
        excluded = (rule.pool == rule.own[prompt]) != rule.keep_equal
        if itself:
            excluded[prompt] = False
        if excluded.any():
            counts.append(f"{int(excluded.sum())} with {rule.reason}")
    noun = "prompt" if others == 1 else "prompts"
    what = f"has no eligible donor: of {others} {'other ' if itself else ''}{noun}, {', '.join(counts)}"
    return explain(what, where=name, mend="give more prompts, loosen the rule, or ablate by zero or mean")


def _check_counts(donors: Any, seed: Any) -> None:
    for what, value, least in (("donors", donors, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise PromptError(explain(f"{what} must be a whole number of at least {least}, got {value!r}"))


def _check_sizes(side: DonorPool, whose: str) -> None:
    if any(target is None for target in side.targets):
        raise PromptError(explain(f"some target of the {whose} is missing", mend="give each a target token"))
    for what in ("lengths", "strata", "keys"):
        values = getattr(side, what)
        if values is not None and len(values) != len(side.targets):
            message = f"{len(side.targets)} targets but {len(values)} {what} of the {whose}"
            raise PromptError(explain(message, mend="give one for each"))
