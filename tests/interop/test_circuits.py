"""Hypothesised circuits against dithered data, adjustment sets, and why a read-out changed."""

import itertools
import time

import numpy as np
import pandas as pd
import pytest
import torch
from second_opinion import DENSE, NODES, TEXTS, TRUE, WRONG

import causalnet as cn
from causalnet.errors import GraphError, InputError, UnknownNodeError
from causalnet.graph import Block, CausalGraph
from causalnet.interop.dowhy import adjustment_set, dithered, falsify_circuit, to_gcm, unit_change

pytestmark = pytest.mark.filterwarnings("ignore::causalnet.effects.FewPromptsWarning")


@pytest.fixture(scope="module")
def data(stories):
    return dithered(stories, TEXTS, NODES, only=TRUE, rows=200)


def test_a_true_sparse_circuit_is_not_falsified(data):
    for test in ("linear", "kernel"):
        found = falsify_circuit(TRUE, data, test=test, permutations=30)
        assert found.tests == 14
        assert found.falsifiable
        assert not found.falsified, str(found)
        assert len(found.violations) <= 2


def test_a_wrong_one_is(data):
    found = falsify_circuit(WRONG, data, test="linear")
    assert found.falsifiable
    assert found.falsified
    assert len(found.violations) > 5
    assert "of 20 implied independences violated" in str(found)


def test_the_whole_model_has_more_edges(stories):
    whole = dithered(stories, TEXTS, NODES, rows=200)
    assert falsify_circuit(TRUE, whole, test="linear").falsified


def test_without_dither_even_the_true_one_is(stories):
    found = falsify_circuit(TRUE, dithered(stories, TEXTS, NODES, only=TRUE, dither=0.0, rows=200), test="linear")
    assert found.falsified


def test_the_dense_graph_is_refused(data):
    with pytest.raises(GraphError, match="implies 0 independences to test"):
        falsify_circuit(DENSE, data)


def test_nothing_is_falsified_where_nothing_is_violated():
    # Independent columns: exchanged circuits fit as well, which speaks against none of them.
    draw = np.random.default_rng(1)
    independent = pd.DataFrame(draw.standard_normal((100, 4)), columns=["attn.00", "attn.01", "mlp.00", "mlp.01"])
    found = falsify_circuit(["attn[0] -> mlp[0]", "mlp[0] -> attn[1]", "attn[1] -> mlp[1]"], independent, test="linear",
                            significance=0.001)  # fmt: skip
    assert not found.violations
    assert not found.falsified


def test_heads_of_a_layer_do_not_reach_each_other(tiny, prompts):
    nodes = [f"attn[{layer}].head[{head}]" for layer in (0, 1, 2) for head in (0, 1)]
    found = dithered(tiny("parallel-two-norms"), prompts, nodes, rows=60)
    assert list(found) == [f"attn.{layer:02d}.head.{head:02d}" for layer in (0, 1, 2) for head in (0, 1)]
    edges = [f"{a} -> {b}" for a, b in itertools.combinations(nodes, 2) if a[:7] != b[:7]]
    assert falsify_circuit(edges, found, test="linear", permutations=10).tests == 6


def test_what_it_refuses(data, tiny, prompts):
    model = tiny("sequential")
    with pytest.raises(GraphError, match="cycle"):
        falsify_circuit(["attn[0] -> mlp[0]", "mlp[0] -> attn[0]"], data)
    with pytest.raises(UnknownNodeError, match="no column of attn"):
        falsify_circuit(["attn[0] -> attn[4]"], data)
    with pytest.raises(InputError, match="did you mean 'kernel'"):
        falsify_circuit(TRUE, data, test="kernels")
    with pytest.raises(InputError, match="at least 2"):
        dithered(model, prompts[:1], ["attn[0]", "mlp[1]"])
    with pytest.raises(InputError, match="is not dithered"):
        dithered(model, prompts, ["norm"])
    with pytest.raises(InputError, match="the same in every prompt"):
        dithered(model, ["a b", "a b"], ["attn[0]", "mlp[1]"])


def test_adjustment_sets():
    graph = CausalGraph.from_blocks([Block(layer) for layer in range(4)])
    assert adjustment_set(graph, "attn[0]") == graph.resolve("embed")
    parents = graph.ordered(graph.parents("mlp[2]"))
    assert adjustment_set(graph, "mlp[2]", "attn[3]") == parents
    assert adjustment_set(graph, "embed", "mlp[1]") == ()
    with pytest.raises(GraphError, match="no set of the observed nodes"):
        adjustment_set(graph, "mlp[2]", observed=["mlp[1]", "attn[2]"])
    with pytest.raises(GraphError, match="not downstream"):
        adjustment_set(graph, "mlp[2]", "attn[1]")
    sparse = CausalGraph.from_edges(NODES, TRUE)
    assert [str(node) for node in adjustment_set(sparse, "attn[1]", "attn[2]")] == []
    large = CausalGraph.from_blocks([Block(layer) for layer in range(96)])
    started = time.perf_counter()
    assert len(adjustment_set(large, "attn[40]")) == 81
    assert time.perf_counter() - started < 20


def test_the_change_between_clean_and_ablated(tiny, prompts):
    model = tiny("sequential")
    twin = to_gcm(model, prompts)
    ablated = twin.samples({"attn.01": twin.setting(lambda prompt, value: 0 * value)})
    shares = unit_change(twin, twin, ablated)
    assert list(shares) == [str(node) for node in model.graph.contributors]
    effect = model.evaluate("TE(attn[1] = zero)", prompts)
    np.testing.assert_allclose(shares.sum(axis=1), effect.values, atol=1e-9)
    # What lies upstream did not change, so it has no share.
    assert np.abs(shares[["embed", "attn[0]", "mlp[0]"]].to_numpy()).max() < 1e-12
    assert (shares["attn[1]"].abs() > 1e-6).all()
    grouped = unit_change(twin, twin, ablated, groups={"last": ["attn[2]", "mlp[2]"]})
    assert list(grouped) == ["last", "rest"]
    np.testing.assert_allclose(grouped.sum(axis=1), effect.values, atol=1e-9)
    with pytest.raises(InputError, match="does not contribute"):
        unit_change(twin, twin, ablated, groups={"n": ["norm"]})


def test_the_change_between_base_and_tuned(tiny, prompts):
    import copy

    base = tiny("sequential")
    hf = copy.deepcopy(base.mechanisms.hf)
    with torch.no_grad():
        hf.transformer.h[1].mlp.c_proj.weight.mul_(1.2)
        hf.transformer.ln_f.weight.mul_(1.1)
    tuned = cn.compile(hf, tokenizer=base.tokenizer)
    shares = unit_change(to_gcm(base, prompts), to_gcm(tuned, prompts))
    assert list(shares)[-1] == "readout"
    targets = base.evaluate("E[logit(target)]", prompts)
    for row, token in enumerate(targets.targets):
        changed = tuned.evaluate(f"E[logit({token})]", prompts).values[row] - targets.values[row]
        assert shares.iloc[row].sum() == pytest.approx(changed, abs=1e-9)
    assert (shares["readout"].abs() > 1e-3).all()
    assert (shares["mlp[1]"].abs() > 1e-6).all()
    assert np.abs(shares[["embed", "attn[1]"]].to_numpy()).max() < 1e-12
    with pytest.raises(InputError, match="different prompts"):
        unit_change(to_gcm(base, prompts), to_gcm(tuned, prompts[:2]))
