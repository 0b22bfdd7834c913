"""Outcomes: what is read in a world."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from causalnet.errors import ExpressionError, explain
from causalnet.expr.operators import deeper
from causalnet.expr.positions import LAST, At, Position, Range, Span, quote
from causalnet.expr.refs import REFS, Family, Ref, without_position

if TYPE_CHECKING:
    from causalnet.expr.query import Expectation

__all__ = [
    "LINEAR",
    "LOGITS",
    "OUTCOMES",
    "TARGET",
    "VECTORS",
    "Along",
    "Outcome",
    "Target",
    "Token",
    "direct",
    "entropy",
    "kl",
    "logit",
    "logit_diff",
    "logprob",
    "precap_logit",
    "prob",
    "projection",
    "rank",
    "sigma",
    "target",
    "top1",
]


@dataclass(frozen=True, slots=True)
class Target:
    """``target``: the natural world's most likely token, or the prompts' answer where that is asked for."""

    def __str__(self) -> str:
        return "target"


TARGET = target = Target()


@dataclass(frozen=True, slots=True)
class Along:
    """The vector that a projection reads along, by its name."""

    name: str

    def __str__(self) -> str:
        return f"projection({quote(self.name)})"


Token = Target | str | int | Along
"""Which token is read: ``target``, a string that is one token, or a token's number in the vocabulary; or, in place of
a token's row of the unembedding, a named vector."""

OUTCOMES: dict[str, tuple[int, str]] = {
    "logit": (1, "logits (natural log units, centred over the vocabulary)"),
    "precap_logit": (1, "logits before the soft-cap (natural log units, centred over the vocabulary)"),
    "logit_diff": (2, "logits (natural log units)"),
    "logprob": (1, "nats"),
    "prob": (1, "probability"),
    "rank": (1, "places (0 = top)"),
    "top1": (1, "1 if the token is the most likely one, else 0"),
    "direct": (1, "logits (natural log units, centred over the vocabulary)"),
    "entropy": (0, "nats"),
    "kl": (0, "nats (natural ‖ world)"),
    "sigma": (0, "scale of the final norm"),
}
"""Every outcome: how many tokens it reads, and its units."""

VECTORS: dict[str, str] = {"projection": "residual units (final norm's output along the vector)"}
"""Outcomes that read along a named vector, and their units."""

LOGITS = ("logit", "precap_logit", "logit_diff")
"""Outcomes in logits: linear in the contributions once the norm is held, but for a soft-cap."""

LINEAR = (*LOGITS, *VECTORS)
"""Outcomes that are linear in the contributions once the norm is held; of logits, but for a soft-cap."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One number read in a world, such as ``logit(target)``.

    Parameters
    ----------
    name
        A key of :data:`OUTCOMES` or :data:`VECTORS`.
    tokens
        The tokens it reads, or the vector (:class:`Along`).
    of
        For ``direct`` only: the nodes whose contribution to the token's logit (or to the projection) is read, at
        the natural world's norm.
    position
        Where it is read; the last token unless said otherwise.

    Examples
    --------
    >>> from causalnet.expr.positions import pos
    >>> print(logit(" Mary"), logit_diff(" Mary", " John"), sigma @ pos[0])
    logit(" Mary") logit_diff(" Mary", " John") sigma@0
    """

    name: str
    tokens: tuple[Token, ...] = ()
    of: Ref | None = None
    position: Position = LAST
    depth: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.name not in OUTCOMES and self.name not in VECTORS:
            what = f"unknown outcome {self.name!r}"
            raise ExpressionError(explain(what, legal=[*OUTCOMES, *VECTORS], got=str(self.name)))
        tokens = tuple(_token(self.name, one) for one in self.tokens)
        count = 1 if self.name in VECTORS else OUTCOMES[self.name][0]
        if len(tokens) != count:
            raise ExpressionError(f"{self.name} reads {count} token{'s' * (count != 1)}, not {len(tokens)}")
        object.__setattr__(self, "tokens", tokens)
        if (self.name == "direct") != (self.of is not None):
            raise ExpressionError(f"{self.name} {'needs' if self.of is None else 'takes no'} nodes: direct(attn[20])")
        if not isinstance(self.position, At | Span):
            what = f"an outcome is read at one position, not at {self.position}"
            raise ExpressionError(explain(what, mend=f"write {self.name}@last, @0, or a span of one token"))
        object.__setattr__(self, "depth", deeper(self.of))

    def __str__(self) -> str:
        where = "" if self.position == LAST else str(self.position)
        if self.name == "direct":
            shown = "" if self.tokens == (TARGET,) else f", {_show(self.tokens[0])}"
            return f"direct({self.of}{shown}){where}"
        if self.name == "top1" and self.tokens == (TARGET,):
            return f"top1{where}"
        if self.name in VECTORS:
            return f"{self.tokens[0]}{where}"
        tokens = ", ".join(map(_show, self.tokens))
        return f"{self.name}({tokens}){where}" if tokens else f"{self.name}{where}"

    @property
    def units(self) -> str:
        """The outcome's units, in words."""
        if isinstance(next(iter(self.tokens), None), Along):
            return VECTORS["projection"]
        return OUTCOMES[self.name][1]

    def __matmul__(self, position: Any) -> "Outcome":
        if not isinstance(position, At | Range | Span):
            mend = 'write @ last, @ pos[0] or @ span("subject")'
            raise ExpressionError(explain(f"{position!r} is no position", mend=mend))
        if self.position != LAST:
            raise ExpressionError(f"{self} already has a position")
        return replace(self, position=position)

    def __call__(self, token: Token = TARGET) -> "Outcome":
        """Return ``top1`` of another token; no other outcome is called."""
        if self.name != "top1":
            raise ExpressionError(explain(f"{self.name} takes nothing in brackets", mend=f"write {self}"))
        return replace(self, tokens=(token,))

    def __or__(self, given: Any) -> "Expectation":
        from causalnet.expr.query import given_that

        return given_that(self, given)

    def __bool__(self) -> bool:
        raise ExpressionError(explain(f"{self} is neither true nor false", mend=f"write E[{self}]"))


