"""What a reader may choose about the study, checked when it is said."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from causalnet.errors import InputError, explain
from causalnet.expr import Outcome, Position, Query, parse
from causalnet.expr.outcomes import Along
from causalnet.expr.query import Expectation
from causalnet.expr.values import MEAN, RESAMPLE, ZERO, Noise, SiteValue

__all__ = ["ABLATIONS", "Arm", "Options", "along", "bytes_of", "outcome_of", "position_of"]

ABLATIONS: Mapping[str, SiteValue] = {"resample": RESAMPLE, "zero": ZERO, "mean": MEAN, "noise": Noise(1.0)}
"""What a node can be set to in this study; ``noise`` adds one standard deviation of the node's own values."""

_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True)
class Arm:
    """One model of the study.

    Parameters
    ----------
    name
        Name of its folder in a run of several models; empty: the model's own name.
    model
        A checkpoint folder or hub name.

    Examples
    --------
    >>> Arm("plain", "path/to/checkpoint").name
    'plain'
    """

    name: str
    model: str


@dataclass(frozen=True)
class Options:
    """What a reader may choose; every field is recorded in the run.

    Parameters
    ----------
    ablation
        A key of :data:`ABLATIONS`, or several with commas: the first is the main one, the others are variants.
    donors
        Donors per prompt (resample), or draws of noise.
    limit
        Use the first so many prompts; None: all.
    seed
        Of donors, noise and all resampling.
    device, dtype
        Where and in which precision the model runs.
    same_target_donors
        Allow donors whose target equals the prompt's.
    positions
        Further positions that nodes are set at, such as ``-2``, ``0``, ``3:6`` or ``subject``; each is a variant.
    outcomes
        Further outcomes, such as ``logit_diff(" Mary", " John")``; each is a variant.
    vectors
        Files of the vectors that outcomes such as ``projection("truth")`` name, as ``truth=FILE``.
    heads
        Set every head as well, as a variant.
    frozen_norm
        Add the variant in which the final norm keeps its natural scale.
    strata
        Features of the prompts (``length``: the number of tokens) by whose values the data are split.
    cuts
        Cut each text at so many places, drawn by the seed, into prompts whose answer is the next token.
    cut_at
        Cut each text after these numbers of tokens.
    correct_only
        Keep the prompts whose most likely token is their answer's first, in every model.
    single_token_answers
        Keep the prompts whose answer is one token.
    relations
        Keep the prompts of these relations.
    joint
        Ablate up to so many nodes together, chosen greedily.
    responsible
        Nodes whose responsibility for the most likely token, and smallest witnesses, are searched for.
    checkpoints
        A folder of checkpoints of the same model over training; each is a variant.
    chunk
        Prompts per chunk of the store; None: as many as make a chunk worth its overhead.
    memory
        Bytes for results and activations, beside the model's weights, such as ``2GiB``.

    Raises
    ------
    InputError
        If something is unknown or a number is too small.

    Examples
    --------
    >>> Options(ablation="zero", limit=100).recorded()["given"]
    {'ablation': 'zero', 'limit': 100}
    >>> Options(ablation="resample,zero").ablations
    ('resample', 'zero')
    """

    ablation: str = "resample"
    donors: int = 15
    limit: int | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    same_target_donors: bool = False
    positions: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    vectors: tuple[str, ...] = ()
    heads: bool = False
    frozen_norm: bool = False
    strata: tuple[str, ...] = ()
    cuts: int | None = None
    cut_at: tuple[int, ...] = ()
    correct_only: bool = False
    single_token_answers: bool = False
    relations: tuple[str, ...] = ()
    joint: int | None = None
    responsible: tuple[str, ...] = ()
    checkpoints: str = ""
    chunk: int | None = None
    memory: str = "2GiB"

    def __post_init__(self) -> None:
        for kind in self.ablations:
            if kind not in ABLATIONS:
                raise InputError(explain(f"unknown ablation {kind!r}", legal=ABLATIONS, got=kind))
        for name, least in (("donors", 1), ("limit", 1), ("seed", 0), ("cuts", 1), ("joint", 1), ("chunk", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; it must be at least {least}")
        if self.cuts is not None and self.cut_at:
            raise InputError("texts are cut at drawn places or at given ones, not both")
        for name in ("ablations", "positions", "outcomes", "strata", "responsible"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise InputError(f"{name.removesuffix('s')} names the same thing twice: {', '.join(given)}")
        for text in self.positions:
            position_of(text)
        self._check_vectors()
        bytes_of(self.memory)

    def _check_vectors(self) -> None:
        """Refuse an outcome that names a vector which is not given; the files are read later."""
        named = [(text, name) for text in self.outcomes for name in along(outcome_of(text))]
        if not named and not self.vectors:
            return
        from causalnet.effects.vectors import named_files

        files = named_files(self.vectors)
        for text, name in named:
            if name not in files:
                mend = f"give --vector {name}=FILE"
                raise InputError(explain(f"{text}: no vector {name!r} is given", legal=files, got=name, mend=mend))

    @property
    def ablations(self) -> tuple[str, ...]:
        """The kinds of ablation, the main one first."""
        return tuple(self.ablation.split(","))

    def recorded(self) -> dict[str, Any]:
        """Return the options as given and as defaulted."""
        defaults = {option.name: option.default for option in fields(self)}
        chosen = asdict(self)
        return {
            "given": {name: value for name, value in chosen.items() if value != defaults[name]},
            "defaulted": {name: value for name, value in chosen.items() if value == defaults[name]},
        }


def bytes_of(text: str) -> int:
    """Return a size in bytes.

    Raises
    ------
    InputError
        If the text is no size.

    Examples
    --------
    >>> bytes_of("2GiB"), bytes_of("512 MiB"), bytes_of("8000000")
    (2147483648, 536870912, 8000000)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if found is None or found[2].lower() not in _UNITS:
        mend = "write a number of bytes, or 512MiB, 2GiB"
        raise InputError(explain(f"memory {text!r} is no size", mend=mend))
    size = int(float(found[1]) * _UNITS[found[2].lower()])
    if size < 2**20:
        raise InputError(f"memory {text!r} is less than 1MiB")
    return size


def position_of(text: str) -> Position:
    """Return the position that a text names, as in a do-expression but for the ``@``.

    Raises
    ------
    ExpressionError
        If it names none.

    Examples
    --------
    >>> str(position_of("-2")), str(position_of("subject")), str(position_of("3:6"))
    ('@-2', '@subject', '@3:6')
    """
    read = _only(parse(f"E[logit(target) | do(embed@{text.removeprefix('@')} = zero)]"))
    found = None if read.do is None else read.do.assignments[0].target.position  # type: ignore[union-attr]
    if found is None:
        raise InputError(f"position {text!r} names no position")
    return found


def outcome_of(text: str) -> Outcome:
    """Return the outcome that a text names, as in a do-expression.

    Raises
    ------
    ExpressionError
        If it names none.

    Examples
    --------
    >>> outcome_of('logit_diff(" Mary", " John")').tokens
    (' Mary', ' John')
    """
    return _only(parse(f"E[{text}]")).outcome


def along(outcome: Outcome | None) -> tuple[str, ...]:
    """Return the names of the vectors that an outcome reads along.

    Examples
    --------
    >>> along(outcome_of('projection("truth")')), along(None)
    (('truth',), ())
    """
    return () if outcome is None else tuple(one.name for one in outcome.tokens if isinstance(one, Along))


def _only(query: Query) -> Expectation:
    body = query.terms[0].body
    if len(query.terms) > 1 or not isinstance(body, Expectation):
        raise InputError(f"{query} is more than one outcome or position")
    return body
