"""What is asked besides the main sweep: kinds of ablation, positions, outcomes, heads, strata, checkpoints."""

import json
from pathlib import Path

import numpy as np
import pytest

from causalnet.demo import model_path, prompts_path
from causalnet.effects import load
from causalnet.effects.asking import PromptedModel
from causalnet.effects.decompose import split
from causalnet.engine.inputs import Inputs
from causalnet.errors import CausalnetError, InputError
from causalnet.expr import Outcome, attn, mlp, pos, resample, zero
from causalnet.expr.outcomes import TARGET
from causalnet.prompts import Prompts
from causalnet.studies import sweeps
from causalnet.studies.chunks import ChunkPlan, Size, plan_chunks
from causalnet.studies.filters import keep
from causalnet.studies.hydra import Arm, Options, hydra
from causalnet.studies.models import Models
from causalnet.studies.options import bytes_of
from causalnet.studies.subjects import subject
from causalnet.studies.sweeps import Question, sweep_model
from causalnet.studies.variants import checkpoints, strata

PLAIN = str(model_path("plain"))
ASKED = {
    "resample": Question(),
    "zero": Question("zero"),
    "mean": Question("mean"),
    "earlier": Question(position="-2"),
    "range": Question("zero", position="1:3"),
    "contrast": Question(outcome="logit_diff(target, 5)"),
    "curved": Question(outcome="prob(5)"),
    "heads": Question(heads=True),
}


@pytest.mark.parametrize("name", list(ASKED))
@pytest.mark.parametrize("family", ["llama", "neox-parallel"])
def test_chunks_do_not_change_what_is_measured(tiny, words, prompts, family, name):
    mechanisms = tiny(family)
    whole = sweep_model(mechanisms, words, prompts, Options(donors=2, chunk=7), question=ASKED[name])
    cut = sweep_model(mechanisms, words, prompts, Options(donors=2, chunk=3), question=ASKED[name])
    size = float(np.nanmax(np.abs(whole["te"])))
    assert size > 0.01
    for variable in ("te", "de", "ce", "norm", "delta_de", "clean_direct", "clean_responder", "clean_logit"):
        np.testing.assert_allclose(cut[variable], whole[variable], rtol=0, atol=2e-6 * size, err_msg=variable)
    assert cut.drop_vars(whole.data_vars).identical(whole.drop_vars(whole.data_vars).assign_attrs(run=cut.attrs["run"]))


def test_blocks_of_nodes_do_not_change_what_is_measured(tiny, words, prompts, monkeypatch):
    mechanisms = tiny("gpt2")
    whole = sweep_model(mechanisms, words, prompts, Options(donors=2))
    monkeypatch.setattr(sweeps, "plan_chunks", lambda size, **_: ChunkPlan(size.prompts, size.nodes, 3, 4))
    cut = sweep_model(mechanisms, words, prompts, Options(donors=2))
    for variable in whole.data_vars:
        if whole[variable].dtype.kind == "f":
            np.testing.assert_allclose(cut[variable], whole[variable], rtol=0, atol=1e-5, err_msg=str(variable))


def test_a_chunk_is_a_function_of_its_place_alone(tiny, words, prompts):
    """Computed first, last, alone or twice, on another machine or not: the same bytes."""
    options = Options(donors=2, chunk=3)
    jobs = [sweeps.job(subject(tiny("llama"), words, prompts, options), Question(), options) for _ in range(2)]
    chunks = list(jobs[0].plan)
    forth = {chunk.name: sweeps.compute(jobs[0], chunk) for chunk in chunks}
    back = {chunk.name: sweeps.compute(jobs[1], chunk) for chunk in reversed(chunks)}
    for name, arrays in forth.items():
        assert all(array.tobytes() == back[name][key].tobytes() for key, array in arrays.items())


def test_noise_differs_between_draws_nodes_and_prompts_and_comes_from_the_seed(tiny, words, prompts):
    mechanisms = tiny("llama")
    asked = {"question": Question("noise")}
    first, again, other = (
        sweep_model(mechanisms, words, prompts, Options(donors=4, chunk=3, seed=seed), **asked) for seed in (1, 1, 2)
    )
    assert first["te"].equals(again["te"]) and not first["te"].equals(other["te"])
    assert (first.attrs["ablation"], first.attrs["donor_pool"]) == ("noise(1.0)", "none")
    assert first["te"].shape == (7, 6, 4)
    # Rows of different chunks that have the same place in them must not share their noise.
    values = first["de"].values.reshape(-1)
    assert len(np.unique(values)) == len(values)
    whole = sweep_model(mechanisms, words, prompts, Options(donors=4, chunk=7, seed=1), **asked)
    np.testing.assert_allclose(first["te"], whole["te"], rtol=0, atol=1e-5)  # however the work is cut


