"""Queries in plain English: what is run, what is read, and why."""

from typing import TYPE_CHECKING, Any

from causalnet.expr.assign import Assignment, Do, Path
from causalnet.expr.conditions import Condition
from causalnet.expr.estimands import ESTIMANDS, Estimand, expanded
from causalnet.expr.outcomes import Along, Outcome, Token
from causalnet.expr.positions import LAST, At, Position, Range, quote
from causalnet.expr.query import Query
from causalnet.expr.refs import (
    Ancestors,
    Between,
    Component,
    Descendants,
    Difference,
    Intersection,
    Located,
    Ref,
    Slice,
    Union,
)
from causalnet.expr.values import (
    Add,
    Given,
    Mean,
    Natural,
    Noise,
    Patch,
    ProjectOut,
    Resample,
    Scale,
    Under,
    Value,
    Zero,
)

if TYPE_CHECKING:
    from causalnet.graph import CausalGraph

__all__ = ["english"]


def english(query: Query, graph: "CausalGraph | None" = None) -> str:
    """Say what a query runs and why.

    Parameters
    ----------
    query
        The query.
    graph
        Where it is given, the sites of every world and the assignments that gave way are told too.

    Examples
    --------
    >>> from causalnet.expr import TE, attn, last, resample
    >>> print(english(TE(attn[5] @ last << resample)))
    Question: TE(attn[5]@last = resample)
      TE is the total effect: E[logit(target) | do(attn[5]@last = resample)] - E[logit(target)]
    World 0: the model as it is.
    World 1: the attention of layer 5 at the last position set to its value in a donor prompt (one donor at a \
time, the same for every world).
    Answer, in logits (natural log units, centred over the vocabulary):
      + the logit of the target at the last position in world 1
      - the same in world 0
      averaged over donors and prompts.
    A negative answer: the outcome falls.
    """
    whole = expanded(query)
    lines = [f"Question: {query}", *_macros(query)]
    numbers: dict[Do | None, int] = {None: 0}
    for term in whole.terms:
        numbers.setdefault(term.body.do, len(numbers))
    lines += ["World 0: the model as it is.", *_worlds(numbers)]
    lines += _answer(whole, numbers)
    if graph is not None:
        lines += _on_graph(query, graph)
    return "\n".join(lines)


def _macros(query: Query) -> list[str]:
    lines = {}
    for term in query.terms:
        if isinstance(term.body, Estimand):
            name = term.body.name
            lines[str(term.body)] = f"  {name} is {ESTIMANDS[name][1]}: {term.body.expand()}"
    return list(lines.values())


def _worlds(numbers: dict[Do | None, int]) -> list[str]:
    lines = []
    for do, number in numbers.items():
        if do is None:
            continue
        text = "; ".join(_assignment(one) for one in do.assignments)
        lines.append(f"World {number}: {text}.")
    return lines


def _answer(whole: Query, numbers: dict[Do | None, int]) -> list[str]:
    units = list(dict.fromkeys(term.body.outcome.units for term in whole.terms))
    lines = [f"Answer, in {' and '.join(units)}:"]
    before: tuple[Outcome, Condition | None] | None = None
    for term in whole.terms:
        size = abs(term.coefficient)
        sign = "-" if term.coefficient < 0 else "+"
        times = "" if size == 1 else f"{size:g} times "
        same = before == (term.body.outcome, term.body.condition)
        what = "the same" if same else outcome_words(term.body.outcome)
        if term.body.condition is not None and not same:
            what += f" over the prompts with {term.body.condition}"
        before = (term.body.outcome, term.body.condition)
        lines.append(f"  {sign} {times}{what} in world {numbers[term.body.do]}")
    donors = any(_uses(Resample, term.body.do) for term in whole.terms)
    lines.append(f"  averaged over {'donors and ' if donors else ''}prompts.")
    if len(whole.terms) == 2 and [term.coefficient for term in whole.terms] == [1, -1]:
        lines.append("A negative answer: the outcome falls.")
    return lines


def _on_graph(query: Query, graph: "CausalGraph") -> list[str]:
    compiled = query.compile(graph)
    lines = [f"On this graph ({graph.layers} layers), {len(compiled.worlds)} worlds are run:"]
    for number, world in enumerate(compiled.worlds):
        edges = sum(site.receiver is not None for site in world.sites)
        counts = [f"{len(world) - edges} nodes set"] if len(world) > edges else []
        counts += [f"{edges} edges set"] if edges else []
        shown = str(world) if len(str(world)) < 200 else f"{str(world)[:200]}…"
        lines.append(f"  {number}: {', '.join(counts)}: {shown}" if world else f"  {number}: natural")
    if compiled.overridden:
        lines += ["Overridden:", *(f"  {note}" for note in compiled.overridden)]
    return lines


def _uses(kind: type, do: Do | None) -> bool:
    if do is None:
        return False
    for one in do.assignments:
        if isinstance(one.value, kind) or (isinstance(one.value, Under) and _uses(kind, one.value.do)):
            return True
    return False


