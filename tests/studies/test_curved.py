"""Outcomes that are not linear in the contributions: cells by worlds, whatever reads them."""

import csv
import json

import numpy as np
import pytest
import torch

from causalnet.demo import model_path, prompts_path
from causalnet.effects import findings, load, summarise
from causalnet.effects.asking import PromptedModel, answer
from causalnet.effects.consistency import consistency
from causalnet.effects.coupling import coupling, participation
from causalnet.effects.curved import measure_worlds, plan_worlds
from causalnet.effects.decompose import split
from causalnet.effects.fits import fits
from causalnet.effects.statistics import FewPromptsWarning
from causalnet.effects.sweep import cells, expression, find_targets, measure, swept_outcome
from causalnet.effects.words import words_of
from causalnet.engine.inputs import Inputs
from causalnet.engine.plain import run_plain
from causalnet.engine.plan import Reading
from causalnet.errors import DataError, InputError
from causalnet.expr import NATURAL_WORLD, Outcome, compile_query, last, parse
from causalnet.expr.outcomes import TARGET, entropy, kl, logit_diff, logprob, prob
from causalnet.expr.refs import Component
from causalnet.expr.values import RESAMPLE, ZERO
from causalnet.graph import Node
from causalnet.prompts import Prompts, choose_donors
from causalnet.studies.hydra import Arm, Options, hydra
from causalnet.studies.options import outcome_of
from causalnet.studies.sweeps import Question, sweep_model

PLAIN = str(model_path("plain"))
PARTS = ("te", "de", "ce", "norm")
CURVED = (logprob(TARGET), prob(5), entropy, kl)


def _asked(mechanisms, words, prompts, value):
    ids = tuple(tuple(words(text)["input_ids"]) for text in prompts.texts)
    targets = find_targets(mechanisms, Inputs(ids)).tolist()
    donors = choose_donors(targets, donors=2, seed=0, exclude_same_target=False) if value == RESAMPLE else None
    nodes = [node for node in mechanisms.graph.contributors if node.kind in ("attn", "mlp")]
    return Inputs(ids, targets=tuple(targets), donors=donors), cells(mechanisms.graph, nodes, value)


@pytest.mark.parametrize("value", [RESAMPLE, ZERO], ids=str)
@pytest.mark.parametrize("outcome", CURVED, ids=str)
@pytest.mark.parametrize("family", ["gpt2", "neox-parallel"])
def test_a_cell_is_what_the_language_answers(tiny, words, prompts, family, outcome, value):
    mechanisms = tiny(family)
    inputs, found = _asked(mechanisms, words, prompts, value)
    made = measure(mechanisms, inputs, found, graph=mechanisms.graph, outcome=outcome)
    scm = PromptedModel(mechanisms, inputs)
    for place in (0, 1, 4):
        set_to = (Component.of(found[place].node) @ last) << value
        whole = split(scm, set_to, outcome=outcome)
        texts = [f"{name}({set_to}; {outcome})" for name in ("TE", "DE", "CE", "NORM")]
        assert texts[0] == expression(found[place], outcome)
        removed = parse(f"DE({found[place].node}@last = zero; {outcome})")
        *named, zeroed = answer(scm, [*map(parse, texts), removed])
        for part, told in zip(PARTS, named, strict=True):
            bound = 1e-12 * np.nanmax(np.abs(whole.te))
            np.testing.assert_allclose(getattr(made, part)[:, place], told, rtol=0, atol=bound, err_msg=part)
            np.testing.assert_allclose(getattr(made, part)[:, place], getattr(whole, part), rtol=0, atol=bound)
            assert place or np.nanmax(np.abs(told)) > 1e-3
        np.testing.assert_allclose(made.clean_direct[:, place], -zeroed[:, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "neox-parallel"])
