"""What a caller may choose about an evaluation."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from causalnet.errors import InputError, explain
from causalnet.prompts import Prompts

__all__ = ["RANDOM", "TARGETS", "Options"]

TARGETS = ("argmax", "answer")
RANDOM = "random"


@dataclass(frozen=True, eq=False)
class Options:
    """What a caller may choose about an evaluation.

    Parameters
    ----------
    donors
        Donors (or noise draws) per prompt.
    pool
        None: donors are the other prompts, and intervals are conditional on them.  Prompts: donors (and
        means) come from these.  ``"random"``: donors are the other prompts, and intervals cover them too.
    seed
        Of donors, noise and resampling.
    target
        What ``target`` means: the natural world's ``"argmax"``, or the prompts' ``"answer"``.
    vectors
        Vectors [d_model] or [prompt, d_model] by name, for ``value``, ``add`` and ``project_out``; [d_model]
        for ``projection``.
    level
        Confidence level.
    strata
        Name of a feature that donors must share with their prompt; None: no such rule.
    same_target_donors
        Allow donors whose target equals the prompt's.

    Examples
    --------
    >>> Options(donors=3).recorded()["given"]
    {'donors': 3}
    """

    donors: int = 15
    pool: Prompts | str | None = None
    seed: int = 0
    target: str = "argmax"
    vectors: Mapping[str, Any] = field(default_factory=dict)
    level: float = 0.95
    strata: str | None = None
    same_target_donors: bool = False

    def __post_init__(self) -> None:
        for name, least in (("donors", 1), ("seed", 0)):
            given = getattr(self, name)
            whole = not isinstance(given, bool) and hasattr(type(given), "__index__")
            if not whole or operator.index(given) < least:
                raise InputError(f"{name} must be a whole number of at least {least}, not {given!r}")
        if self.target not in TARGETS:
            raise InputError(explain(f"unknown target {self.target!r}", legal=TARGETS, got=str(self.target)))
        if not (self.pool is None or self.pool == RANDOM or isinstance(self.pool, Prompts)):
            mend = 'give Prompts to draw donors from, "random" to let intervals cover the donors, or nothing'
            raise InputError(explain(f"unknown donor pool {self.pool!r}", mend=mend))
        if not isinstance(self.level, int | float) or not 0 < self.level < 1:
            raise InputError(f"level must lie between 0 and 1, not {self.level!r}")
        if not isinstance(self.vectors, Mapping):
            raise InputError(f"vectors must map names to vectors, not {type(self.vectors).__name__}")

    @property
    def separate(self) -> Prompts | None:
        """The prompts that donors come from, where they are not the prompts themselves."""
        return self.pool if isinstance(self.pool, Prompts) else None

    def recorded(self) -> dict[str, dict[str, Any]]:
        """Return the options that were given, and those left at their defaults, as plain values."""
        plain = {
            "donors": int(self.donors),
            "pool": repr(self.pool) if isinstance(self.pool, Prompts) else self.pool,
            "seed": int(self.seed),
            "target": self.target,
            "vectors": sorted(self.vectors),
            "level": self.level,
            "strata": self.strata,
            "same_target_donors": self.same_target_donors,
        }
        defaults = {one.name: one.default for one in fields(self)} | {"vectors": []}
        given = {name for name, value in plain.items() if value != defaults[name]}
        return {
            "given": {name: value for name, value in plain.items() if name in given},
            "defaulted": {name: value for name, value in plain.items() if name not in given},
        }