def _assignment(one: Assignment) -> str:
    if isinstance(one.target, Path):
        sender, receiver = map(ref_words, one.target.steps)
        return f"{receiver} alone reads {sender} as {value_words(one.value)}"
    text = f"{ref_words(one.target)} {'set to' if one.value.hard else 'changed to'} {value_words(one.value)}"
    if one.along_paths:
        paths = " and ".join(str(path) for path in one.along_paths)
        text += f", and only the paths {paths} carry the change: every other edge carries its natural value"
    return text


def value_words(value: Value) -> str:
    """Say what a node is set to."""
    if isinstance(value, Under):
        inner = "; ".join(_assignment(one) for one in value.do.assignments)
        return f"its value in the world in which {inner}"
    return _VALUES[type(value)](value)


_VALUES: dict[type, Any] = {
    Zero: lambda _: "zero",
    Mean: lambda _: "its mean over the donor prompts",
    Resample: lambda _: "its value in a donor prompt (one donor at a time, the same for every world)",
    Natural: lambda _: "its natural value, that of world 0",
    Patch: lambda value: f"its value in the paired prompt {quote(value.name)}",
    Given: lambda value: f"the given vector {quote(value.name)}",
    Scale: lambda value: f"{value.factor:g} times what it would be",
    Noise: lambda value: f"what it would be plus noise of {value.size:g} standard deviations",
    Add: lambda value: f"what it would be plus {value.factor:g} times the vector {quote(value.name)}",
    ProjectOut: lambda value: f"what it would be without its part along the vector {quote(value.name)}",
}


def ref_words(ref: Ref) -> str:
    """Say which nodes a reference names."""
    if isinstance(ref, Located):
        return f"{ref_words(ref.of)} at {position_words(ref.position)}"
    if isinstance(ref, Descendants):
        return f"everything downstream of {ref_words(ref.of)}"
    if isinstance(ref, Ancestors):
        return f"everything upstream of {ref_words(ref.of)}"
    if isinstance(ref, Between):
        return f"everything between {ref_words(ref.start)} and {ref_words(ref.end)}"
    if isinstance(ref, Union):
        return " and ".join(map(ref_words, ref.parts))
    if isinstance(ref, Intersection):
        return "what belongs to " + " and also to ".join(map(ref_words, ref.parts))
    if isinstance(ref, Difference):
        return f"{ref_words(ref.base)} except {' and '.join(map(ref_words, ref.without))}"
    return _component(ref)


def _component(one: Component) -> str:
    fixed = {"embed": "the embedding", "norm": "the final norm", "logits": "the logits"}
    if one.kind in fixed:
        return fixed[one.kind]
    layers = _numbers(one.layers, "layer")
    if one.kind == "head":
        return f"{_numbers(one.heads, 'head')} of the attention of {layers}"
    if one.kind == "resid":
        return f"the residual stream that enters {layers}"
    return f"{ {'attn': 'the attention', 'mlp': 'the MLP', 'bias': 'the attention bias'}[one.kind] } of {layers}"


def _numbers(items: tuple[int | Slice, ...], what: str) -> str:
    if len(items) == 1 and isinstance(items[0], int):
        return f"{what} {items[0]}" if items[0] >= 0 else f"{what} {-items[0]} from the end"
    if items == (Slice(),):
        return f"every {what}"
    return f"{what}s {' and '.join(map(str, items))}"


def position_words(position: Position) -> str:
    """Say where a position is."""
    if position == LAST:
        return "the last position"
    if isinstance(position, At):
        return f"position {position.index}" if position.index >= 0 else f"position {-position.index} from the end"
    if isinstance(position, Range):
        return f"the positions {str(position)[1:]} (half-open)"
    return f"the span {quote(position.name)}"


def outcome_words(outcome: Outcome) -> str:
    """Say what an outcome reads."""
    token = [_token(one) for one in outcome.tokens]
    where = "" if outcome.position is None else f" at {position_words(outcome.position)}"
    words = {
        "logit": "the logit of {0}",
        "precap_logit": "the logit of {0} before the soft-cap",
        "logit_diff": "the logit of {0} minus that of {1}",
        "logprob": "the log-probability of {0}",
        "prob": "the probability of {0}",
        "rank": "the rank of {0}",
        "top1": "whether {0} is the most likely token",
        "entropy": "the entropy of the prediction",
        "kl": "the divergence of the prediction from the natural one",
        "sigma": "the scale of the final norm",
        "direct": "the direct contribution to the logit of {0}",
        "projection": "{0}",
    }[outcome.name].format(*token)
    if outcome.of is not None and isinstance(outcome.tokens[0], Along):
        words = f"the direct contribution to {token[0]}"
    return f"{words}{'' if outcome.of is None else f' of {ref_words(outcome.of)}'}{where}"


def _token(token: Token) -> str:
    if isinstance(token, str):
        return quote(token)
    if isinstance(token, Along):
        return f"the final norm's output along the vector {quote(token.name)}"
    return f"token {token}" if isinstance(token, int) else "the target"
