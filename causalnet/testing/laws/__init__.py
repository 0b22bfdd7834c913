"""The laws of structural causal models, and of causalnet, as checks that can fail.

A new law is one :class:`Law` in one of the modules here and one line in :data:`LAWS`.
"""

from causalnet.errors import UnknownNameError, explain
from causalnet.testing.laws.graphs import EDGES, LOCALITY, POSITIONS, RULE_3, SCREENING
from causalnet.testing.laws.language import LANGUAGE
from causalnet.testing.laws.law import Case, Finding, Law
from causalnet.testing.laws.numbers import BATCH, CLOSED_FORM, COVERAGE, IDENTITIES, PLAN
from causalnet.testing.laws.sets import OUT_EDGES, SETS
from causalnet.testing.laws.values import COMPOSITION, EFFECTIVENESS, NULL

__all__ = ["LAWS", "Case", "Finding", "Law", "law"]

LAWS: dict[str, Law] = {
    one.name: one
    for one in (
        NULL,
        COMPOSITION,
        EFFECTIVENESS,
        LOCALITY,
        SCREENING,
        RULE_3,
        EDGES,
        POSITIONS,
        SETS,
        OUT_EDGES,
        PLAN,
        BATCH,
        IDENTITIES,
        LANGUAGE,
        CLOSED_FORM,
        COVERAGE,
    )
}
"""Every law by name, in the order in which reports list them."""


def law(name: str) -> Law:
    """Return a law by its name.

    Raises
    ------
    UnknownNameError
        If there is no such law.

    Examples
    --------
    >>> law("rule_3").number, law("plan").needs
    (6, 'model')
    """
    if name not in LAWS:
        raise UnknownNameError(explain(f"unknown law {name!r}", legal=LAWS, got=name))
    return LAWS[name]
