"""Sentences in every form: as text, in Python, in Pearl's notation."""

import pytest

from causalnet.expr import (
    CE,
    DE,
    IE,
    NORM,
    TE,
    TIE,
    E,
    add,
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
    parse,
    patch,
    pos,
    prob,
    project_out,
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
    value,
    zero,
)

# The sentences of the language's own description come first, in its order and spelling.
SENTENCES = [
    (
        "E[logit(target) | do(attn[5]@last = resample)] - E[logit(target)]",
        E[logit(target) | do(attn[5] @ last << resample)] - E[logit(target)],
        "E[Y_{attn[5]@last = attn[5]@last(u')}] - E[Y], where Y = logit(target)",
    ),
    (
        "E[logit(target) | do(attn[5]@last = resample, desc(attn[5]) = natural)] - E[logit(target)]",
        E[logit(target) | do(attn[5] @ last << resample, desc(attn[5]) << natural)] - E[logit(target)],
        "E[Y_{attn[5]@last = attn[5]@last(u'), desc(attn[5]) = desc(attn[5])(u)}] - E[Y], where Y = logit(target)",
    ),
    (
        "E[logit(target) | do(desc(attn[5]) = under do(attn[5]@last = resample))] - E[logit(target)]",
        E[logit(target) | do(desc(attn[5]) << under(do(attn[5] @ last << resample)))] - E[logit(target)],
        "E[Y_{desc(attn[5]) = desc(attn[5])_{attn[5]@last = attn[5]@last(u')}(u)}] - E[Y], where Y = logit(target)",
    ),
    (
        "E[logit(target) | do(attn[5]@last = zero, mlp[7] = natural)] - E[logit(target) | do(attn[5]@last = zero)]",
        E[logit(target) | do(attn[5] @ last << zero, mlp[7] << natural)]
        - E[logit(target) | do(attn[5] @ last << zero)],
        "E[Y_{attn[5]@last = 0, mlp[7] = mlp[7](u)}] - E[Y_{attn[5]@last = 0}], where Y = logit(target)",
    ),
    (
        'E[logit_diff(" Mary", " John") | do(attn[9].head[6,9] = mean, attn[10].head[0] = mean)]',
        E[logit_diff(" Mary", " John") | do(attn[9].head[6, 9] << mean, attn[10].head[0] << mean)],
        "E[Y_{attn[9].head[6,9] = E[attn[9].head[6,9](u')], attn[10].head[0] = E[attn[10].head[0](u')]}], "
        'where Y = logit_diff(" Mary", " John")',
    ),
    (
        "E[logprob(target) | do(attn[5]@last -> mlp[7] = resample)]",
        E[logprob(target) | do(attn[5] @ last >> mlp[7] << resample)],
        "E[Y_{attn[5]@last -> mlp[7] = attn[5]@last(u')}], where Y = logprob(target)",
    ),
    (
        'E[logit(target) | do(attn[5]@subject = patch("corrupt") along attn[5] -> mlp[7] -> attn[9] -> logits)]',
        E[
            logit(target)
            | do((attn[5] @ span("subject") << patch("corrupt")).along(attn[5] >> mlp[7] >> attn[9] >> logits))
        ],
        'E[Y_{attn[5]@subject = attn[5]@subject(u["corrupt"]) along attn[5] -> mlp[7] -> attn[9] -> logits}], '
        "where Y = logit(target)",
    ),
    (
        "E[logit(target) | do(embed@subject = noise(3.0), mlp[5:10]@subject = natural)]",
        E[logit(target) | do(embed @ span("subject") << noise(3.0), mlp[5:10] @ span("subject") << natural)],
        "E[Y_{embed@subject = embed@subject* + 3 sd(embed@subject) N, mlp[5:10]@subject = mlp[5:10]@subject(u)}], "
        "where Y = logit(target)",
    ),
    (
        "E[direct(attn[20]) | do(attn[18]@last = resample)]",
        E[direct(attn[20]) | do(attn[18] @ last << resample)],
        "E[Y_{attn[18]@last = attn[18]@last(u')}], where Y = direct(attn[20])",
    ),
    (
        "TE(attn[5]@last = resample)",
        TE(attn[5] @ last << resample),
        "E[Y_{attn[5]@last = attn[5]@last(u')}] - E[Y], where Y = logit(target)",
    ),
    # … the other four named estimands of that line …
    (
        "DE(attn[5]@last = resample; logprob(target))",
        DE(attn[5] @ last << resample, logprob(target)),
        "E[Y_{attn[5]@last = attn[5]@last(u'), desc(attn[5]) = desc(attn[5])(u)}] - E[Y], where Y = logprob(target)",
    ),
    (
        "IE(attn[5]@last = resample)",
        IE(attn[5] @ last << resample),
        "E[Y_{desc(attn[5]) = desc(attn[5])_{attn[5]@last = attn[5]@last(u')}(u)}] - E[Y], where Y = logit(target)",
    ),
    (
        "CE((attn[3] | mlp[3])@last = zero)",
        CE((attn[3] | mlp[3]) @ last << zero),
        "E[Y_{(attn[3] | mlp[3])@last = 0, norm = norm(u)}] - E[Y_{(attn[3] | mlp[3])@last = 0, "
        "desc(attn[3] | mlp[3]) = desc(attn[3] | mlp[3])(u)}], where Y = logit(target)",
    ),
    (
        "NORM(mlp[2] = mean; sigma)",
        NORM(mlp[2] << mean, sigma),
        "E[Y_{mlp[2] = E[mlp[2](u')]}] - E[Y_{mlp[2] = E[mlp[2](u')], norm = norm(u)}], where Y = sigma",
    ),
    # … and what else can be said.
    (
        'E[prob(" Paris")@-2 | do(mlp[:] - mlp[0] = scale(0.5)), prompt.relation == "P103" and not prompt.n < 5]',
        E[
            prob(" Paris") @ pos[-2] | do(mlp[:] - mlp[0] << scale(0.5)),
            (prompt.relation == "P103") & ~(prompt.n < 5),
        ],
        'E[Y_{mlp[:] - mlp[0] = 0.5 (mlp[:] - mlp[0])*} | prompt.relation == "P103" and not prompt.n < 5], '
        'where Y = prob(" Paris")@-2',
    ),
    (
        "0.5*E[entropy | do((attn[:] & between(embed, mlp[3])) = natural)] + 0.5*E[kl]",
        0.5 * (E[entropy | do((attn[:] & between(embed, mlp[3])) << natural)] + E[kl]),
        "0.5*E[Y1_{(attn[:] & between(embed, mlp[3])) = (attn[:] & between(embed, mlp[3]))(u)}] + 0.5*E[Y2], "
        "where Y1 = entropy, Y2 = kl",
    ),
    (
        'E[rank(target) | do(resid[4]@3:6 = patch("corrupt"))] - E[rank(target) | do(anc(norm)@0 = natural)]',
        E[rank(target) | do(resid[4] @ pos[3:6] << patch("corrupt"))]
        - E[rank(target) | do(anc(norm) @ pos[0] << natural)],
        'E[Y_{resid[4]@3:6 = resid[4]@3:6(u["corrupt"])}] - E[Y_{anc(norm)@0 = anc(norm)@0(u)}], '
        "where Y = rank(target)",
    ),
    (
        'E[top1 | do(mlp[7] = add("truth", -2.0), attn[2].bias = project_out("truth"), embed = value("mine"))]',
        E[top1 | do(mlp[7] << add("truth", -2), attn[2].bias << project_out("truth"), embed << value("mine"))],
        'E[Y_{mlp[7] = mlp[7]* + -2 v["truth"], attn[2].bias = attn[2].bias* - proj(attn[2].bias*, v["truth"]), '
        'embed = v["mine"]}], where Y = top1',
    ),
    (
        "E[logit(target) | do(mlp[1] = zero along (mlp[1] -> norm -> logits | mlp[1] -> mlp[2] -> logits))]",
        E[logit(target) | do((mlp[1] << zero).along(mlp[1] >> norm >> logits | mlp[1] >> mlp[2] >> logits))],
        "E[Y_{mlp[1] = 0 along mlp[1] -> norm -> logits | mlp[1] -> mlp[2] -> logits}], where Y = logit(target)",
    ),
    (
        'TIE(attn[9].head[6] = resample; logit(1234), prompt["n tokens"] >= 8) - 2*TE(mlp[-1] -> logits = zero)',
        TIE(attn[9].head[6] << resample, logit(1234), prompt["n tokens"] >= 8) - 2 * TE(mlp[-1] >> logits << zero),
        'E[Y1_{attn[9].head[6] = attn[9].head[6](u\')} | prompt["n tokens"] >= 8] - '
        "E[Y1_{attn[9].head[6] = attn[9].head[6](u'), desc(attn[9].head[6]) = desc(attn[9].head[6])(u)} "
        '| prompt["n tokens"] >= 8] - 2*E[Y2_{mlp[-1] -> logits = 0}] + 2*E[Y2], '
        "where Y1 = logit(1234), Y2 = logit(target)",
    ),
    (
        "E[logit(target) | do(norm = under do(attn[0] = under do(embed@0 = zero)))]",
        E[logit(target) | do(norm << under(do(attn[0] << under(do(embed @ pos[0] << zero)))))],
        "E[Y_{norm = norm_{attn[0] = attn[0]_{embed@0 = 0}(u)}(u)}], where Y = logit(target)",
    ),
]


