"""Questions answered by workers elsewhere: the numbers of one process, unit by unit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import causalnet as cn
from causalnet import CE, DE, TE, Prompts, attn, last, logprob, mlp, target
from causalnet.demo import model_path, prompts_path
from causalnet.engine import elsewhere
from causalnet.engine.crew import Here
from causalnet.engine.elsewhere import Source
from causalnet.errors import InputError, NonFiniteError

pytestmark = pytest.mark.filterwarnings("ignore::causalnet.effects.statistics.FewPromptsWarning")
QUESTIONS = {
    "zero": "TE(attn[3]@last = zero)",
    "resample": "CE(attn[2]@last = resample)",
    "mean": "TE(mlp[1]@last = mean; logprob(target))",
    "noise": "TE(mlp[2]@last = noise(1.0))",
    "nested": "IE(attn[2]@last = resample)",
    "vector": 'TE(resid[2]@last = add("v"))',
    "own vectors": 'TE(resid[2]@last = add("w"))',
}


@pytest.fixture(scope="module")
def model():
    return cn.compile(model_path("plain"))


@pytest.fixture(scope="module")
def prompts():
    return Prompts.from_file(prompts_path()).take(23)


@pytest.fixture(scope="module")
def vectors(model):
    drawn = torch.Generator().manual_seed(0)
    width = model.mechanisms.width
    return {"v": torch.randn(width, generator=drawn), "w": torch.randn(23, width, generator=drawn)}


@pytest.fixture
def few(monkeypatch):
    """Blocks of a few prompts, and what each worker was given."""
    given = []
    monkeypatch.setattr(elsewhere, "_ROWS", 10)
    real = elsewhere._Worker.run
    monkeypatch.setattr(elsewhere._Worker, "run", lambda self, task: given.append(task.rows) or real(self, task))
    return given


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_in_blocks_has_the_numbers_of_one_run(model, prompts, vectors, few, name):
    how = {"donors": 5, "vectors": vectors}
    one = model.evaluate(QUESTIONS[name], prompts, **how)
    many = model.evaluate(QUESTIONS[name], prompts, executor=Here(), **how)
    assert len(few) > 1 and [row for rows in few for row in range(23)[rows]] == list(range(23))
    assert np.abs(one.units_table).max() > 1e-3
    np.testing.assert_allclose(many.units_table, one.units_table, atol=2e-5)
    assert (many.targets, many.texts) == (one.targets, one.texts)
    np.testing.assert_array_equal(many.donor_index, one.donor_index)


def test_pairs_and_a_separate_pool_are_cut_too(model, prompts, few):
    pairs = Prompts.from_pairs(prompts.texts[:14], prompts.texts[1:15])
    asked = 'TE(attn[3]@last = patch("corrupt"))'
    one, many = (model.evaluate(asked, pairs, executor=who) for who in (None, Here()))
    np.testing.assert_allclose(many.units_table, one.units_table, atol=2e-5)
    pool = Prompts.from_texts(one.text for one in list(Prompts.from_file(prompts_path()).take(90))[30:])
    asked, how = TE(mlp[3] @ last << cn.resample), {"donors": 3, "pool": pool}
    one, many = (model.evaluate(asked, prompts, executor=who, **how) for who in (None, Here()))
    np.testing.assert_allclose(many.units_table, one.units_table, atol=2e-5)
    assert len(few) > 2


def test_several_questions_and_estimands(model, prompts, few):
    asked = [TE(attn[3] @ last << cn.zero), DE(attn[3] @ last << cn.resample), CE(attn[3] @ last << cn.resample)]
    seen = []
    many = model.evaluate(asked, prompts, donors=3, executor=Here(), progress=lambda *step: seen.append(step))
    for one, other in zip(model.evaluate(asked, prompts, donors=3), many, strict=True):
        assert other.value == pytest.approx(one.value, abs=2e-5)
    assert seen[-1][0] == seen[-1][1]
    found = model.on(prompts, executor=Here()).natural_effects(attn[3] @ last << cn.zero, outcome=logprob(target))
    assert found["TE"].units == "nats"


def test_a_model_that_is_an_object_is_refused(model, prompts):
    held = cn.compile(model.mechanisms.hf, tokenizer=model.tokenizer)
    with pytest.raises(InputError, match="compiled from an object; compile it from a folder or a hub name"):
        held.evaluate(TE(attn[3] @ last << cn.zero), prompts, executor=Here())


def test_a_worker_with_another_model_or_version_is_refused(model, prompts, monkeypatch):
    asked, other = TE(attn[3] @ last << cn.zero), Source(str(model_path("dropped")), {})
    with pytest.raises(InputError, match=r"is another model for a worker: its digest is [0-9a-f]{12} and not"):
        replace(model, _source=other).evaluate(asked, prompts, executor=Here())
    real, calls = elsewhere.versions, []
    monkeypatch.setattr(
        elsewhere, "versions", lambda: {**real(), "torch": "0.1"} if calls else calls.append(1) or real()
    )
    with pytest.raises(InputError, match=r"torch is .* here, and a worker has 0\.1"):
        model.evaluate(asked, prompts, executor=Here())


def test_an_error_says_which_prompts_the_block_had(model, prompts, few, monkeypatch):
    def fails(self, task):
        raise NonFiniteError("prompt 1, draw 0: logit is nan")

    monkeypatch.setattr(elsewhere._Worker, "run", fails)
    with pytest.raises(NonFiniteError, match=r"of prompts 0 to .*, counted from 0: prompt 1, draw 0"):
        model.evaluate(TE(attn[3] @ last << cn.zero), prompts, executor=Here())


def test_workers_of_a_cluster_give_the_same_numbers(model, prompts):
    pytest.importorskip("ray", reason="Ray is not installed")
    from causalnet.interop.ray import Ray

    asked = TE(attn[3] @ last << cn.resample)
    one = model.evaluate(asked, prompts, donors=3)
    many = model.evaluate(asked, prompts, donors=3, executor=Ray(workers=1))
    np.testing.assert_allclose(many.units_table, one.units_table, atol=2e-5)
