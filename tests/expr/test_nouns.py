"""Positions, values, worlds and conditions by themselves."""

import copy
import pickle

import numpy as np
import pytest

import causalnet.expr as x
from causalnet.errors import ExpressionError, InputError, InterventionError, UnknownNameError
from causalnet.expr import (
    LAST,
    MEAN,
    NATURAL,
    ZERO,
    At,
    E,
    InWorld,
    Range,
    Site,
    Span,
    World,
    attn,
    do,
    ground,
    holds,
    indices,
    kl,
    last,
    pos,
    prompt,
    span,
    zero,
)
from causalnet.graph import Node

MLP = Node("mlp", 1)


def test_positions_mean_tokens():
    spans = {"subject": (1, 3)}
    assert indices(None, 3) == (0, 1, 2)
    assert indices(LAST, 3) == (2,)
    assert indices(At(-3), 3) == (0,)
    assert indices(Range(1, None), 4) == (1, 2, 3)
    assert indices(Range(None, -1), 4) == (0, 1, 2)
    assert indices(Range(-2, None), 4) == (2, 3)
    assert indices(Span("subject"), 4, spans) == (1, 2)


@pytest.mark.parametrize("position", [At(3), At(-4), Range(2, 4), Range(-4, -1), Range(-1, 1), Range(3, None)])
def test_nothing_is_clipped(position):
    with pytest.raises(InputError, match=r"prompt 7: position .* of 3 tokens"):
        indices(position, 3, where="prompt 7")


def test_unknown_spans_are_named():
    with pytest.raises(UnknownNameError, match="did you mean 'subject'"):
        indices(Span("subjct"), 3, {"subject": (0, 1)})
    with pytest.raises(InputError):
        indices(Span("subject"), 3, {"subject": (1, 4)})


def test_positions_in_python():
    assert last == pos[-1] == At(-1)
    assert pos[3:6] == Range(3, 6)
    assert pos[np.int64(2)] == At(2)
    assert type(pos[np.int64(2)].index) is int
    assert span("last") != last


def test_worlds_are_canonical():
    first, second = (Site(MLP), ZERO), (Site(Node("attn", 1), LAST), MEAN)
    assert World((first, second)) == World((second, first))
    assert hash(World((first, second))) == hash(World((second, first)))
    assert World((first, second)).sites == (second[0], first[0])
    assert str(World((first,))) == "do(mlp[1] = zero)"
    assert not World()
    assert World().depth == 0
    with pytest.raises(ExpressionError, match="twice"):
        World((first, (Site(MLP), MEAN)))


def test_worlds_know_what_is_nested():
    inner = World(((Site(MLP), ZERO),))
    outer = World(((Site(Node("mlp", 2)), InWorld(inner)), (Site(Node("norm")), InWorld(inner))))
    assert outer.nested == (inner,)
    assert (inner.depth, outer.depth) == (1, 2)
    assert outer.uses(x.Zero)
    assert outer.uses(x.Mean, x.InWorld)
    assert not outer.uses(x.Resample)
    assert pickle.loads(pickle.dumps(outer)) == outer
    assert outer.nodes == {Node("mlp", 2), Node("norm")}
    edge = World(((Site(MLP, None, Node("norm")), ZERO),))
    assert edge.nodes == frozenset()


def test_grounding_a_world():
    world = World(((Site(MLP), NATURAL), (Site(MLP, LAST), ZERO), (Site(MLP, At(0), Node("norm")), MEAN)))
    table = ground(world, 3)
    assert [str(table[MLP, None][index][1]) for index in range(3)] == ["natural", "natural", "zero"]
    assert list(table[MLP, Node("norm")]) == [0]
    meeting = World(((Site(MLP, LAST), ZERO), (Site(MLP, Span("subject")), MEAN)))
    assert len(ground(meeting, 4, {"subject": (0, 2)})[MLP, None]) == 3
    with pytest.raises(InterventionError, match=r"prompt 2: .* both write position 3"):
        ground(meeting, 4, {"subject": (2, 4)}, where="prompt 2")


