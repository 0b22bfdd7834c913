"""Each law can fail: planted faults are caught by the laws that are to catch them."""

import pytest
import testing_faults as faults

from causalnet.expr import World, compile_query, parse
from causalnet.testing import LAWS, check_laws
from causalnet.testing.strategies import tiny_model

PAIRS = [(one, law) for one in faults.FAULTS for law in one.caught_by]


@pytest.mark.parametrize(("fault", "law"), PAIRS, ids=[f"{law}: {one.words}" for one, law in PAIRS])
def test_a_law_catches_a_fault(fault, law):
    assert not fault.fails(law).holds


def test_every_law_is_broken_by_some_fault_and_every_fault_breaks_some_law():
    assert {law for one in faults.FAULTS for law in one.caught_by} == set(LAWS)
    assert all(one.caught_by for one in faults.FAULTS)


def test_nothing_of_a_fault_stays_behind():
    for one in faults.FAULTS:
        with one.plant():
            pass
    for family in ("gpt2", "gptj"):
        report = check_laws(tiny_model(family), cases=2, seed=faults.SEED)
        assert report.holds, str(report)


def test_the_table_of_laws_and_faults(capsys, monkeypatch):
    monkeypatch.setattr(faults, "FAULTS", faults.FAULTS[-2:])
    text = faults.table(cases=4, laws=("language", "coverage"))
    assert capsys.readouterr().err.splitlines() == [one.words for one in faults.FAULTS]
    titles, rule, *rows = text.splitlines()
    assert titles == "| fault | `language` | `coverage` |"
    assert rule == "|---|---|---|"
    assert rows[1] == "| intervals are too narrow |  | fails |"


@pytest.mark.parametrize(
    ("fault", "law"),
    [(faults.late_joining, "plan"), (faults.silent_hook, "effectiveness"), (faults.loose_compensation, "identities"),
     (faults.edge_added, "out_edges"), (faults.leaking_heads, "locality")],
    ids=lambda part: part if isinstance(part, str) else "",
)  # fmt: skip
def test_the_smallest_case_is_a_sentence_that_means_its_world(fault, law):
    failure = fault.fails(law, shrink=True).failure
    assert failure is not None
    assert len(failure.tokens) == 5
    query = parse(failure.expression)
    assert str(query) == failure.expression
    with fault.plant() as model:
        worlds = compile_query(query, model.graph).worlds
        assert law == "identities" or set(worlds) <= {World(), *failure.case.worlds}
        again = LAWS[law].measure(model, failure.case)
        assert not again.residual <= LAWS[law].tolerance(model, failure.case)
    assert LAWS[law].measure(tiny_model("gpt2"), failure.case).residual <= 1e-9


@pytest.mark.slow
def test_the_whole_table(capsys):
    text = faults.table()
    with capsys.disabled():
        print(f"\n{text}")
    assert text.count("\n") == len(faults.FAULTS) + 2
