"""The sweep: planned run against plain forwards, closure, and responders from the graph."""

from pathlib import Path

import numpy as np
import pytest
import torch

from causalnet.effects.parts import closure
from causalnet.effects.sweep import cells, find_targets, plan_sweep
from causalnet.engine.inputs import Inputs
from causalnet.engine.plain import run_plain
from causalnet.engine.run import run
from causalnet.expr.values import MEAN, RESAMPLE, ZERO
from causalnet.graph import Node
from causalnet.model.compile import compile_model
from causalnet.model.load import load_model, load_tokenizer
from causalnet.prompts import Prompts, choose_donors
from causalnet.studies.hydra import Options, sweep_model

STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260K"
TEXTS = (
    "Once upon a time, there was a little girl named",
    "One day, a boy went to the",
    "The dog was very",
    "Lily and her mom went to",
    "Tom had a big red",
)


@pytest.fixture(scope="module")
def stories():
    if not STORIES.is_dir():
        pytest.skip("stories260K is not beside the project")
    return lambda dtype: (compile_model(load_model(STORIES, dtype=dtype), name="stories"), load_tokenizer(STORIES))


@pytest.mark.parametrize("value", [RESAMPLE, ZERO, MEAN], ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2", "neox-parallel"])
def test_every_reading_of_the_sweep_equals_a_plain_forward(tiny, words, prompts, family, value):
    mechanisms = tiny(family)
    _compare_with_plain(mechanisms, tuple(tuple(words(text)["input_ids"]) for text in prompts.texts[:4]), value)


def test_every_reading_of_the_sweep_equals_a_plain_forward_on_stories(stories):
    mechanisms, tokenizer = stories("float64")
    _compare_with_plain(mechanisms, tuple(tuple(tokenizer(text)["input_ids"]) for text in TEXTS[1:4]), RESAMPLE)


def _compare_with_plain(mechanisms, ids, value):
    targets = find_targets(mechanisms, Inputs(ids))
    donors = None
    if value == RESAMPLE:
        donors = choose_donors(targets.tolist(), donors=2, seed=0, exclude_same_target=False)
    inputs = Inputs(ids, targets=tuple(targets.tolist()), donors=donors)
    nodes = [node for node in mechanisms.graph.contributors if node.kind in ("attn", "mlp")]
    planned = plan_sweep(mechanisms, cells(mechanisms.graph, nodes, value), inputs)
    trace, plain = run(mechanisms, planned, inputs), run_plain(mechanisms, planned, inputs)
    size = max(float(np.nanmax(np.abs(table))) for table in plain.values())
    bound = 1e-6 if mechanisms.config.model_type == "llama" else 1e-9
    assert len(plain) >= 38
    for reading, table in plain.items():
        np.testing.assert_allclose(trace[reading], table, rtol=0, atol=bound * size, err_msg=str(reading))


@pytest.mark.parametrize("ablation", ["resample", "zero"])
@pytest.mark.parametrize(
    ("family", "dtype", "bound"),
    [
        *[(family, torch.float32, 1e-4) for family in ("llama", "gpt2", "neox-parallel", "neox-sequential")],
        ("llama", torch.float64, 1e-6),  # its norms compute in float32 whatever the dtype
        *[(family, torch.float64, 1e-9) for family in ("gpt2", "neox-parallel", "neox-sequential")],
    ],
)
def test_the_split_closes(tiny, words, prompts, family, dtype, bound, ablation):
    data = sweep_model(tiny(family, dtype), words, prompts, Options(ablation=ablation, donors=3))
    _, relative = closure(data)
    logits = np.abs(data["residual"].values) / np.abs(data["clean_logit"].values)[:, None, None]
    assert relative < bound
    assert np.nanmax(logits) < 10 * bound  # the clean logit alone can be small
    assert np.nanmax(np.abs(data["norm"])) > 1e-2  # the term that is left out when the norm is taken as fixed


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("float64", 1e-6)])
def test_the_split_closes_on_stories(stories, dtype, bound):
    mechanisms, tokenizer = stories(dtype)
    data = sweep_model(mechanisms, tokenizer, Prompts.from_texts(TEXTS), Options(donors=3))
    assert closure(data)[1] < bound
    assert np.abs(data["te"]).max() > 1


def test_low_precision_runs_and_says_how_badly_it_closes(tiny, words, prompts):
    data = sweep_model(tiny("llama", torch.bfloat16), words, prompts, Options(ablation="zero"))
    assert 1e-5 < closure(data)[1] < 0.3


def test_a_removed_edge_takes_a_responder_out_of_ce_and_shows_in_the_residual(tiny, words, prompts):
    mechanisms, options = tiny("llama"), Options(ablation="zero")
    whole = sweep_model(mechanisms, words, prompts, options)
    # Without its edge to the logits mlp[2] does not count as a responder (nor is it ablated).
    cut = mechanisms.graph.remove_edges([("mlp[2]", "logits")])
    less = sweep_model(mechanisms, words, prompts, options, graph=cut)
    assert "mlp[2]" not in less["responder"].values
    assert "mlp[2]" not in less["node"].values
    lost = whole["delta_de"].sel(responder="mlp[2]", node=less["node"], drop=True)
    assert float(np.abs(lost).min("donor").max()) > 0.1
    np.testing.assert_allclose(less["ce"], whole["ce"].sel(node=less["node"]) - lost, atol=1e-5)
    np.testing.assert_allclose(less["residual"], lost, atol=1e-5)
    assert closure(whole)[1] < 1e-6
    assert closure(less)[1] > 1e-2


def test_responders_are_descendants_not_later_layers(tiny, words, prompts):
    mechanisms, options = tiny("gpt2"), Options(ablation="zero")
    whole = sweep_model(mechanisms, words, prompts, options)
    # attn[1] no longer reaches anything but the readout, so its CE is nothing at all.
    edges = [("attn[1]", child) for child in mechanisms.graph.children("attn[1]") if child.contributes]
    less = sweep_model(mechanisms, words, prompts, options, graph=mechanisms.graph.remove_edges(edges))
    assert float(np.abs(whole["ce"].sel(node="attn[1]")).max()) > 0.1
    assert float(np.abs(less["ce"].sel(node="attn[1]")).max()) == 0.0
    np.testing.assert_allclose(less["residual"].sel(node="attn[1]"), whole["ce"].sel(node="attn[1]"), atol=1e-6)
    others = [name for name in whole["node"].values.tolist() if name != "attn[1]"]
    np.testing.assert_array_equal(less["ce"].sel(node=others), whole["ce"].sel(node=others))


def test_a_cell_says_what_it_asks(tiny):
    graph = tiny("llama").graph
    (cell,) = cells(graph, [Node("attn", 1)], RESAMPLE)
    assert cell.expression == "TE(attn[1]@last = resample)"
    assert [str(node) for node in cell.responders] == ["mlp[1]", "attn[2]", "mlp[2]"]
    from causalnet.expr import parse

    assert str(parse(cell.expression)) == cell.expression