def test_the_worlds_are_those_of_the_definitions(tiny, family, heads):
    graph = tiny(family).graph
    graph = graph.with_heads() if heads else graph
    nodes = [node for node in graph.contributors if node.kind in ("head" if heads else "attn", "mlp")]
    for cell in cells(graph, nodes, RESAMPLE):
        for name, world in (("TE", cell.world), ("DE", cell.held), ("CE", cell.frozen)):
            compiled = compile_query(parse(f"{name}({cell.node}@last = resample; kl)"), graph)
            assert compiled.worlds[compiled.readings[0].world] == world


@pytest.mark.parametrize("family", ["gpt2", "neox-parallel"])
def test_the_parts_are_differences_of_full_forwards(tiny, words, prompts, family):
    """Every world again by the plain executor, from the model's own logits."""
    mechanisms, outcome = tiny(family), logprob(TARGET)
    inputs, found = _asked(mechanisms, words, prompts.take(3), RESAMPLE)
    made = measure(mechanisms, inputs, found, graph=mechanisms.graph, outcome=outcome)
    plain = run_plain(mechanisms, plan_worlds(mechanisms, found, inputs, outcome), inputs)
    clean = plain[Reading(NATURAL_WORLD, outcome)]
    with torch.no_grad():
        for row, ids in enumerate(inputs.ids):
            logits = mechanisms.hf(torch.tensor([ids])).logits[0, -1]
            assert clean[row, 0] == pytest.approx(float(logits.log_softmax(-1)[inputs.targets[row]]), abs=1e-12)
    for place, cell in enumerate(found):
        total, frozen, held = (plain[Reading(world, outcome)] for world in (cell.world, cell.frozen, cell.held))
        expected = {"te": total - clean, "de": held - clean, "ce": frozen - held, "norm": total - frozen}
        for part, table in expected.items():
            np.testing.assert_allclose(getattr(made, part)[:, place], table, rtol=0, atol=1e-9, err_msg=part)
        apart = sum(expected[part] for part in PARTS[1:])
        np.testing.assert_allclose(apart, expected["te"], rtol=0, atol=1e-12)
    assert made.delta_de.shape == (*made.te.shape, 0)


@pytest.mark.parametrize("outcome", [Outcome("logit", (TARGET,)), logit_diff(TARGET, 5)], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "neox-parallel"])
def test_by_worlds_a_linear_outcome_splits_as_by_responders(tiny, words, prompts, family, outcome):
    """So that the definitions by worlds, the clean direct effect among them, carry on those of the paper."""
    mechanisms = tiny(family)
    inputs, found = _asked(mechanisms, words, prompts, RESAMPLE)
    added = measure(mechanisms, inputs, found, graph=mechanisms.graph, outcome=outcome)
    worlds, _ = measure_worlds(mechanisms, inputs, found, outcome)
    size = np.nanmax(np.abs(added.te))
    for part in (*PARTS, "clean_direct", "clean_logit"):
        np.testing.assert_allclose(worlds[part], getattr(added, part), rtol=0, atol=1e-9 * size, err_msg=part)


def test_before_the_last_token_nothing_is_direct(tiny, words, prompts):
    data = sweep_model(tiny("gpt2"), words, prompts, Options(), question=Question("zero", "-2", "prob(5)"))
    assert not data["de"].values.any() and data["ce"].values.any() and data["clean_direct"].values.any()


def test_missing_donors_are_missing(tiny, words, prompts):
    mechanisms = tiny("gpt2")
    inputs, found = _asked(mechanisms, words, prompts, RESAMPLE)
    inputs.donors[2, 1] = -1
    made = measure(mechanisms, inputs, found, graph=mechanisms.graph, outcome=kl)
    for part in PARTS:
        assert np.isnan(getattr(made, part)[2, :, 1]).all() and np.isfinite(getattr(made, part)[2, :, 0]).all()