@pytest.mark.parametrize("where", ["last", "-2"])
@pytest.mark.parametrize("outcome", [Outcome("logit", (TARGET,)), Outcome("logit_diff", (TARGET, 5))], ids=str)
def test_positions_and_outcomes_are_those_of_the_estimands(tiny, words, prompts, where, outcome):
    """The same cells by worlds, through the named effects of the do-language."""
    mechanisms = tiny("gpt2")
    asked = Question(position=where, outcome="" if outcome.name == "logit" else str(outcome))
    data = sweep_model(mechanisms, words, prompts, Options(donors=2, chunk=4), question=asked)
    assert data.attrs["expression"].startswith(f"TE(attn[0]@{where} = resample")
    ids = tuple(tuple(words(text)["input_ids"]) for text in prompts.texts)
    inputs = Inputs(ids, targets=tuple(data["target_id"].values.tolist()), donors=data["donor_index"].values)
    place = pos[-1] if where == "last" else pos[-2]
    assert bool(np.nan_to_num(data["de"].values).any()) is (where == "last")
    for node, name in ((attn[0], "attn[0]"), (mlp[1], "mlp[1]")):
        found = split(PromptedModel(mechanisms, inputs), node @ place << resample, outcome=outcome)
        size = np.nanmax(np.abs(found.te))
        cell = data.sel(node=name)
        for part in ("te", "de", "ce", "norm"):
            np.testing.assert_allclose(cell[part], getattr(found, part), rtol=0, atol=1e-5 * size, err_msg=part)
        for j, responder in enumerate(found.responders):
            if str(responder) in data["responder"].values:
                change = cell["delta_de"].sel(responder=str(responder))
                np.testing.assert_allclose(change, found.delta_de[..., j], rtol=0, atol=1e-5 * size)


def test_heads_add_up_to_their_layer(tiny, words, prompts):
    options = Options(ablation="zero")
    layers = sweep_model(tiny("llama"), words, prompts, options)
    heads = sweep_model(tiny("llama"), words, prompts, options, question=Question("zero", heads=True))
    assert heads["node"].values.tolist()[:4] == [
        "attn[0].head[0]",
        "attn[0].head[1]",
        "attn[0].head[2]",
        "attn[1].head[0]",
    ]
    assert heads.sizes["node"] == 9
    whole = layers["clean_direct"].sel(node=["attn[0]", "attn[1]", "attn[2]"]).values
    np.testing.assert_allclose(heads["clean_direct"].values.reshape(7, 3, 3).sum(-1), whole, atol=1e-5)
    np.testing.assert_allclose(heads["de"].values[..., 0], -heads["clean_direct"].values, atol=1e-5)
    model, found = PromptedModel(tiny("llama"), Inputs(_ids(words, prompts))), {}
    found = split(model, attn[1].head[2] @ pos[-1] << zero)
    np.testing.assert_allclose(heads["te"].sel(node="attn[1].head[2]"), found.te, atol=1e-5)
    assert "mlp[2]" in heads["responder"].values and "attn[2].head[0]" in heads["responder"].values


def _ids(words, prompts):
    return tuple(tuple(words(text)["input_ids"]) for text in prompts.texts)


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """A run of every kind of variant."""
    options = Options(
        ablation="resample,zero,noise", donors=3, limit=32, chunk=20, positions=("-2",), heads=True, frozen_norm=True,
        outcomes=("logit_diff(target, 7)",), strata=("length", "phrasing"), checkpoints=str(Path(PLAIN).parent),
    )  # fmt: skip
    out = tmp_path_factory.mktemp("varied") / "run"
    return hydra([Arm("", PLAIN)], Prompts.from_file(prompts_path()), options=options, out=out)


def test_every_variant_has_its_folder_with_the_same_schema(varied):
    found = {
        one.parent.relative_to(varied.path / "variants").as_posix()
        for one in varied.path.glob("variants/*/*/summary.json")
    }
    assert found >= {
        "ablation/zero",
        "ablation/noise",
        "position/-2",
        "outcome/logit_diff_target_7",
        "granularity/head",
    }
    assert found >= {"norm/frozen", "checkpoint/plain", "checkpoint/dropped"}
    assert {f"variants/{one}" for one in found} == set(varied.results[0].variants)
    assert any(one.startswith("strata/length=") for one in found)
    for one in found:
        data = load(varied.path / "variants" / one / "effects.zarr")
        summary = json.loads((varied.path / "variants" / one / "summary.json").read_text(encoding="utf-8"))
        assert summary["closure_max_rel"] < 1e-4
        assert [node["name"] for node in summary["nodes"]] == data["node"].values.tolist()
    assert varied.misfits == []


def test_variants_are_on_the_same_prompts_with_the_same_donors(varied):
    main, others = load(varied.path / "effects.zarr"), {}
    for one in ("ablation/zero", "position/-2", "outcome/logit_diff_target_7", "checkpoint/plain", "norm/frozen"):
        others[one] = load(varied.path / "variants" / one / "effects.zarr")
        np.testing.assert_array_equal(others[one]["text"], main["text"])
        np.testing.assert_array_equal(others[one]["target_id"], main["target_id"])
        if one != "ablation/zero":
            np.testing.assert_array_equal(others[one]["donor_index"], main["donor_index"])
    for name in ("te", "delta_de"):
        np.testing.assert_array_equal(others["checkpoint/plain"][name], main[name])