def logit(token: Token) -> Outcome:
    """Return the token's logit, centred over the vocabulary."""
    return Outcome("logit", (token,))


def logit_diff(token: Token, other: Token) -> Outcome:
    """Return the logit of ``token`` minus that of ``other``."""
    return Outcome("logit_diff", (token, other))


def logprob(token: Token) -> Outcome:
    """Return the token's log-probability, in nats."""
    return Outcome("logprob", (token,))


def prob(token: Token) -> Outcome:
    """Return the token's probability."""
    return Outcome("prob", (token,))


def rank(token: Token) -> Outcome:
    """Return the token's rank among all tokens, 0 for the most likely."""
    return Outcome("rank", (token,))


def precap_logit(token: Token) -> Outcome:
    """Return the token's centred logit before the model's soft-cap (where it has one)."""
    return Outcome("precap_logit", (token,))


def projection(name: str) -> Outcome:
    """Return the scalar projection of the final norm's output on a named vector v [d_model]: ``norm(z) · v / |v|``.

    What the norm does to the residual stream z is part of it (centring, scale, gain, bias), so that a row of the
    unembedding as vector gives that token's raw logit, over the row's length.  Its direction alone counts, not its
    length; the norm's bias is the same in every world.

    Examples
    --------
    >>> print(projection("truth"))
    projection("truth")
    """
    if not isinstance(name, str) or not name:
        mend = 'write projection("truth"), and give vectors={"truth": v}'
        raise ExpressionError(explain(f"projection reads along a vector by name, not {name!r}", mend=mend))
    return Outcome("projection", (Along(name),))


def direct(of: Ref, token: "Token | Outcome" = TARGET) -> Outcome:
    """Return the contribution of these nodes to the token's logit, at the natural world's norm.

    With ``projection("name")`` in place of a token, their contribution to that projection.

    These nodes are the outcome, so ``desc``, ``anc`` and ``between`` in the same expectation leave them out; see
    :func:`causalnet.expr.desc`.
    """
    if isinstance(of, Family):
        of._refuse()
    if not isinstance(of, REFS):
        raise ExpressionError(explain(f"direct(…) reads nodes, not {of}", mend="write direct(attn[20])"))
    if without_position(of) != of:
        mend = f"write it after the bracket: direct({without_position(of)})@…"
        raise ExpressionError(explain("direct(…) takes no position inside", mend=mend))
    if isinstance(token, Outcome) and token.name == "projection":
        (token,) = token.tokens
    return Outcome("direct", (token,), of)  # type: ignore[arg-type]


def _token(name: str, given: Any) -> Token:
    if isinstance(given, Along) or name in VECTORS:
        if not isinstance(given, Along) or name not in (*VECTORS, "direct"):
            what = f"{name} reads {'along a vector' if name in VECTORS else 'a token'}, not {given}"
            raise ExpressionError(explain(what, mend='write projection("truth"), or logit(target)'))
        return given
    if isinstance(given, Target):
        return given
    if isinstance(given, str):
        if not given:
            raise ExpressionError(f"{name} reads a token, and an empty string is none")
        return given
    if not isinstance(given, bool) and hasattr(type(given), "__index__") and int(given) >= 0:
        return int(given)
    what = f"{name} reads a token, not {given!r}"
    raise ExpressionError(explain(what, mend=f'write {name}(target), or a string that is one token: {name}(" Mary")'))


def _show(token: Token) -> str:
    return quote(token) if isinstance(token, str) else str(token)


entropy = Outcome("entropy")
kl = Outcome("kl")
sigma = Outcome("sigma")
top1 = Outcome("top1", (TARGET,))
