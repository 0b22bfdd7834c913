"""Text and Python are one language; printing and parsing are inverse."""

import pickle

from hypothesis import HealthCheck, given, settings

from causalnet.expr import Query, parse
from causalnet.testing import strategies

thorough = settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@thorough
@given(strategies.sentences())
def test_both_forms_are_equal_and_printing_is_undone_by_parsing(sentence):
    query = parse(sentence.text)
    assert query == sentence.query
    assert hash(query) == hash(sentence.query)
    canonical = str(query)
    again = parse(canonical)
    assert again == query
    assert str(again) == canonical


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(strategies.sentences())
def test_every_sentence_can_be_shown_kept_and_expanded(sentence):
    query = sentence.query
    assert pickle.loads(pickle.dumps(query)) == query
    expanded = query.expand()
    assert expanded.expand() == expanded
    assert parse(str(expanded)) == expanded
    latex = query.latex()
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")
    assert "Y" in query.pearl()
    assert query.explain().startswith("Question: ")


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(strategies.sentences(), strategies.sentences())
def test_equality_is_that_of_the_canonical_text(one, other):
    assert (one.query == other.query) == (str(one.query) == str(other.query))
    assert one.query == Query(one.query.terms)
