"""The closed world: sizes, no leaks, and what is held out."""

from collections import defaultdict

import pytest

from causalnet.demo.facts import World, build_world
from causalnet.demo.phrasings import KINDS, RELATIONS


@pytest.fixture(scope="module")
def world() -> World:
    return build_world()


def test_the_world_is_as_large_as_promised(world: World) -> None:
    assert len({fact.subject for fact in world.facts}) >= 2000
    assert len({fact.relation.name for fact in world.facts}) >= 8
    assert {fact.relation.kind for fact in world.facts} == set(KINDS)


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda r: r.name)
def test_every_relation_has_enough_phrasings(relation) -> None:
    assert len({p.template for p in relation.phrasings}) == len(relation.phrasings) >= 6
    assert sum(p.answer_last for p in relation.phrasings) >= 3
    for phrasing in relation.phrasings:
        words = phrasing.template.split()
        assert words.count("{s}") == words.count("{a}") == 1


def test_phrasings_belong_to_one_relation_each() -> None:
    # Up to the subject and the kind: otherwise a prompt would ask two things at once.
    stems = [
        (relation.kind, phrasing.template.split("{a}")[0])
        for relation in RELATIONS
        for phrasing in relation.phrasings
        if phrasing.answer_last
    ]
    assert len(set(stems)) == len(stems)


def test_a_fact_has_one_answer(world: World) -> None:
    answers = {(fact.subject, fact.relation.name): fact.answer for fact in world.facts}
    assert len(answers) == len(world.facts)


def test_neither_word_of_a_name_tells_the_answer(world: World) -> None:
    for place in (0, 1):
        answers: dict[tuple[str, str], list[str]] = defaultdict(list)
        for fact in world.facts:
            answers[fact.subject.split()[place], fact.relation.name].append(fact.answer)
        for (word, relation), group in answers.items():
            assert len(group) >= 8, (word, relation)
            commonest = max(group.count(answer) for answer in set(group))
            assert commonest / len(group) <= 0.4, (word, relation)


def test_words_of_names_are_used_for_nothing_else(world: World) -> None:
    names = {word for fact in world.facts for word in fact.subject.split()}
    answers = {fact.answer for fact in world.facts}
    texts = {w for r in RELATIONS for p in r.phrasings for w in p.template.split()}
    assert not names & answers
    assert not names & texts


def test_answers_are_equally_frequent(world: World) -> None:
    for relation in RELATIONS:
        answers = [fact.answer for fact in world.facts if fact.relation == relation]
        counts = [answers.count(answer) for answer in set(answers)]
        assert len(counts) >= 24
        assert max(counts) - min(counts) <= 1


def test_held_out_statements_are_absent_from_training(world: World) -> None:
    sentences = {statement.sentence for statement in world.training()}
    prefixes = set()
    for sentence in sentences:
        words = sentence.split()
        prefixes.update(" ".join(words[:i]) for i in range(1, len(words)))
    held_out = world.held_out()
    assert len(held_out) >= 1500
    for statement in held_out:
        assert statement.phrasing.answer_last
        assert statement.sentence not in sentences
        assert statement.prompt not in prefixes


def test_every_fact_is_taught(world: World) -> None:
    taught = {(s.fact.subject, s.fact.relation.name) for s in world.training() if s.phrasing.answer_last}
    assert len(taught) == len(world.facts)


def test_the_world_is_a_function_of_its_seed(world: World) -> None:
    assert build_world() == world
    assert build_world(world.seed + 1) != world


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="subjects_per_kind"):
        build_world(subjects_per_kind=0)
    with pytest.raises(ValueError, match="held_out_share"):
        build_world(held_out_share=1.5)


def test_a_prompt_needs_its_answer_last() -> None:
    first = next(p for p in RELATIONS[0].phrasings if not p.answer_last)
    with pytest.raises(ValueError, match="does not end in its answer"):
        first.prompt("One Two")
