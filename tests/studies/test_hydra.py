"""A run of both embedded models: what it writes, and that its numbers are what they are called."""

import json
import math
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from causalnet.demo import ARMS, model_path, prompts_path
from causalnet.draw.report import read_run
from causalnet.effects import load
from causalnet.errors import InputError, PromptError
from causalnet.graph import CausalGraph
from causalnet.prompts import Prompts
from causalnet.studies import finish
from causalnet.studies import hydra as study
from causalnet.studies.hydra import Arm, Options, hydra

SUMMARY = {"model", "prompts", "donors", "closure_max_abs", "closure_max_rel", "wall_s", "nodes", "findings"}
NODE = {
    *("name", "de", "te", "ce", "ce_attn", "ce_mlp", "norm"),
    *("slope", "slope_ci", "r2", "p_null", "slope_lost"),
}


def _json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def _numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, float):
        yield value


def test_a_run_of_both_models_holds_what_it_should(demo_run):
    shared = {"report.html", "comparison.json", "plan.json", "prompts.jsonl"}
    assert {one.name for one in demo_run.path.iterdir()} == {"plain", "dropped"} | shared
    for name in ARMS:
        held = {one.name for one in (demo_run.path / name).iterdir()}
        drawn = {"graph.svg"} if shutil.which("dot") else {"graph.dot"}
        assert held - drawn == {"effects.zarr", "summary.json", "report.html", "graph.json", "tables"}
        assert held & drawn
    held = read_run(demo_run.path)
    assert [arm.name for arm in held.arms] == list(ARMS)
    assert held.comparison is not None
    assert held.comparison["names"] == list(ARMS)
    assert "fits (plain)" in held.tables


def test_the_picture_and_the_graph_are_of_the_model(demo_run):
    for result in demo_run.results:
        folder = demo_run.path / result.name
        assert CausalGraph.from_json((folder / "graph.json").read_text(encoding="utf-8")) == result.graph
        assert [str(node) for node in result.graph.contributors][1:3] == ["attn[0]", "mlp[0]"]
        if shutil.which("dot"):
            assert "<svg" in (folder / "graph.svg").read_text(encoding="utf-8")


def test_the_report_says_what_was_found(demo_run):
    import html

    whole = html.unescape((demo_run.path / "report.html").read_text(encoding="utf-8"))
    for result in demo_run.results:
        own = html.unescape((demo_run.path / result.name / "report.html").read_text(encoding="utf-8"))
        assert len(result.summary["findings"]) == 5
        for sentence in result.summary["findings"]:
            assert sentence in own
            assert sentence in whole
    for sentence in demo_run.comparison["findings"]:
        assert sentence in whole


def test_the_summary_is_what_the_data_say(demo_run):
    """Every number of issue's list, recomputed from the stored data in plain numpy."""
    for result in demo_run.results:
        folder = demo_run.path / result.name
        summary, data = _json(folder / "summary.json"), load(folder / "effects.zarr")
        assert summary >= SUMMARY if isinstance(summary, set) else set(summary) >= SUMMARY
        assert (summary["model"], summary["prompts"], summary["donors"]) == (result.name, 36, 4)
        assert summary["wall_s"] > 0
        assert all(math.isfinite(number) for number in _numbers(summary))
        assert data.sizes == {"prompt": 36, "node": 16, "donor": 4, "responder": 15}
        wide = {name: data[name].values.astype(float) for name in ("te", "de", "ce", "norm", "delta_de")}
        kinds = np.array([name.partition("[")[0] for name in data["responder"].values.tolist()])
        for i, node in enumerate(summary["nodes"]):
            assert set(node) >= NODE
            assert node["name"] == data["node"].values[i]
            for name in ("te", "de", "ce", "norm"):
                assert node[name] == pytest.approx(wide[name][:, i].mean(), abs=1e-6)
            for kind in ("attn", "mlp"):
                part = wide["delta_de"][:, i][..., kinds == kind].sum(-1)
                assert node[f"ce_{kind}"] == pytest.approx(part.mean(), abs=1e-6)
            ce = wide["ce"][:, i].mean(-1)
            clean = data["clean_direct"].values[:, i].astype(float)
            lost = -wide["de"][:, i].mean(-1)
            if not ce.any():
                zero = {node["slope"], *node["slope_ci"], node["r2"], node["slope_lost"], node["ce"]}
                assert zero == {0.0}
                continue
            assert node["slope"] == pytest.approx(np.polyfit(clean, ce, 1)[0], rel=1e-4, abs=1e-6)
            assert node["slope_lost"] == pytest.approx(np.polyfit(lost, ce, 1)[0], rel=1e-4, abs=1e-6)
            assert node["r2"] == pytest.approx(np.corrcoef(clean, ce)[0, 1] ** 2, rel=1e-4, abs=1e-6)
            assert node["slope_ci"][0] <= node["slope"] <= node["slope_ci"][1]
            assert 0 < node["p_null"] <= 1
        assert not np.asarray(wide["ce"][:, -1]).any()  # nothing comes after the last MLP