def test_a_token_that_is_none_is_refused_before_anything_is_written(tmp_path):
    options = Options(limit=5, donors=2, outcomes=('logprob(" no such token")',))
    with pytest.raises(InputError, match="no such token"):
        hydra([Arm("", PLAIN)], Prompts.from_file(prompts_path()), options=options, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_what_a_sweep_cannot_read_is_refused(tiny):
    with pytest.raises(InputError, match=r"direct\(attn\[2\]\) is one node's direct effect"):
        swept_outcome(tiny("gpt2"), outcome_of("direct(attn[2])"))
    with pytest.raises(InputError, match="is not read at the last token"):
        swept_outcome(tiny("gpt2"), outcome_of("prob(target)@0"))


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """A run that reads three outcomes."""
    outcomes = ("logprob(target)", "kl", "logit_diff(target, 7)")
    options = Options(donors=3, limit=32, chunk=20, outcomes=outcomes)
    out = tmp_path_factory.mktemp("curved") / "run"
    return hydra([Arm("", PLAIN)], Prompts.from_file(prompts_path()), options=options, out=out)


def test_the_study_stores_them_in_their_own_units(varied):
    data = load(varied.path / "variants" / "outcome" / "logprob_target" / "effects.zarr")
    assert (data.attrs["units"], data["te"].attrs["units"], data["clean_logit"].attrs["units"]) == ("nats",) * 3
    assert data["clean_logit"].attrs["long_name"] == "logprob(target), nothing set"
    assert dict(data.sizes) == {"prompt": 32, "node": 16, "donor": 3, "responder": 0}
    assert (data["clean_logit"].values < 0).all()
    np.testing.assert_allclose(data["te"], data["de"] + data["ce"] + data["norm"], rtol=0, atol=1e-5)
    main = varied.results[0].data
    assert main.attrs["units"] == "logits (natural log units)" and main.sizes["responder"] == 15
    assert data["donor_index"].equals(main["donor_index"]) and data["target_id"].equals(main["target_id"])
    # At most as much as the logit falls: the log-probability falls less where the other logits fall too.
    assert np.nanmax(np.abs(data["te"] - main["te"])) > 0.1


def test_the_study_tells_them_in_their_own_units(varied):
    summaries = varied.results[0].variants
    keys = ("outcome", "unit", "by_responder")
    told = {place.rpartition("/")[2]: tuple(one[key] for key in keys) for place, one in summaries.items()}
    assert told == {
        "logprob_target": ("logprob(target)", "nats", False),
        "kl": ("kl", "nats", False),
        "logit_diff_target_7": ("logit_diff(target, 7)", "logits", True),
    }
    curved = summaries["variants/outcome/logprob_target"]
    assert "ce_attn" not in curved["nodes"][0] and "ce_attn" not in curved["pooled"]["all"]
    assert curved["nodes"][0]["responders"] == [] and "ce" in curved["pooled"]["all"]
    sentences = " ".join(curved["findings"])
    assert "logit" not in sentences and " nats" in sentences and "logprob(target)" in sentences
    assert "later layers" in sentences and "difference of forward passes" in sentences
    contrast = " ".join(summaries["variants/outcome/logit_diff_target_7"]["findings"])
    assert "lowers logit_diff(target, 7) directly" in contrast and "logit directly" not in contrast
    main = varied.results[0].summary
    assert (main["outcome"], main["unit"], main["by_responder"]) == ("logit(target)", "logits", True)


def test_tables_of_variants_have_their_units(varied):
    with (varied.path / "tables" / "variants.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    units = {row["variant"].rpartition("/")[2]: row["unit"] for row in rows}
    assert units == {"": "logits", "logprob_target": "nats", "kl": "nats", "logit_diff_target_7": "logits"}
    places = varied.results[0].variants
    held = {place: json.loads((varied.path / place / "summary.json").read_text()) for place in places}
    for row in rows:
        if row["variant"]:
            node = next(one for one in held[row["variant"]]["nodes"] if one["name"] == row["name"])
            for key in ("te", "ce_attn", "slope", "p_null", "above_drop"):  # a shifted row would show here
                assert row[key] == (f"{node[key]:.9g}" if key in node else "")


def test_the_report_says_why_there_are_no_responders(varied):
    page = (varied.path / "report.html").read_text(encoding="utf-8")
    payload = json.loads(page.partition('id="numbers-data">')[2].partition("</script>")[0])
    sets = {one["name"]: one for one in payload["sets"]}
    assert [sets[name]["unit"] for name in ("outcome: logprob_target", "plain")] == ["nats", "logits"]
    assert sets["outcome: kl"]["responds"] is False and sets["outcome: kl"]["responders"] == []
    assert sets["outcome: kl"]["read"] == "kl" and sets["plain"]["read"] == "the target's logit"
    members = payload["families"][0]["members"]
    assert [one["unit"] for one in members] == ["logits", "nats", "nats", "logits"]


def test_what_needs_responders_is_left_out(tiny, words, prompts):
    data = sweep_model(tiny("gpt2"), words, prompts, Options(donors=2), question=Question(outcome="entropy"))
    assert coupling(data) == [] and participation(data) == [] and consistency(data) == []
    assert {row["part"] for row in fits(data, bootstrap=49, permutations=49)} == {"ce", "self_repair"}
    with pytest.warns(FewPromptsWarning):
        summary = summarise(data, bootstrap=49, permutations=49)
    assert summary["closure_max_rel"] < 1e-6  # differences of the same passes
    assert "entropy" in " ".join(findings(summary))


def test_units_and_responders_must_be_those_of_the_outcome(tiny, words, prompts):
    from causalnet.effects import validate

    data = sweep_model(tiny("gpt2"), words, prompts, Options(donors=2), question=Question(outcome="entropy"))
    with pytest.raises(DataError, match="effects on kl are in 'nats"):
        validate(data.assign_attrs(expression="TE(attn[0]@last = resample; kl)"))
    with pytest.raises(DataError, match="te is in 'nats'; it needs 'probability'"):
        validate(data.assign_attrs(expression="TE(attn[0]@last = resample; prob(5))", units="probability"))
    linear = sweep_model(tiny("gpt2"), words, prompts, Options(donors=2))
    renamed = linear.assign_attrs(expression="TE(attn[0]@last = resample; entropy)", units="nats")
    for name in renamed.data_vars:
        if renamed[name].attrs["units"].startswith("logits"):
            renamed[name].attrs["units"] = "nats"
    with pytest.raises(DataError, match="responder is not empty"):
        validate(renamed)


def test_a_capped_logit_is_split_by_worlds(words, prompts):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    from causalnet.model.compile import compile_model

    with torch.random.fork_rng():
        torch.manual_seed(1)
        size = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
        config = Gemma2Config(**size, num_key_value_heads=2, intermediate_size=24, final_logit_softcapping=1.5)
        model = Gemma2ForCausalLM(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    mechanisms = compile_model(model.double().eval().requires_grad_(False), name="capped")
    capped = sweep_model(mechanisms, words, prompts, Options(donors=2), question=Question(outcome="logit(target)"))
    usual = sweep_model(mechanisms, words, prompts, Options(donors=2))
    assert capped.sizes["responder"] == 0 and usual.sizes["responder"] == 3
    assert capped["clean_logit"].max() < 3 < usual["clean_logit"].max()
    assert not words_of(capped).by_responder and words_of(usual).by_responder
    node = Component.of(Node("attn", 0)) @ last << RESAMPLE
    ids = tuple(tuple(words(text)["input_ids"]) for text in prompts.texts)
    inputs = Inputs(ids, targets=tuple(capped["target_id"].values.tolist()), donors=capped["donor_index"].values)
    told = split(PromptedModel(mechanisms, inputs), node, outcome=Outcome("logit", (TARGET,)))
    for part in PARTS:
        np.testing.assert_allclose(capped[part].sel(node="attn[0]"), getattr(told, part), rtol=0, atol=1e-5)
