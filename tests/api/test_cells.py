"""Any cell of the sweep is a do-expression: evaluate gives it back."""

import numpy as np
import pytest

import causalnet as cn
from causalnet.effects.sweep import cells
from causalnet.expr.values import MEAN, RESAMPLE, ZERO
from causalnet.graph import Node
from causalnet.studies.hydra import Options, sweep_model

pytestmark = pytest.mark.filterwarnings("ignore::causalnet.effects.FewPromptsWarning")


@pytest.fixture(scope="module")
def demo():
    from causalnet.demo import model_path, prompts_path

    return cn.compile(model_path("plain")), cn.Prompts.from_file(prompts_path()).take(16)


@pytest.mark.parametrize("value", [RESAMPLE, ZERO, MEAN], ids=str)
def test_cells_of_a_sweep(demo, value):
    model, prompts = demo
    data = sweep_model(model.mechanisms, model.tokenizer, prompts, Options(ablation=str(value), donors=3, seed=4))
    nodes = [Node.parse(name) for name in ("attn[0]", "attn[3]", "mlp[5]", "attn[7]")]
    found = cells(model.graph, nodes, value)
    for cell in found:
        inside = cell.expression.removeprefix("TE(").removesuffix(")")
        queries = [cell.expression, *(f"{name}({inside})" for name in ("DE", "CE", "NORM"))]
        results = model.evaluate(queries, prompts, donors=3, seed=4)
        swept = data.sel(node=str(cell.node))
        for result, name in zip(results, ("te", "de", "ce", "norm"), strict=True):
            expected = swept[name].values
            assert result.units_table.shape == expected.shape
            assert np.nanmax(np.abs(result.units_table - expected)) < 1e-5 * max(1.0, float(data["clean_logit"].max()))
        assert results[0].value == pytest.approx(float(swept["te"].mean("donor").mean()), abs=1e-5)
        if value is RESAMPLE:
            assert results[0].donor_index.tolist() == data["donor_index"].values.tolist()


SENTENCES = [
    "E[logit(target) | do(attn[5]@last = resample)] - E[logit(target)]",
    "E[logit(target) | do(attn[5]@last = resample, desc(attn[5]) = natural)] - E[logit(target)]",
    "E[logit(target) | do(desc(attn[5]) = under do(attn[5]@last = resample))] - E[logit(target)]",
    "E[logit(target) | do(attn[5]@last = zero, mlp[7] = natural)] - E[logit(target) | do(attn[5]@last = zero)]",
    'E[logit_diff("Flasumar", "Zinonia") | do(attn[6].head[0,1] = mean, attn[7].head[0] = mean)]',
    "E[logprob(target) | do(attn[5]@last -> mlp[7] = resample)]",
    "E[logit(target) | do(attn[3]@subject = zero along attn[3] -> mlp[4] -> attn[6] -> logits)]",
    "E[logit(target) | do(embed@subject = noise(3.0), mlp[2:6]@subject = natural)]",
    "E[direct(attn[7]) | do(attn[5]@last = resample)]",
    "TE(attn[5]@last = resample)",
    "DE(attn[5]@last = resample; logprob(target))",
    "IE(attn[5]@last = resample)",
    "CE(attn[5]@last = resample)",
    "NORM(attn[5]@last = resample)",
    "TE(mlp[1]@last = mean; prob(target))",
    "E[rank(target) | do(attn[2:5]@last = zero)]",
    "E[kl | do(mlp[6] = zero)]",
    "E[entropy | do(resid[4]@last = resample)] - E[entropy]",
    "E[sigma | do(embed@last = scale(2.0))]",
    "E[top1 | do(attn[:]@last = zero)]",
    "TIE(attn[1]@last = zero)",
]


@pytest.mark.parametrize("text", SENTENCES)
def test_sentences_on_the_embedded_model(demo, by_hand, close, text):
    model, prompts = demo
    few = prompts.take(4)
    spans = ("subject",) if "subject" in text else ()
    result = model.evaluate(text, few, donors=2)
    ranges = _subject_ranges(model, few) if spans else {}
    table, value = by_hand(model, text, few, donors=2, located=ranges)
    # float32: three units in the last place of logits of this size
    close(result.units_table, table, bound=2e-5)
    assert result.value == pytest.approx(value, abs=1e-4, rel=1e-4)


def _subject_ranges(model, prompts):
    """Token ranges of the subjects, by the tokens that precede them."""
    found = []
    for one in prompts:
        before = one.text[: one.text.index(one.spans["subject"])]
        start = len(model.tokenizer(before.strip())["input_ids"])
        count = len(model.tokenizer(one.spans["subject"], add_special_tokens=False)["input_ids"])
        found.append((start, start + count))
    return {"subject": found}