@pytest.mark.parametrize(("text", "made", "pearl"), SENTENCES, ids=[text for text, *_ in SENTENCES])
def test_sentence_in_every_form(text, made, pearl):
    query = parse(text)
    assert query == made
    assert str(made) == text
    assert made.pearl() == pearl


def test_there_are_the_ten_sentences_and_ten_more():
    assert len(SENTENCES) >= 20
    assert len({text for text, *_ in SENTENCES}) == len(SENTENCES)


EXPANDED = {
    "TE": "E[logit(target) | do(mlp[2] = zero)] - E[logit(target)]",
    "DE": "E[logit(target) | do(mlp[2] = zero, desc(mlp[2]) = natural)] - E[logit(target)]",
    "IE": "E[logit(target) | do(desc(mlp[2]) = under do(mlp[2] = zero))] - E[logit(target)]",
    "CE": "E[logit(target) | do(mlp[2] = zero, norm = natural)]"
    " - E[logit(target) | do(mlp[2] = zero, desc(mlp[2]) = natural)]",
    "NORM": "E[logit(target) | do(mlp[2] = zero)] - E[logit(target) | do(mlp[2] = zero, norm = natural)]",
    "TDE": "E[logit(target) | do(mlp[2] = zero)] - E[logit(target) | do(desc(mlp[2]) = under do(mlp[2] = zero))]",
    "TIE": "E[logit(target) | do(mlp[2] = zero)] - E[logit(target) | do(mlp[2] = zero, desc(mlp[2]) = natural)]",
}
EXPANDED |= {"NDE": EXPANDED["DE"], "PDE": EXPANDED["DE"], "NIE": EXPANDED["IE"], "PIE": EXPANDED["IE"]}


