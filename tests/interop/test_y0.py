"""Exchange with y0: what one world says goes over and comes back, the rest is refused."""

import sys

import pytest

from causalnet.errors import ExpressionError, InputError
from causalnet.expr import NDE, TE, E, attn, compile_query, do, last, logit, mlp, natural, parse, resample, target, zero
from causalnet.graph import Block, CausalGraph
from causalnet.interop.y0 import from_y0, to_y0

GRAPH = CausalGraph.from_blocks([Block(layer, heads=2) for layer in range(3)])


@pytest.fixture(scope="module")
def dsl():
    return pytest.importorskip("y0.dsl", reason="y0 is an optional extra")


@pytest.mark.parametrize(
    "text",
    [
        "E[logit(target)]",
        "E[logit(target) | do(attn[1]@last = resample)]",
        "E[logprob(5)@0 | do(attn[0:2]@-2: = zero, mlp[2] = mean)]",
        'E[kl | do(attn[1].head[1] = value("v"), embed@subject = patch("corrupt"))]',
    ],
)
def test_there_and_back(dsl, text):
    query = parse(text)
    over = to_y0(query, GRAPH)
    assert isinstance(over.expression, dsl.Probability)
    back = from_y0(over.expression, over.settings, over.outcome)
    one, other = compile_query(query, GRAPH), compile_query(back, GRAPH)
    assert one.worlds == other.worlds
    assert [reading.outcome for reading in one.readings] == [reading.outcome for reading in other.readings]


def test_what_y0_sees(dsl):
    over = to_y0(parse("E[logit(target) | do(attn[1]@last = zero, mlp[0] = mean)]"), GRAPH)
    assert over.expression == dsl.P(dsl.Variable("Y") @ [+dsl.Variable("attn_1_last"), +dsl.Variable("mlp_0")])
    assert {name: str(one) for name, one in over.settings.items()} == {
        "mlp_0": "mlp[0] = mean",
        "attn_1_last": "attn[1]@last = zero",
    }
    assert all(name.isidentifier() for name in over.settings)


@pytest.mark.parametrize(
    ("query", "why"),
    [
        (TE(attn[1] @ last << resample), "several worlds"),
        (NDE(attn[1] @ last << resample), "several worlds"),
        (2 * E[logit(target)], "several worlds"),
        (E[logit(target) | do(attn[0] << zero, mlp[1] << natural)], "in another world; y0 would flatten"),
        (parse("E[logit(target) | do(mlp[1] = under do(attn[0] = zero))]"), "in another world; y0 would flatten"),
        (parse("E[logit(target) | do(mlp[1] = scale(0.5))]"), "soft"),
        (parse("E[logit(target) | do(attn[0] -> mlp[1] = zero)]"), "is an edge"),
        (parse('E[logit(target) | prompt.relation == "P1"]'), "subgroup"),
    ],
)
def test_what_does_not_go_over(query, why):
    with pytest.raises(ExpressionError, match=why):
        to_y0(query, GRAPH)


def test_what_does_not_come_back(dsl):
    x, y, z = (dsl.Variable(name) for name in "XYZ")
    settings = {"X": attn[1] @ last << zero}
    assert str(from_y0(dsl.P(y @ +x), settings, logit(target))) == "E[logit(target) | do(attn[1]@last = zero)]"
    refused = [
        (dsl.Sum[z](dsl.P(y, z)), "observed distributions"),
        (dsl.P(y | z), "conditional"),
        (dsl.P(y @ +x, z), "joint"),
        (dsl.P(y @ -x), "was observed"),
    ]
    for expression, why in refused:
        with pytest.raises(ExpressionError, match=why):
            from_y0(expression, settings, logit(target))
    with pytest.raises(InputError, match="nothing says to what"):
        from_y0(dsl.P(y @ +z), settings, logit(target))
    with pytest.raises(ExpressionError, match="not a hard set"):
        from_y0(dsl.P(y @ +x), {"X": mlp[0] << natural}, logit(target))


def test_without_y0(monkeypatch):
    monkeypatch.setitem(sys.modules, "y0.dsl", None)
    with pytest.raises(InputError, match="pip install y0"):
        to_y0(E[logit(target)], GRAPH)
