"""Do-expressions as text, as Python, and as values: each equals what plain forward passes give."""

import numpy as np
import pytest

import causalnet as cn
from causalnet import (
    CE,
    DE,
    IE,
    NORM,
    TE,
    TIE,
    E,
    anc,
    attn,
    between,
    desc,
    direct,
    do,
    embed,
    entropy,
    kl,
    last,
    logit,
    logit_diff,
    logits,
    logprob,
    mean,
    mlp,
    natural,
    noise,
    norm,
    patch,
    pos,
    precap_logit,
    prob,
    prompt,
    rank,
    resample,
    resid,
    scale,
    sigma,
    span,
    target,
    top1,
    under,
    zero,
)
from causalnet.errors import ExpressionError

pytestmark = pytest.mark.filterwarnings("ignore::causalnet.effects.FewPromptsWarning")

subject = span("subject")
y = logit(target)

# The sentences of the design page, word for word.
DESIGN = {
    "E[logit(target) | do(attn[5]@last = resample)] - E[logit(target)]": E[y | do(attn[5] @ last << resample)] - E[y],
    "E[logit(target) | do(attn[5]@last = resample, desc(attn[5]) = natural)] - E[logit(target)]": E[
        y | do(attn[5] @ last << resample, desc(attn[5]) << natural)
    ]
    - E[y],
    "E[logit(target) | do(desc(attn[5]) = under do(attn[5]@last = resample))] - E[logit(target)]": E[
        y | do(desc(attn[5]) << under(do(attn[5] @ last << resample)))
    ]
    - E[y],
    "E[logit(target) | do(attn[5]@last = zero, mlp[7] = natural)] - E[logit(target) | do(attn[5]@last = zero)]": E[
        y | do(attn[5] @ last << zero, mlp[7] << natural)
    ]
    - E[y | do(attn[5] @ last << zero)],
    'E[logit_diff(" Mary", " John") | do(attn[9].head[6,9] = mean, attn[10].head[0] = mean)]': E[
        logit_diff(" Mary", " John") | do(attn[9].head[6, 9] << mean, attn[10].head[0] << mean)
    ],
    "E[logprob(target) | do(attn[5]@last -> mlp[7] = resample)]": E[
        logprob(target) | do(attn[5] @ last >> mlp[7] << resample)
    ],
    'E[logit(target) | do(attn[5]@subject = patch("corrupt") along attn[5] -> mlp[7] -> attn[9] -> logits)]': E[
        y | do((attn[5] @ subject << patch("corrupt")).along(attn[5] >> mlp[7] >> attn[9] >> logits))
    ],
    "E[logit(target) | do(embed@subject = noise(3.0), mlp[5:10]@subject = natural)]": E[
        y | do(embed @ subject << noise(3.0), mlp[5:10] @ subject << natural)
    ],
    "E[direct(attn[20]) | do(attn[18]@last = resample)]": E[direct(attn[20]) | do(attn[18] @ last << resample)],
    "TE(attn[5]@last = resample)": TE(attn[5] @ last << resample),
    "DE(attn[5]@last = resample; logprob(target))": DE(attn[5] @ last << resample, logprob(target)),
    "IE(attn[5]@last = resample)": IE(attn[5] @ last << resample),
    "CE(attn[5]@last = resample)": CE(attn[5] @ last << resample),
    "NORM(attn[5]@last = resample)": NORM(attn[5] @ last << resample),
}

