"""A randomised ablation: what DoWhy estimates from the passes alone, against what the engine knows."""

import numpy as np
import pytest

import causalnet as cn
from causalnet.errors import InputError, UnknownNodeError
from causalnet.expr import mean, resample, scale
from causalnet.interop.dowhy import RandomisedAblation

TEXTS = [
    "Once upon a time there was a little girl",
    "The dog ran to the",
    "One day a big cat saw the sun and",
    "Lily liked to play with her",
]
pytestmark = pytest.mark.filterwarnings("ignore::causalnet.effects.FewPromptsWarning")


@pytest.fixture(scope="module")
def experiment(stories):
    return RandomisedAblation.run(stories, TEXTS, passes=240, nodes=["mlp[0]", "attn[3]", "mlp[3]", "attn[4]"])


def test_estimates_meet_the_paired_effects(experiment):
    table = experiment.table(simulations=10)
    assert list(table.index) == ["mlp[0]", "attn[3]", "mlp[3]", "attn[4]"]
    assert (table.low < table.exact).sum() >= 3
    assert (table.exact < table.high).sum() >= 3
    size = (table.high - table.low) / 2
    for method in ("regression", "matching", "weighting"):
        assert ((table[method] - table.exact).abs() < 2 * size).all(), method
    strong = table[table.exact.abs() > 2 * size]
    assert len(strong) >= 1
    # Refuters: the effect of a placebo and on a dummy outcome vanishes, a random common cause changes nothing.
    assert (strong.placebo.abs() < 0.5 * strong.regression.abs()).all()
    assert (strong.dummy_outcome.abs() < 0.5 * strong.regression.abs()).all()
    assert (table.random_common_cause - table.regression).abs().max() < 0.1 * size.max()
    assert (table.filter(like="_p") > 0.01).to_numpy().all()


def test_a_biased_experiment_is_told_by_its_estimates(experiment):
    # Passes chosen by their outcome: no longer randomised, and the estimate leaves the paired effect.
    kept = experiment.data.outcome > experiment.data.outcome.median()
    biased = experiment.design("mlp[0]")
    changed = type(biased)(biased.data[kept], biased.treatment, biased.outcome, biased.common)
    fair = experiment.estimate("mlp[0]")
    assert not fair.low < changed.estimate().value < fair.high


def test_passes_are_what_the_engine_says(experiment, stories):
    # Every pass again, as a do-expression of its own.
    data = experiment.data
    for number in (0, 100, 239):
        row = data.iloc[number]
        ablated = [node for name, node in experiment.nodes.items() if row[name]]
        text = TEXTS[int(row.prompt)]

        def asked(nodes, text=text):
            do = " | do(" + ", ".join(f"{node}@last = zero" for node in nodes) + ")" if nodes else ""
            return stories.evaluate(f"E[logit(target){do}]", [text]).value

        assert asked(ablated) == pytest.approx(row.outcome, abs=1e-6)
        assert asked([]) == pytest.approx(row.natural, abs=1e-6)
        name, node = "attn.03", experiment.nodes["attn.03"]
        without = [one for one in ablated if one != node]
        paired = asked([*without, node]) - asked(without)
        assert experiment.exact[name].iloc[number] == pytest.approx(paired, abs=1e-6)
        assert experiment.alone[name].iloc[number] == pytest.approx(asked([node]) - asked([]), abs=1e-6)


def test_columns(tiny, prompts):
    model = tiny("parallel-one-norm")
    made = RandomisedAblation.run(model, prompts, passes=10, value=mean, at=None, share=0.3, seed=2)
    assert len(made.data) == 12
    assert set(made.data) == {*made.nodes, "outcome", "natural", "length", "prompt"}
    assert all(made.data[name].dtype == np.int64 for name in made.nodes)
    again = RandomisedAblation.run(model, prompts, passes=10, value=mean, at=None, share=0.3, seed=2)
    assert again.data.equals(made.data)
    featured = cn.Prompts.from_records([{"prompt": one.text, "popularity": 2 * i} for i, one in enumerate(prompts)])
    donated = RandomisedAblation.run(model, featured, passes=6, value=resample, same_target_donors=True)
    assert donated.features == ("popularity", "natural", "length")
    assert donated.data.popularity.tolist() == [0, 0, 2, 2, 4, 4]
    # Of the features of three prompts, one follows from the others.
    more = RandomisedAblation.run(model, featured, passes=60)
    assert set(more.design("mlp[0]").common) == {*more.nodes, "popularity", "natural"} - {"mlp.00"}
    assert more.estimate("mlp[0]").value == pytest.approx(more.exact["mlp.00"].mean(), abs=0.5)


def test_what_it_refuses(tiny, prompts, experiment):
    model = tiny("sequential")
    with pytest.raises(InputError, match="not a hard value"):
        RandomisedAblation.run(model, prompts, value=scale(0.5))
    with pytest.raises(InputError, match="probability"):
        RandomisedAblation.run(model, prompts, share=1.0)
    with pytest.raises(InputError, match="at least 1"):
        RandomisedAblation.run(model, prompts, passes=0)
    with pytest.raises(InputError, match="norm is not ablated here"):
        RandomisedAblation.run(model, prompts, nodes=["norm"])
    with pytest.raises(UnknownNodeError, match="attn"):
        RandomisedAblation.run(model, prompts, nodes=["attn[9]"])
    with pytest.raises(InputError, match="was not ablated"):
        experiment.estimate("mlp[4]")
    with pytest.raises(InputError, match="did you mean 'matching'"):
        experiment.estimate("mlp[3]", "match")
    with pytest.raises(InputError, match="did you mean 'placebo'"):
        experiment.refute("mlp[3]", "placeboo")
