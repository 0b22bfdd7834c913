"""The executable twin against the engine: two implementations of ``do`` that share only the language."""

import networkx as nx
import numpy as np
import pytest
import torch

from causalnet.errors import ExpressionError, GraphError, InputError
from causalnet.interop.dowhy import to_gcm

pytestmark = pytest.mark.filterwarnings("ignore::causalnet.effects.FewPromptsWarning")

KINDS = ("sequential", "sequential-rms", "parallel-one-norm", "parallel-two-norms", "post-norm", "sandwich",
         "residual-inside")  # fmt: skip

SENTENCES = (
    "E[logit(target) | do(attn[0]@last = zero, mlp[1] = scale(0.5))]",
    "TE(attn[1]@last = resample)",
    "DE(attn[0]@-2: = mean; logprob(target))",
    "TIE(mlp[0]@subject = patch(\"corrupt\"); prob(target))",
    "E[entropy | do(embed@1 = add(\"each\", 0.5), attn[2]@last = value(\"one\"))]",
    "E[kl | do(mlp[1] = project_out(\"one\"))]",
    "E[logit(7) | do(attn[0] -> mlp[1] = zero, mlp[0] -> norm = resample, mlp[0]@last -> logits = natural)]",
    "E[direct(mlp[2]) | do(attn[1]@last = zero)] - E[direct(mlp[2])]",
    "E[sigma | do(attn[1] = under do(mlp[0]@0 = zero))]",
    "E[logit(target) | do(norm = under do(attn[0]@last = zero))]",
    "E[precap_logit(target) | do(attn[0]@0 = zero along attn[0] -> attn[2] -> logits)]",
)  # fmt: skip
ON_OTHER_GRAPHS = (
    "E[logit(target) | do(attn[1].head[1]@last = resample, attn[2].head[0] = zero)]",
    "E[rank(5)@-2 | do(resid[1]@1 = zero)]",
    "E[logit_diff(4, 9) | do(resid[2]@last = mean, attn[0] -> attn[1] = zero)]",
)
DRAWS = {"donors": 2, "same_target_donors": True}
ROUTES = ("interventional", "counterfactual")


def engine(model, sentence, prompts, vectors):
    return model.evaluate(sentence, prompts, vectors=vectors, **DRAWS).units_table


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_block(tiny, bound, prompts, vectors, misfit, kind):
    model = tiny(kind)
    twin = to_gcm(model, prompts)
    for number, sentence in enumerate((*SENTENCES, *ON_OTHER_GRAPHS)):
        expected = engine(model, sentence, prompts, vectors)
        found = twin.evaluate(sentence, way=ROUTES[number % 2], vectors=vectors, **DRAWS)
        assert misfit(found, expected) < bound(kind, torch.float64), sentence


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision(tiny, prompts, vectors, misfit, kind):
    model = tiny(kind, torch.float32)
    twin = to_gcm(model, prompts)
    for sentence in (SENTENCES[0], SENTENCES[6]):
        expected = engine(model, sentence, prompts, vectors)
        assert misfit(twin.evaluate(sentence, vectors=vectors, **DRAWS), expected) < 2e-5, sentence


@pytest.mark.parametrize("way", ROUTES)
def test_the_stories(stories, misfit, way):
    texts = ["Once upon a time there was a little girl", "The dog ran to the", "Lily liked to play with her"]
    twin = to_gcm(stories, texts)
    sentences = (
        "TE(attn[3]@last = resample)",
        "DE(mlp[2]@last = resample; logprob(target))",
        "E[logit(target) | do(attn[1]@last -> mlp[3] = resample)] - E[logit(target)]",
    )
    for sentence in sentences:
        expected = stories.evaluate(sentence, texts, donors=2, seed=1).units_table
        assert misfit(twin.evaluate(sentence, way=way, donors=2, seed=1), expected) < 1e-6


def test_noise_in_the_observed_rows_is_abducted(tiny, prompts, vectors, misfit):
    # Rows were observed in which mlp[1] had something added: a counterfactual keeps it, an intervention on the
    # computed rows does not.
    model = tiny("sequential")
    twin = to_gcm(model, prompts)
    one = torch.as_tensor(vectors["one"])
    observed = twin.samples({"mlp.01": twin.setting(lambda prompt, value: value + one)})
    zero = {"attn.00": twin.setting(lambda prompt, value: 0.0 * value)}
    seen = twin.samples(zero, observed=observed, way="counterfactual")
    expected = model.evaluate('E[logit(5) | do(mlp[1] = add("one"), attn[0] = zero)]', prompts, vectors=vectors)
    bare = model.evaluate("E[logit(5) | do(attn[0] = zero)]", prompts)
    found = []
    for row in range(len(prompts)):
        logits = twin.value(seen, row, "logits")[-1]
        found.append([float(logits[5] - logits.mean())])
    assert misfit(found, expected.units_table) < 1e-9
    assert misfit(found, bare.units_table) > 1e-3


