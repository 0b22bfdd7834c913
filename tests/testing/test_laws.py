"""The laws hold where they should, and say where they do not."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from causalnet.api import CausalModel
from causalnet.errors import InputError, UnknownNameError
from causalnet.expr import Noise, World, compile_query, parse
from causalnet.testing import LAWS, Case, Finding, Law, check_laws, law
from causalnet.testing.finite import field_network
from causalnet.testing.lab import ModelLab, NetworkLab, Unit, columns, lab_of
from causalnet.testing.laws import law as find_law
from causalnet.testing.linear import linear_model
from causalnet.testing.motifs import motif
from causalnet.testing.report import PROFILES
from causalnet.testing.strategies import QUICK_FAMILIES, field_networks, tiny_model

# Every number of the list of laws has a check; `plan` is the engine's own law and has no number there.
NUMBERS = set(range(15))


def test_every_law_has_a_check_and_a_statement():
    assert {one.number for one in LAWS.values()} == NUMBERS
    assert all(one.statement.endswith((".", ")")) and one.name == name for name, one in LAWS.items())
    assert law is find_law


@pytest.mark.parametrize(
    "made",
    [{}, {"heads": 2, "seed": 3}, {"parallel": True, "layers": 3, "seed": 5}],
    ids=["layers", "heads", "parallel"],
)
def test_laws_hold_exactly_modulo_a_prime(made):
    report = check_laws(field_network(length=5, **made), cases=6)
    assert report.holds, str(report)
    assert {row.law.name for row in report.rows} == {name for name, one in LAWS.items() if one.needs != "model"}
    for row in report.rows:
        assert row.worst == 0.0 or row.law.needs == "nothing"


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(network=field_networks(), data=st.data())
def test_laws_hold_on_any_network_modulo_a_prime(network, data):
    name = data.draw(st.sampled_from([name for name, one in LAWS.items() if one.needs == "scm"]))
    law(name).check(network, data.draw(law(name).cases(network)))


def test_laws_hold_on_a_linear_network():
    network = linear_model(2, eps=1e-5).network([(1, 2, 3, 4, 5), (5, 4, 3, 2, 1)], donors=[[1], [0]])
    report = check_laws(_with_arrays(network), cases=6, laws=["composition", "effectiveness", "locality", "identities"])
    assert report.holds, str(report)


def _with_arrays(network):
    from dataclasses import replace

    import numpy as np

    return replace(network, donors=np.asarray(network.donors))


@pytest.mark.parametrize("family", QUICK_FAMILIES)
def test_laws_hold_on_every_kind_of_block(family):
    report = check_laws(tiny_model(family), cases=4)
    assert report.holds, str(report)
    assert [row.law for row in report.rows] == list(LAWS.values())


def test_laws_hold_in_float32():
    report = check_laws(tiny_model("llama", dtype="float32"), cases=4, seed=3)
    assert report.holds, str(report)


def test_laws_hold_on_a_graph_of_heads():
    from causalnet.model.compile import compile_model
    from causalnet.model.small import small_model

    report = check_laws(compile_model(small_model("gpt2"), granularity="head"), cases=3)
    assert report.holds, str(report)


# -- what a failure says -------------------------------------------------------------------------------------


@pytest.fixture
def backwards():
    """A model whose graph says that its blocks are parallel, which they are not."""
    from dataclasses import replace

    from causalnet.graph import CausalGraph

    model = tiny_model("gpt2")
    blocks = [replace(block, parallel=True) for block in model.graph.blocks]
    return replace(model, graph=CausalGraph.from_blocks(blocks))


def test_a_failure_is_the_smallest_case_and_can_be_run_again(backwards):
    row = check_laws(backwards, laws=["locality"], cases=20)["locality"]
    assert not row.holds
    assert row.worst > row.tolerance
    failure = row.failure
    assert failure is not None
    assert failure.case.unit.length == 5
    assert len(failure.tokens) == 5
    (world,) = failure.case.worlds
    assert len(world) == 1
    again = law("locality").measure(backwards, failure.case)
    assert (again.node, again.position) == (failure.finding.node, failure.finding.position)
    assert again.residual == pytest.approx(failure.finding.residual)
    # On the graph as it is, the sentence means the world, and the law holds there.
    honest = tiny_model("gpt2")
    assert world in compile_query(parse(failure.expression), honest.graph).worlds
    assert law("locality").measure(honest, failure.case).residual == 0.0


def test_the_report_is_a_table_with_the_case_below(backwards):
    report = check_laws(backwards, laws=["null", "edges", "positions"], cases=12)
    titles, *lines = str(report).splitlines()
    assert titles.split() == ["law", "on", "cases", "worst", "residual", "tolerance"]
    assert [line.split()[0] for line in lines[:3]] == ["null", "edges", "positions"]
    assert [line.split()[-1] for line in lines[:3]] == ["holds", "fails", "fails"]
    assert lines[3].startswith("edges: there is no edge attn[")
    assert lines[4].startswith("  E[")
    assert lines[5].startswith("  on tokens ")
    found = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert found["holds"] is False
    assert [one["holds"] for one in found["laws"]] == [True, False, False]
    expression = found["laws"][1]["failure"]["expression"]
    assert str(parse(expression)) == expression


def test_check_names_the_law_and_shows_the_expression(backwards):
    failure = check_laws(backwards, laws=["positions"], cases=12)["positions"].failure
    assert failure is not None
    with pytest.raises(
        AssertionError, match=r"positions fails on gpt2: the block is parallel(.|\n)*tokens \["
    ) as error:
        law("positions").check(backwards, failure.case)
    assert failure.expression in str(error.value)
    law("positions").check(tiny_model("gpt2"), failure.case)


def test_an_error_during_the_run_is_a_finding(monkeypatch):
    from causalnet.engine.plain import _Forward
    from causalnet.errors import InterventionError

    def never(self):
        raise InterventionError("these writes never fired: attn[0]\nand more")

    monkeypatch.setattr(_Forward, "run", never)
    found = law("null").measure(tiny_model("gpt2"), Case())
    assert (found.residual, found.words) == (math.inf, "InterventionError: these writes never fired: attn[0]")


def test_a_finding_says_where_and_how_much():
    from causalnet.graph import Node

    assert str(Finding(0.5, Node("mlp", 1), 3)) == "mlp[1]@3 is off by 5.0e-01"
    assert str(Finding(math.inf, words="the edge carries nothing")) == "the edge carries nothing"
    assert str(Finding(0.25, words="CE is off")) == "CE is off: 2.5e-01"


# -- asking ---------------------------------------------------------------------------------------------------


def test_the_same_seed_tries_the_same_cases():
    model = tiny_model("llama")
    one, same, other = (
        check_laws(model, laws=["composition"], cases=8, seed=seed)["composition"] for seed in (0, 0, 1)
    )
    assert one.worst == same.worst
    assert one.worst != other.worst


def test_what_cannot_be_asked():
    network = field_network(length=5)
    with pytest.raises(UnknownNameError, match="did you mean 'locality'"):
        check_laws(network, laws=["localty"])
    with pytest.raises(InputError, match="did you mean 'quick'"):
        check_laws(network, profile="quik")
    with pytest.raises(InputError, match="0 cases try nothing"):
        check_laws(network, cases=0)
    with pytest.raises(InputError, match="plan needs a compiled model"):
        check_laws(network, laws=["plan"])
    with pytest.raises(InputError, match="null needs a model or a network"):
        check_laws(laws=["null"])
    with pytest.raises(InputError, match="not on str"):
        check_laws("gpt2")
    with pytest.raises(InputError, match="prompts of 5 positions"):
        check_laws(field_network(length=3))
    with pytest.raises(InputError, match="prompts of 5 positions"):
        check_laws(motif("erasure"))


def test_a_model_with_a_short_context_is_refused():
    from transformers import GPT2Config

    from causalnet.model.compile import compile_model
    from causalnet.model.shrink import build, randomise

    config = GPT2Config(vocab_size=20, n_positions=5, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    with pytest.raises(InputError, match="laws need prompts of 5"):
        check_laws(compile_model(randomise(build(config)), verify=False))


def test_without_a_model_only_the_laws_that_need_none_are_tried():
    assert {row.law.name for row in check_laws(cases=2).rows} == {"closed_form", "coverage"}


def test_a_law_of_ones_own():
    def measure(lab, case):
        (natural,) = lab.values(case.unit, World())
        return Finding(float(natural[max(natural, key=lambda node: node.sort_key)].max()))

    from causalnet.testing.laws.law import units

    mine = Law("mine", 99, "Logits are not above 0.", "scm", lambda lab: units(lab).map(Case), measure)
    with pytest.raises(AssertionError, match=r"mine fails on gpt2(.|\n)*Logits are not above 0"):
        mine.check(tiny_model("gpt2"), Case())


def test_positions_are_resolved_without_the_engine():
    from causalnet.expr import At, Range, Span, indices

    spans = {"subject": (1, 3)}
    for position in (None, At(0), At(-1), At(-2), Range(1, 3), Range(-2, None), Range(None, 2), Span("subject")):
        assert columns(position, 6, spans) == list(indices(position, 6, spans))


def test_labs():
    mechanisms = tiny_model("gpt2")
    for model in (mechanisms, CausalModel(mechanisms, lambda: None)):
        lab = lab_of(model)
        assert isinstance(lab, ModelLab)
        assert lab.mechanisms is mechanisms
    assert isinstance(lab_of(field_network(length=5)), NetworkLab)
    lab = lab_of(tiny_model("gemma2"))
    assert lab_of(lab) is lab
    inputs = lab.inputs(Unit(6, 1, True))
    assert [len(ids) for ids in inputs.ids] == [6, 6, 7, 7]
    assert inputs.donors is not None
    assert all(len(inputs.ids[row[0]]) == len(ids) for row, ids in zip(inputs.donors, inputs.ids, strict=True))
    assert all(len(inputs.ids[row[1]]) != len(ids) for row, ids in zip(inputs.donors, inputs.ids, strict=True))
    assert PROFILES["quick"] < PROFILES["ci"] < PROFILES["thorough"]
    assert Noise(0.5) != Noise(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("family", QUICK_FAMILIES)
@pytest.mark.parametrize("seed", range(3))
def test_laws_hold_thoroughly(family, seed):
    report = check_laws(tiny_model(family), profile="thorough", seed=seed)
    assert report.holds, str(report)
