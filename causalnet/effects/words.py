"""In which words and units the numbers of an outcome are told: by summaries, figures and reports alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from causalnet.effects.fields import ESTIMAND, SIGN, UNITS, Variable
from causalnet.errors import ExpressionError
from causalnet.expr import parse
from causalnet.expr.outcomes import LINEAR, LOGITS, OUTCOMES, TARGET, Outcome

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "USUAL",
    "OutcomeWords",
    "effect_units",
    "estimand_of",
    "meaning",
    "read_in",
    "short_unit",
    "sign_of",
    "words_of",
]

USUAL = ("logit(target)", "precap_logit(target)")
"""What is read unless something else is asked for; the latter where a soft-cap comes last."""

_SHORT = {OUTCOMES["top1"][1]: "share of prompts", OUTCOMES["sigma"][1]: "scale"}
"""Units that cannot be cut at their first bracket; the mean of a yes or no over prompts is a share."""


_COUNTED = ("logits", "nats", "places", "residual units")
"""Units that a number can stand before."""


def effect_units(outcome: Outcome) -> str:
    """Return the units of effects on an outcome.

    Examples
    --------
    >>> from causalnet.expr.outcomes import kl, logit_diff
    >>> effect_units(logit_diff(" Mary", " John")), effect_units(kl)
    ('logits (natural log units)', 'nats (natural ‖ world)')
    """
    return UNITS if outcome.name in LOGITS else outcome.units


def short_unit(units: str) -> str:
    """Return the unit that stands behind a number.

    Examples
    --------
    >>> short_unit("logits (natural log units)"), short_unit("nats"), short_unit("places (0 = top)")
    ('logits', 'nats', 'places')
    """
    return _SHORT.get(units, units.split(" (", maxsplit=1)[0])


def read_in(expression: str) -> Outcome:
    """Return the outcome that an effect's do-expression reads; the target's logit where the text is no such thing.

    Examples
    --------
    >>> str(read_in("TE(attn[0]@last = zero; logprob(target))")), str(read_in("TE(attn[0]@last = zero)"))
    ('logprob(target)', 'logit(target)')
    """
    try:
        return parse(expression).terms[0].body.outcome
    except ExpressionError:
        return Outcome("logit", (TARGET,))


def estimand_of(outcome: Outcome) -> str:
    """Return what a sweep's numbers estimate, in words.

    Examples
    --------
    >>> from causalnet.expr.outcomes import entropy
    >>> estimand_of(entropy).startswith("total effect (te) on entropy of setting one node, split by worlds")
    True
    """
    if str(outcome) in USUAL:
        return ESTIMAND
    text = ESTIMAND.replace("the target's centred logit", str(outcome))
    if outcome.name in LINEAR:
        return text
    return text.replace("split as", "split by worlds as").replace(
        "at the natural norm",
        "(de: all that is downstream held natural; ce: what its response adds, the norm held; norm: the rest)",
    )


def sign_of(outcome: Outcome) -> str:
    """Return the sign convention, in words."""
    return SIGN if str(outcome) in USUAL else SIGN.replace("promotes the target", f"raises {outcome}")


def meaning(variable: Variable, outcome: Outcome, by_responder: bool = True) -> str:
    """Return what a variable of the schema is where this outcome is read.

    Examples
    --------
    >>> from causalnet.effects.fields import VARIABLES
    >>> from causalnet.expr.outcomes import kl
    >>> meaning(VARIABLES["clean_logit"], kl)
    'kl, nothing set'
    """
    if variable.name == "clean_logit" and str(outcome) not in USUAL:
        return f"{outcome}, nothing set"
    if variable.name == "ce" and not by_responder:
        return "compensatory effect: what the response of all that is downstream adds, the norm held"
    if variable.name == "clean_direct" and outcome.name not in LINEAR:
        return "direct effect of the node, nothing set: minus the direct effect of setting it to zero at the last token"
    return variable.long_name


@dataclass(frozen=True, slots=True)
class OutcomeWords:
    """How the effects on one outcome are told.

    Parameters
    ----------
    outcome
        The outcome, as in a do-expression.
    units, unit
        Its units in full, and as they stand behind a number.
    by_responder
        Whether the compensatory effect is a sum over responders; False where it is known as a whole alone.

    Examples
    --------
    >>> OutcomeWords().quantity, OutcomeWords("logprob(target)", "nats", "nats", False).quantity
    ("the target's logit", 'logprob(target)')
    """

    outcome: str = USUAL[0]
    units: str = UNITS
    unit: str = "logits"
    by_responder: bool = True

    @property
    def usual(self) -> bool:
        """Whether this is the target's logit."""
        return self.outcome in USUAL

    @property
    def quantity(self) -> str:
        """What is affected."""
        return "the target's logit" if self.usual else self.outcome

    def amount(self, number: str) -> str:
        """Say how much of the outcome a written number is.

        Examples
        --------
        >>> OutcomeWords().amount("2.0"), OutcomeWords("kl", "nats", "nats").amount("2.0")
        ('2.0 logits', '2.0 nats of kl')
        """
        if self.usual:
            return f"{number} {self.unit}"
        return f"{number} {self.unit} of {self.outcome}" if self.unit in _COUNTED else f"{number} of {self.outcome}"

    @property
    def removes(self) -> str:
        """What an ablation does where its direct effect is negative."""
        return "removes logit directly" if self.usual else f"lowers {self.outcome} directly"

    @property
    def lose(self) -> str:
        """What nodes do whose direct effect is negative."""
        return "clearly lose logit directly" if self.usual else f"clearly lower {self.outcome} directly when ablated"


def words_of(source: "Mapping[str, Any] | xr.Dataset") -> OutcomeWords:
    """Return the words for a sweep's dataset or for its summary; those of the target's logit where it names no other.

    Examples
    --------
    >>> words_of({"model": "plain"}).unit
    'logits'
    """
    if not hasattr(source, "attrs"):
        summary = cast("Mapping[str, Any]", source)
        units = str(summary.get("units", UNITS))
        outcome, unit = str(summary.get("outcome", USUAL[0])), str(summary.get("unit", short_unit(units)))
        return OutcomeWords(outcome, units, unit, bool(summary.get("by_responder", True)))
    ds = cast("xr.Dataset", source)
    units = str(ds.attrs.get("units", UNITS))
    outcome = str(read_in(str(ds.attrs.get("expression", ""))))
    # Only where nobody can respond is it the numbers that tell: then a sum over responders is 0.
    by_responder = ds.sizes["responder"] > 0 or not bool((ds["ce"].fillna(0) != 0).any())
    return OutcomeWords(outcome, units, short_unit(units), by_responder)