def test_a_frozen_norm_takes_its_part_out_of_the_total_effect(varied):
    main, frozen = load(varied.path / "effects.zarr"), load(varied.path / "variants/norm/frozen/effects.zarr")
    np.testing.assert_array_equal(frozen["te"], main["te"] - main["norm"])
    assert not frozen["norm"].any()
    assert np.abs(main["norm"]).max() > 0.1
    assert "norm held" in frozen.attrs["estimand"]


def test_strata_are_the_prompts_of_one_value(varied):
    main = load(varied.path / "effects.zarr")
    (folder, *_) = sorted(varied.path.glob("variants/strata/length=*"))
    part = load(folder / "effects.zarr")
    rows = part["prompt"].values
    assert 10 <= len(rows) < 32
    for name in ("te", "delta_de", "text", "donor_index"):
        np.testing.assert_array_equal(part[name], main[name][rows])
    assert any("strata of fewer than 10 prompts are not shown" in one for one in varied.results[0].summary["warnings"])


def test_strata_of_an_unknown_feature_are_refused_before_anything_runs(tmp_path):
    options = Options(ablation="zero", limit=12, strata=("lenght",))
    with pytest.raises(CausalnetError, match="no prompt has a feature 'lenght'; did you mean 'length'"):
        hydra([Arm("", PLAIN)], Prompts.from_file(prompts_path()), options=options, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    assert strata(Prompts(("a",)), [3], []) == {}


def test_numbers_of_many_values_are_strata_of_four_groups():
    lengths = [*range(1, 21), 20, 20, 20, 20]
    found = strata(Prompts(("a",) * 24), lengths, ["length"])
    assert list(found) == [("length", label) for label in ("1-6", "7-12", "13-18", "19-20")]
    assert sorted(row for rows in found.values() for row in rows) == list(range(24))
    assert found["length", "19-20"] == [18, 19, 20, 21, 22, 23]
    few = strata(Prompts(("a",) * 3), [5, 10, 9], ["length"])
    assert list(few) == [("length", "5"), ("length", "9"), ("length", "10")]


def test_checkpoints_come_in_the_order_of_their_steps(tmp_path):
    for name in ("step-1000", "step-200", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "logs").mkdir()
    assert list(checkpoints(tmp_path)) == ["final", "step-200", "step-1000"]
    with pytest.raises(InputError, match="holds no checkpoint"):
        checkpoints(tmp_path / "logs")


def test_filters_say_what_they_dropped_and_why():
    prompts = Prompts.from_file(prompts_path())
    names = list(dict.fromkeys(prompts.feature("relation")))
    options = Options(relations=tuple(names[:2]), correct_only=True, single_token_answers=True, limit=20)
    kept = keep(prompts, options, [Arm("", PLAIN)], Models(options))
    assert set(kept.feature("relation")) <= set(names[:2])
    reasons = [one.reason for one in kept.dropped]
    assert reasons[0].startswith("relation is not ")
    assert reasons[-1] == "beyond the first 20"
    assert sum(one.count for one in kept.dropped) + len(kept) == len(prompts)
    unanswered = Prompts.from_texts(list(prompts.texts[:3]))
    with pytest.raises(InputError, match="no prompt has an answer"):
        keep(unanswered, Options(correct_only=True), [Arm("", PLAIN)], Models(options))


def test_correct_prompts_are_those_that_the_model_answers():
    prompts = Prompts.from_file(prompts_path()).take(6)
    records = [{"prompt": one.text, "answer": one.answer if place % 2 else " dog"} for place, one in enumerate(prompts)]
    kept = keep(Prompts.from_records(records), Options(correct_only=True), [Arm("", PLAIN)], Models(Options()))
    assert kept.texts == tuple(one["prompt"] for one in records[1::2])
    assert kept.dropped[-1].reason == "plain's most likely token is not the answer's first"


def test_chunks_fit_into_memory_and_cover_everything_once():
    size = Size(prompts=1209, nodes=64, donors=15, responders=64, width=4096, item=2)
    for memory in ("64MiB", "256MiB", "2GiB"):
        plan = plan_chunks(size, memory=bytes_of(memory))
        seen = np.zeros((1209, 64), dtype=int)
        for chunk in plan:
            seen[slice(*chunk.prompts), slice(*chunk.nodes)] += 1
        assert (seen == 1).all() and len({chunk.name for chunk in plan}) == len(plan) == sum(1 for _ in plan)
        assert plan.prompt_step * (size.prompt + plan.node_step * size.cell) <= bytes_of(memory) // 2
    # However many prompts there are, a chunk is no larger.
    more = plan_chunks(Size(**{**vars(size), "prompts": 10**6}), memory=bytes_of("2GiB"))
    assert more.prompt_step <= plan.prompt_step