def test_the_closure_is_that_of_the_data_and_is_small(demo_run):
    for result in demo_run.results:
        data, summary = load(demo_run.path / result.name / "effects.zarr"), result.summary
        residual = np.abs(data["residual"].values.astype(float))
        parts = np.abs(data["de"].values) + np.abs(data["delta_de"].values).sum(-1) + np.abs(data["norm"].values)
        size = np.maximum(parts, np.abs(data["clean_logit"].values)[:, None, None])
        assert summary["closure_max_abs"] == pytest.approx(residual.max(), rel=1e-6)
        assert summary["closure_max_rel"] == pytest.approx((residual / size).max(), rel=1e-5)
        assert summary["closure_max_rel"] < 1e-4
    assert demo_run.misfits == []


def test_a_split_that_does_not_close_is_a_misfit(demo_run, monkeypatch):
    monkeypatch.setattr(finish, "CLOSES", {"float32": 0.0})
    assert len(demo_run.misfits) == 2
    assert "plain: closure residual" in demo_run.misfits[0]


def test_the_run_says_how_it_was_made(demo_run):
    record = json.loads(load(demo_run.path / "plain" / "effects.zarr").attrs["run"])
    assert record["seed"] == 0
    assert (record["dtype"], record["device"]) == ("float32", "cpu")
    assert record["arguments"]["given"] == {"donors": 4, "limit": 36}
    assert record["arguments"]["defaulted"]["ablation"] == "resample"
    assert set(record["versions"]) >= {"torch", "transformers", "numpy", "python"}
    (dropped,) = record["prompts"]["dropped"]
    assert dropped.startswith("1064 of 1100 prompts dropped: beyond the first 36 (first: ")
    assert record["prompts"] == {"source": "prompts.jsonl", "count": 36, "notes": [], "dropped": [dropped]}


def test_both_arms_met_the_same_donors_and_targets(demo_run):
    plain, dropped = (result.data for result in demo_run.results)
    assert plain["target"].values.tolist() == dropped["target"].values.tolist()
    np.testing.assert_array_equal(plain["donor_index"], dropped["donor_index"])


def test_progress_is_told_and_ends(tmp_path):
    told = []
    prompts = Prompts.from_file(prompts_path())
    hydra(
        [Arm("", str(model_path("plain")))],
        prompts,
        options=Options(ablation="zero", limit=30),
        out=tmp_path / "run",
        progress=lambda *what: told.append(what),
    )
    assert {what for what, _, _ in told} == {"plain: sweep", "figures and report"}
    for label in ("plain: sweep", "figures and report"):
        steps = [(done, total) for what, done, total in told if what == label]
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]
    held = {one.name for one in (tmp_path / "run").iterdir()} - {"graph.dot", "graph.svg"}
    assert held == {"effects.zarr", "summary.json", "report.html", "graph.json", "plan.json", "prompts.jsonl", "tables"}


@pytest.mark.parametrize(
    "arms", [[], [Arm("a", "m"), Arm("a", "n")], [Arm("", "m"), Arm("b", "n")], [Arm("..", "m"), Arm("b/c", "n")]]
)
def test_arms_need_names_of_their_own(arms, tmp_path):
    with pytest.raises(InputError):
        hydra(arms, Prompts.from_texts(["a"]), out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_when_the_second_arm_fails(tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(model_path("dropped"), broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.3.mlp.down_proj.weight"] *= float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    prompts = Prompts.from_file(prompts_path())
    arms = [Arm("plain", str(model_path("plain"))), Arm("broken", str(broken))]
    with pytest.raises(Exception, match=r"(?i)nan|finite"):
        hydra(arms, prompts, options=Options(ablation="zero", limit=30), out=tmp_path / "run")
    assert {one.name for one in tmp_path.iterdir()} == {"broken"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ablation": "zer"}, "did you mean 'zero'"),
        ({"donors": 0}, "donors is 0"),
        ({"donors": -3}, "donors is -3"),
        ({"limit": 0}, "limit is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_are_checked(given, words):
    with pytest.raises(InputError, match=words):
        Options(**given)


def test_one_prompt_has_no_donors_but_can_be_zeroed(tiny, words, prompts):
    one = prompts.take(1)
    with pytest.raises(PromptError, match="no other prompt to draw donors from"):
        study.sweep_model(tiny("llama"), words, one, Options())
    data = study.sweep_model(tiny("llama"), words, one, Options(ablation="zero"))
    assert dict(data.sizes) == {"prompt": 1, "node": 6, "donor": 1, "responder": 5}


def test_donors_with_the_same_target_are_a_choice(tiny, words, prompts):
    strict = study.sweep_model(tiny("gpt2"), words, prompts, Options(donors=6))
    loose = study.sweep_model(tiny("gpt2"), words, prompts, Options(donors=6, same_target_donors=True))
    assert strict["donors_used"].values.min() < 6
    assert (loose["donors_used"].values == 6).all()
