"""Projections on named vectors, in every form of the language."""

import pytest

from causalnet.errors import ExpressionError
from causalnet.expr import TE, E, attn, direct, do, last, logit, parse, pos, projection, zero
from causalnet.expr.outcomes import Along, Outcome

SENTENCES = {
    'E[projection("truth") | do(attn[5]@last = zero)] - E[projection("truth")]': (
        E[projection("truth") | do(attn[5] @ last << zero)] - E[projection("truth")]
    ),
    'TE(attn[5] = zero; projection("a \\"b\\""))': TE(attn[5] << zero, projection('a "b"')),
    'E[projection("truth")@0]': E[projection("truth") @ pos[0]],
    'E[direct(attn[20], projection("truth"))]': E[direct(attn[20], projection("truth"))],
}


@pytest.mark.parametrize("text", SENTENCES)
def test_text_and_python_are_one(text):
    assert parse(text) == SENTENCES[text] and str(SENTENCES[text]) == text
    assert hash(parse(text)) == hash(SENTENCES[text])


def test_it_is_shown_in_every_notation():
    query = parse('E[projection("truth") | do(attn[5] = zero)]')
    assert r"\mathrm{projection}(\text{“truth”})" in query.latex()
    assert query.pearl() == 'E[Y_{attn[5] = 0}], where Y = projection("truth")'
    assert 'the final norm\'s output along the vector "truth" at the last position' in query.explain()
    assert "Answer, in residual units" in query.explain()
    told = parse('E[direct(attn[2], projection("truth"))]').explain()
    assert "the direct contribution to the final norm's output along the vector" in told and "logit" not in told


@pytest.mark.parametrize(
    ("text", "said", "pointer"),
    [
        ("E[projection(target)]", "put the name in quotes", "               ^~~~~~"),
        ("E[projection]", 'name the vector: projection("truth")', "              ^"),
        ('E[projection("")]', "reads along a vector by name, not ''", "    ^~~~~~~~~~~~~~"),
        ('E[logit(projection("x"))]', "'projection' is not a token", "          ^~~~~~~~~~"),
        ('E[projektion("x")]', "did you mean 'projection'?", "    ^~~~~~~~~~"),
    ],
)
def test_mistakes_are_shown(text, said, pointer):
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert str(caught.value).endswith(f"\n  {text}\n{pointer}")


def test_vectors_and_tokens_are_not_mixed():
    with pytest.raises(ExpressionError, match="logit reads a token"):
        logit(Along("truth"))
    with pytest.raises(ExpressionError, match="projection reads along a vector, not target"):
        Outcome("projection", parse("E[logit(target)]").terms[0].body.outcome.tokens)