# The same shapes, and others, on networks of four layers and more.
MORE = {
    "E[prob(target) | do(mlp[1] = zero)] - E[prob(target)]": E[prob(target) | do(mlp[1] << zero)] - E[prob(target)],
    "E[kl | do(attn[1:3]@last = zero)]": E[kl | do(attn[1:3] @ last << zero)],
    "E[entropy | do(attn[:]@0 = scale(0.5))] - E[entropy]": E[entropy | do(attn[:] @ pos[0] << scale(0.5))]
    - E[entropy],
    "E[rank(target) | do(embed@last = zero)] - E[rank(target)]": E[rank(target) | do(embed @ last << zero)]
    - E[rank(target)],
    "E[top1 | do(attn[0] = mean)]": E[top1 | do(attn[0] << mean)],
    "E[sigma | do(mlp[2]@last = resample)] - E[sigma]": E[sigma | do(mlp[2] @ last << resample)] - E[sigma],
    "E[precap_logit(target) | do(norm = natural, mlp[1]@last = resample)]": E[
        precap_logit(target) | do(norm << natural, mlp[1] @ last << resample)
    ],
    "2*TE(attn[1]@last = zero) - 0.5*E[logit(target)@0]": 2 * TE(attn[1] @ last << zero) - 0.5 * E[y @ pos[0]],
    "E[logit(target) | do(attn[1] | mlp[2] = zero)]": None,
    "E[logit(target) | do((attn[1] | mlp[2]) = zero)]": E[y | do((attn[1] | mlp[2]) << zero)],
    "E[logit(target) | do((desc(attn[0]) & anc(mlp[3])) = natural, embed@-2 = resample)]": E[
        y | do((desc(attn[0]) & anc(mlp[3])) << natural, embed @ pos[-2] << resample)
    ],
    "E[logit(target) | do(between(attn[0], logits) = under do(attn[0]@last = zero))]": E[
        y | do(between(attn[0], logits) << under(do(attn[0] @ last << zero)))
    ],
    "E[direct(attn[1:3].head[0]) | do(mlp[0]@1:3 = zero)]": E[
        direct(attn[1:3].head[0]) | do(mlp[0] @ pos[1:3] << zero)
    ],
    "E[logit(target) | do(resid[2]@last = resample)] - E[logit(target)]": E[y | do(resid[2] @ last << resample)] - E[y],
    "E[logit(target) | do(attn[0]@last -> norm = zero)] - E[logit(target)]": E[y | do(attn[0] @ last >> norm << zero)]
    - E[y],
    "TIE(mlp[0] = resample)": TIE(mlp[0] << resample),
    "TE(attn[2].head[1]@subject = zero; prob(target))": TE(attn[2].head[1] @ subject << zero, prob(target)),
    'E[logit(target) | do(attn[1]@last = zero), prompt.relation == "city"]': E[
        y | do(attn[1] @ last << zero), prompt.relation == "city"
    ],
}
REFUSED = [text for text, query in MORE.items() if query is None]
for text in REFUSED:
    del MORE[text]
SPANS = ("subject",)


@pytest.mark.parametrize("text", [*DESIGN, *MORE])
def test_text_is_python(text):
    query = (DESIGN | MORE)[text]
    assert cn.parse(text) == query
    assert str(query) == text
    assert query.pearl()
    assert query.latex()


@pytest.mark.parametrize("text", REFUSED)
def test_a_union_without_brackets_is_refused(text):
    with pytest.raises(ExpressionError, match="bracket"):
        cn.parse(text)


@pytest.mark.parametrize("text", DESIGN)
def test_design_sentences(model, prompts, text, by_hand, close):
    result = model.evaluate(text, prompts, donors=2, seed=3)
    table, value = by_hand(model, text, prompts, donors=2, seed=3, spans=SPANS)
    close(result.units_table, table)
    assert result.value == pytest.approx(value, abs=1e-6, rel=1e-6)
    assert result.n == len(prompts)


@pytest.mark.parametrize("text", MORE)
def test_more_sentences(small, prompts, text, by_hand, close):
    chosen = prompts
    if text.startswith("TIE(mlp[0] = resample)"):  # every position: donors of the same length
        chosen = prompts.where(lambda one: len(one.text.split()) in (6,))
    result = small.evaluate(text, chosen, donors=2)
    table, value = by_hand(small, text, chosen, donors=2, spans=SPANS)
    if "prompt.relation" in text:
        rows = [place for place, one in enumerate(chosen) if one.features["relation"] == "city"]
        assert result.prompts == tuple(rows)
        table = table[rows]
        value = float(np.mean(table))
    close(result.units_table, table)
    assert result.value == pytest.approx(value, abs=1e-6, rel=1e-6)


def test_texts_and_objects_have_one_answer(small, prompts):
    for text, query in list(MORE.items())[:4]:
        first, second = small.evaluate(text, prompts), small.evaluate(query, prompts)
        assert first.units_table.tolist() == second.units_table.tolist()
        assert first.expression == second.expression == text