def test_values_are_numbers_that_print_as_they_are_read():
    assert x.noise(3) == x.noise(3.0)
    assert str(x.scale(-0.0)) == "scale(0.0)"
    assert str(x.scale(np.float32(0.5))) == "scale(0.5)"
    for wrong in (True, "1", None, float("nan"), float("inf"), 10**400):
        with pytest.raises(ExpressionError):
            x.scale(wrong)
    for name in ("", None, 3):
        for maker in (x.patch, x.value, x.project_out, x.add):
            with pytest.raises(ExpressionError):
                maker(name)


def test_numpy_numbers_weigh_queries():
    query = E[kl]
    assert np.float64(2) * query == 2 * query == query * np.float32(2)
    assert str(np.float64(0.5) * query) == "0.5*E[kl]"


def test_conditions_decide():
    london = {"relation": "P103", "n": 5, "flag": True, "gap": None}
    assert holds(prompt.relation == "P103", london)
    assert not holds(prompt.relation != "P103", london)
    assert holds((prompt.n >= 5) & (prompt.n < 6.5) & (prompt.flag == True), london)  # noqa: E712
    assert holds((prompt.n > 5) | ~(prompt.n > 5), london)
    assert not holds(prompt.gap == 0, london)
    assert not holds(prompt.gap < 0, london)
    assert holds(prompt.gap != 0, london)
    with pytest.raises(UnknownNameError, match=r"prompt 3: no feature named 'm'.*legal: relation, n"):
        holds((prompt.n > 9) & (prompt.m == 1), london, where="prompt 3")
    with pytest.raises(ExpressionError, match="cannot be ordered"):
        holds(prompt.relation < 3, london)


def test_conditions_are_data():
    condition = (prompt.a == 1) & (prompt.b < 2) & ~(prompt["c d"] == "x")
    assert condition == x.AllOf((x.Compare("a", "==", 1), x.Compare("b", "<", 2), x.Not(x.Compare("c d", "==", "x"))))
    assert str(condition) == 'prompt.a == 1 and prompt.b < 2 and not prompt["c d"] == "x"'
    assert str(((prompt.a == 1) | (prompt.b == 2)) & (prompt.c == 3)) == (
        "(prompt.a == 1 or prompt.b == 2) and prompt.c == 3"
    )
    assert str(prompt.a == 3.0) == "prompt.a == 3"
    assert (prompt.a == 3.0) == (prompt.a == 3)
    assert copy.deepcopy(prompt) is not None
    with pytest.raises(TypeError):
        hash(prompt.a)


def test_trees_are_immutable_hashable_and_equal_by_structure():
    one, other = do(attn[5] @ last << zero), do(attn[5] @ last << zero)
    assert one == other
    assert one is not other
    assert {one: 1}[other] == 1
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(AttributeError):
        one.assignments = ()  # pyright: ignore
    assert not hasattr(one, "__dict__")
    assert attn[5] != attn[5:6]
    assert hash(attn[1, 2:3].head[:]) == hash(attn[1, 2:3].head[:])


def test_sets_are_flattened():
    a, b, c = attn[1], attn[2], attn[3]
    assert (a | b) | c == a | (b | c)
    assert (a & b) & c == a & (b & c)
    assert (a - b) - c == a - b - c
    assert a - (b - c) != a - b - c
    assert x.Union((a, x.Union((b, c)))) == a | b | c


def test_components_of_nodes():
    for text in ("embed", "attn[5]", "attn[5].head[3]", "attn[5].bias", "mlp[2]", "resid[4]", "norm", "logits"):
        assert str(x.Component.of(Node.parse(text))) == text


def test_every_public_name_is_there_and_told():
    assert len(set(x.__all__)) == len(x.__all__)
    for name in x.__all__:
        thing = getattr(x, name)
        if callable(thing) and getattr(thing, "__module__", "").startswith("causalnet"):
            assert thing.__doc__, name