@pytest.mark.parametrize("name", EXPANDED)
def test_named_estimands_expand_to_their_definitions(name):
    query = parse(f"{name}(mlp[2] = zero)")
    assert str(query) == f"{name}(mlp[2] = zero)"
    assert str(query.expand()) == EXPANDED[name]


def test_the_identities_hold_term_by_term():
    def sums(*names):
        weights = {}
        for name in names:
            for term in parse(f"{name}(mlp[2]@last = resample; kl, prompt.a == 1)").expand().terms:
                weights[term.body] = weights.get(term.body, 0) + term.coefficient
        return {body: weight for body, weight in weights.items() if weight}

    assert sums("TE") == sums("DE", "CE", "NORM") == sums("PDE", "TIE") == sums("TDE", "PIE")
    assert sums("TE") != sums("DE", "IE")


def test_the_set_of_an_edge_is_its_sender_and_positions_are_left_out_of_desc():
    query = parse("DE(attn[5]@last -> mlp[7] = zero, (mlp[1] | mlp[2])@0 = mean)")
    assert str(query.expand().terms[0].body.do) == (
        "do(attn[5]@last -> mlp[7] = zero, (mlp[1] | mlp[2])@0 = mean, desc(attn[5] | mlp[1] | mlp[2]) = natural, "
        "attn[5] = natural, mlp[1] = natural, mlp[2] = natural)"
    )