def test_other_pool_and_answers(tiny, bound, prompts, misfit):
    model = tiny("parallel-two-norms")
    twin = to_gcm(model, prompts[:1])
    options = {"donors": 3, "pool": prompts[1:], "same_target_donors": True}
    expected = model.evaluate("TE(mlp[1]@last = resample)", prompts[:1], **options)
    assert misfit(twin.evaluate("TE(mlp[1]@last = resample)", **options), expected.units_table) < 1e-9


def test_a_graph_that_lacks_an_edge_is_found_out(tiny, prompts, misfit):
    model = tiny("sequential")
    sentence = "TE(attn[0]@last = zero)"
    expected = model.evaluate(sentence, prompts).units_table
    natural = model.evaluate("E[logit(5)]", prompts).values
    for edge in ("attn[0] -> mlp[0]", "attn[0] -> attn[2]", "mlp[1] -> logits"):
        wrong = to_gcm(model, prompts, graph=model.graph.remove_edges([edge]))
        found = [wrong.value(wrong.data, row, "logits")[-1] for row in range(len(prompts))]
        assert misfit([float(one[5] - one.mean()) for one in found], natural) > 1e-3, edge
        assert misfit(wrong.evaluate(sentence), expected) > 1e-3, edge


def test_it_is_a_model_of_dowhy(tiny, prompts):
    from dowhy import gcm

    twin = to_gcm(tiny("sequential"), prompts, edges=["attn[0] -> mlp[2]"])
    assert isinstance(twin.scm, gcm.InvertibleStructuralCausalModel)
    assert type(twin.scm.graph) is nx.DiGraph
    assert all(isinstance(name, str) for name in twin.scm.graph)
    assert set(twin.scm.graph.predecessors("mlp.02")) >= {"attn.00>mlp.02", "attn.01"}
    assert "attn.00" not in twin.scm.graph.predecessors("mlp.02")
    assert (twin.data.to_numpy() == twin.data.to_numpy().astype(int)).all()
    drawn = gcm.draw_samples(twin.scm, 5)
    logits = {tuple(twin.store[handle][-1].tolist()) for handle in drawn["logits"]}
    own = {tuple(twin.value(twin.data, row, "logits")[-1].tolist()) for row in range(len(prompts))}
    assert logits <= own


def test_nothing_is_left_behind(tiny, prompts):
    from dowhy.gcm import config

    model = tiny("sequential")
    before = (config.show_progress_bars, config.default_n_jobs, np.random.get_state()[2])  # noqa: NPY002
    twin = to_gcm(model, prompts)
    kept = len(twin.store)
    twin.evaluate("TE(attn[1]@last = zero)")
    assert len(twin.store) == kept
    assert (config.show_progress_bars, config.default_n_jobs, np.random.get_state()[2]) == before  # noqa: NPY002
    for module in model.mechanisms.hf.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_what_it_refuses(tiny, prompts, monkeypatch):
    model = tiny("sequential")
    twin = to_gcm(model, prompts)
    with pytest.raises(ExpressionError, match="draws no noise"):
        twin.evaluate("TE(attn[1]@last = noise(1.0))")
    with pytest.raises(ExpressionError, match="subgroup"):
        twin.evaluate('E[entropy | prompt.relation == "P1"]')
    with pytest.raises(GraphError, match="is not an edge"):
        to_gcm(model, prompts, edges=["mlp[1] -> attn[1]"])
    with pytest.raises(GraphError, match="unrolled"):
        to_gcm(model, prompts, graph=model.graph.unroll(3))
    with pytest.raises(InputError, match="did you mean 'counterfactual'"):
        twin.samples({}, way="counterfactuals")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not to be computed with"):
        twin.store[float(twin.data["embed"].mean()) + 0.25]
    mixed = twin.data.copy()
    mixed["embed"] = mixed["embed"].to_numpy()[::-1]
    with pytest.raises(InputError, match="one row holds values of prompts"):
        twin.samples({"mlp.00": twin.setting(lambda prompt, value: value)}, observed=mixed)
    monkeypatch.setitem(__import__("sys").modules, "dowhy.gcm", None)
    with pytest.raises(InputError, match="pip install 'dowhy"):
        twin.samples({})
