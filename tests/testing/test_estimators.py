"""A user's decomposition, tried by one call."""

import re

import numpy as np
import pytest

from causalnet.effects.asking import unit_effects
from causalnet.errors import InputError
from causalnet.expr import CE, DE, NDE, NIE, NORM, TDE, TE, TIE
from causalnet.testing import DecompositionReport, check_decomposition


def telescoping(scm, s):
    return unit_effects(scm, {"total": TE(s), "direct": DE(s), "compensation": CE(s), "norm": NORM(s)})


def test_a_decomposition_that_holds():
    report = check_decomposition(telescoping, total="total", parts=["direct", "compensation", "norm"], cases=5)
    assert isinstance(report, DecompositionReport)
    assert report.cases == {"field": 5, "linear": 5, "transformer": 5}
    assert report.worst["field"] == 0.0
    assert max(report.worst.values()) < 1e-6
    assert str(report).startswith("total = direct + compensation + norm: held in 5 on field networks")


def test_a_total_that_the_library_knows():
    def mine(scm, s):
        return unit_effects(scm, {"forward": TDE(s), "back": NIE(s)})

    check_decomposition(mine, total="TE", parts=["forward", "back"], on=["field"], cases=8)
    check_decomposition(mine, total="TDE", parts=["forward"], on=["linear"], cases=4)


def test_a_joint_intervention():
    from causalnet.effects.estimands import natural_effects

    def mine(scm, *s):
        seen.append(len(s))
        return unit_effects(scm, natural_effects(*s))

    seen: list[int] = []
    check_decomposition(mine, total="TE", parts=["NDE", "TIE"], joint=True, on=["field"], cases=6)
    assert set(seen) == {1, 2}


def test_what_is_no_identity_fails_with_the_smallest_network_and_expression():
    def mine(scm, s):
        return unit_effects(scm, {"NDE": NDE(s), "NIE": NIE(s)})

    with pytest.raises(AssertionError) as error:
        check_decomposition(mine, total="TE", parts=["NDE", "NIE"])
    first, network, expression, *figures = str(error.value).splitlines()
    assert first == "TE = NDE + NIE does not hold"
    assert network == "  on a network over whole numbers modulo 2³¹ − 1 of 1 sequential layers, 3 prompts,"
    assert expression.startswith("  for do(embed@last = ")
    assert [line.split()[0] for line in figures[:3]] == ["TE", "NDE", "NIE"]
    whole, one, other, left = (float(line.split()[-1]) for line in figures)
    assert whole - one - other == left != 0


def test_a_wrong_sign_is_found_on_every_kind_of_network():
    def mine(scm, s):
        found = unit_effects(scm, {"TE": TE(s), "DE": DE(s), "TIE": TIE(s)})
        return found | {"TIE": -found["TIE"]}

    for kind, words in (("field", "modulo"), ("linear", "over real numbers"), ("transformer", "a tiny ")):
        with pytest.raises(AssertionError, match=rf"does not hold\n  on .*{words}"):
            check_decomposition(mine, total="TE", parts=["DE", "TIE"], on=[kind])


def test_a_hole_is_no_number():
    def mine(scm, s):
        found = unit_effects(scm, {"TE": TE(s)})["TE"]
        return {"TE": found, "all": np.where(np.arange(found.size).reshape(found.shape) == 1, np.nan, found)}

    with pytest.raises(AssertionError, match="left over nan"):
        check_decomposition(mine, total="TE", parts=["all"], on=["linear"], cases=4)


def test_what_cannot_be_asked():
    with pytest.raises(InputError, match=re.escape("did you mean 'linear'")):
        check_decomposition(telescoping, total="TE", parts=["direct"], on=["liner"])
    with pytest.raises(InputError, match="no parts"):
        check_decomposition(telescoping, total="TE", parts=[])
    with pytest.raises(InputError, match="did you mean 'direct'"):
        check_decomposition(telescoping, total="TE", parts=["direkt"], on=["linear"])
    with pytest.raises(InputError, match="no estimand has that name"):
        check_decomposition(telescoping, total="whole", parts=["direct"], on=["linear"])