JOINT = {
    # X natural at its places; nothing after the last position can respond.
    "IE(attn[0]@last = zero, mlp[1]@last = mean)": "desc(attn[0] | mlp[1]) = under do(attn[0]@last = zero, "
    "mlp[1]@last = mean), attn[0]@last = natural, mlp[1]@last = natural",
    "IE(attn[0:2] = zero)": "desc(attn[0:2]) = under do(attn[0:2] = zero), attn[0:2] = natural",
    # Elsewhere X's nodes belong to M.
    "IE((attn[0] | mlp[1])@0 = zero)": "desc(attn[0] | mlp[1]) = under do((attn[0] | mlp[1])@0 = zero), "
    "(attn[0] | mlp[1])@0 = natural, attn[0] = under do((attn[0] | mlp[1])@0 = zero), "
    "mlp[1] = under do((attn[0] | mlp[1])@0 = zero)",
    "DE((attn[0] | mlp[1])@0 = zero)": "(attn[0] | mlp[1])@0 = zero, desc(attn[0] | mlp[1]) = natural, "
    "attn[0] = natural, mlp[1] = natural",
    "DE(attn[0]@0 = zero, mlp[1] = mean)": "attn[0]@0 = zero, mlp[1] = mean, desc(attn[0] | mlp[1]) = natural, "
    "attn[0] = natural",
    # A node that is named twice is held by its weaker name, and not where it is set at every position.
    "DE(attn[0:3]@0 = zero, attn[1]@1 = mean)": "attn[0:3]@0 = zero, attn[1]@1 = mean, "
    "desc(attn[0:3] | attn[1]) = natural, attn[0:3] = natural, attn[1] - attn[0:3] = natural",
    "DE(attn[0:3] = zero, attn[1]@1 = mean)": "attn[0:3] = zero, attn[1]@1 = mean, "
    "desc(attn[0:3] | attn[1]) = natural, attn[1] - attn[0:3] = natural",
    # An edge's sender is not set itself.
    "IE(attn[0] -> attn[2] = zero, attn[2] -> mlp[3] = mean)": "desc(attn[0] | attn[2]) = under do(attn[0] -> "
    "attn[2] = zero, attn[2] -> mlp[3] = mean), attn[0] = under do(attn[0] -> attn[2] = zero, attn[2] -> mlp[3] = "
    "mean), attn[2] = under do(attn[0] -> attn[2] = zero, attn[2] -> mlp[3] = mean)",
    # One node at two positions is one node.
    "IE(attn[0]@0 = zero, attn[0]@1 = mean)": "desc(attn[0]) = under do(attn[0]@0 = zero, attn[0]@1 = mean)",
}


@pytest.mark.parametrize("text", JOINT)
def test_joint_sets_hold_what_is_to_be_natural(text):
    first = parse(text).expand().terms[0].body
    assert str(first.do) == f"do({JOINT[text]})"


def test_brackets_of_arithmetic_are_multiplied_out():
    query = parse("2*(TE(mlp[1] = zero) - -E[kl]/4) - (E[kl])")
    assert str(query) == "2*TE(mlp[1] = zero) + 0.5*E[kl] - E[kl]"
    assert sum([E[kl], E[kl]]) == parse("E[kl] + E[kl]")


LATEX = [
    (
        TE(attn[5] @ last << resample),
        r"\mathrm{TE}(\mathrm{attn}_{5}[\mathrm{last}] = \mathrm{resample})",
    ),
    (
        -0.25 * E[sigma @ pos[0] | do((attn[3:7] | mlp[2]) << scale(1e-9)), (prompt.a_b == "100%") | ~(prompt.n != 2)],
        r"-0.25 \cdot \mathbb{E}[\sigma[0] \mid \mathrm{do}(\mathrm{attn}_{3{:}7} \cup \mathrm{mlp}_{2} = "
        r"\mathrm{scale}(1 \times 10^{-9})), \mathrm{a\_b} = \text{“100\%”} \vee \neg (\mathrm{n} \neq 2)]",
    ),
    (
        E[
            logit(" x_1")
            | do((attn[9].head[6] @ span("s") << under(do(embed << zero))).along(attn[9].head[6] >> logits))
        ],
        r"\mathbb{E}[\mathrm{logit}(\text{“ x\_1”}) \mid \mathrm{do}(\mathrm{attn}_{9}^{6}[\mathrm{s}] = "
        r"\mathrm{under}\;\mathrm{do}(\mathrm{embed} = 0) \;\mathrm{along}\; "
        r"\mathrm{attn}_{9}^{6} \to \mathrm{logits})]",
    ),
]


@pytest.mark.parametrize(("query", "latex"), LATEX, ids=range(len(LATEX)))
def test_latex(query, latex):
    assert query.latex() == latex
    assert query._repr_latex_() == f"${latex}$"
