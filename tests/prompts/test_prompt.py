import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causalnet.errors import PromptError, UnknownNameError
from causalnet.prompts import Dropped, FrozenMap, Prompt, Prompts, by_feature

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip)
names = st.from_regex(r"[a-z][a-z_]{0,6}", fullmatch=True).filter(lambda name: name != "last")
scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts
)


@st.composite
def some_prompts(draw, depth=1):
    text = draw(texts)
    edges = st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).filter(lambda pair: pair[0] < pair[1])
    return Prompt(
        text,
        draw(st.none() | texts),
        spans=draw(st.dictionaries(names, edges | texts, max_size=2)),
        features=draw(st.dictionaries(texts, scalars, max_size=3)),
        pairs=draw(st.dictionaries(texts, some_prompts(depth=depth - 1), max_size=2)) if depth else {},
        join=draw(st.none() | st.sampled_from(["", " ", "\n"])),
    )


@given(st.lists(some_prompts(), min_size=1, max_size=4))
def test_to_jsonl_and_from_file_are_inverse(tmp_path_factory, items):
    prompts = Prompts(tuple(items))
    path = tmp_path_factory.mktemp("round") / "prompts.jsonl"
    text = prompts.to_jsonl(path)
    again = Prompts.from_file(path)
    assert again == prompts
    assert again.to_jsonl() == text
    assert hash(again) == hash(prompts)
    assert [type(value) for p in again for value in p.features.values()] == [
        type(value) for p in prompts for value in p.features.values()
    ]


@given(some_prompts())
def test_prompts_can_be_pickled_and_hashed(prompt):
    assert pickle.loads(pickle.dumps(prompt)) == prompt
    assert len({prompt, pickle.loads(pickle.dumps(prompt))}) == 1


def test_a_prompt_cannot_be_changed():
    given_features = {"relation": "P30"}
    prompt = Prompt("Big Ben is in", features=given_features)
    given_features["relation"] = "P31"
    assert prompt.features["relation"] == "P30"
    with pytest.raises(TypeError):
        prompt.features["relation"] = "P32"  # type: ignore[index]
    with pytest.raises(AttributeError):
        prompt.text = "other"  # type: ignore[misc]


def test_equality_sees_every_field_but_the_origin():
    base = {"answer": "London", "spans": {"s": "Ben"}, "features": {"r": 1}, "pairs": {"c": "Paris"}, "join": ""}
    prompt = Prompt("Big Ben is in", **base)
    assert prompt == Prompt("Big Ben is in", **base, origin="file, line 3")
    for field, other in {
        "answer": "Rome",
        "spans": {},
        "features": {"r": 2},
        "pairs": {"c": "Rome"},
        "join": " ",
    }.items():
        assert prompt != Prompt("Big Ben is in", **{**base, field: other})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"text": ""}, "empty prompt"),
        ({"text": " \n"}, "empty prompt"),
        ({"text": 7}, "the text must be a text, got int 7"),
        ({"text": None}, "the text must be a text, got NoneType"),
        ({"text": "\ud800"}, "no Unicode text"),
        ({"text": "a", "answer": 7}, "the answer must be a text"),
        ({"text": "a", "answer": " "}, "empty answer"),
        ({"text": "a", "join": 1}, "the join must be a text"),
        ({"text": "a", "spans": {"last": "a"}}, "cannot name a span"),
        ({"text": "a", "spans": {"no name": "a"}}, "cannot name a span"),
        ({"text": "a", "spans": {"s": ""}}, "empty text"),
        ({"text": "a", "spans": {"s": (0, 2)}}, "outside the text of 1 characters"),
        ({"text": "a", "spans": {"s": (0, 0)}}, "half-open"),
        ({"text": "a", "spans": {"s": (0, True)}}, "must be a text or a range"),
        ({"text": "a", "spans": {"s": 3}}, "must be a text or a range"),
        ({"text": "a", "spans": ["s"]}, "spans must map names to values"),
        ({"text": "a", "features": {"": 1}}, "non-empty texts as names"),
        ({"text": "a", "features": {"f": [1]}}, "must be a text, number, boolean or None, got list"),
        ({"text": "a", "features": {"f": float("nan")}}, "write null"),
        ({"text": "a", "pairs": {"c": 3}}, "must be a text or a Prompt"),
        ({"text": "a", "pairs": {"c": ""}}, "pair 'c': "),
    ],
)
def test_what_is_no_prompt_is_refused(arguments, words):
    with pytest.raises(PromptError, match=words.replace("(", r"\(")):
        Prompt(**arguments)


def test_numpy_scalars_become_plain_features():
    prompt = Prompt("a", features={"n": np.int64(3), "x": np.float32(0.5), "s": np.str_("t")})
    assert prompt.features == {"n": 3, "x": 0.5, "s": "t"}
    assert type(prompt.features["n"]) is int


def test_messages_name_the_origin():
    with pytest.raises(PromptError, match=r"facts\.jsonl, line 3: 'Big Ben': span 's'"):
        Prompt("Big Ben", spans={"s": (0, 99)}, origin="facts.jsonl, line 3")


def test_from_texts_counts_and_types():
    assert Prompts.from_texts(iter(["a", "b"]), [None, "c"]).answers == (None, "c")
    assert Prompts(("a", "b")) == Prompts.from_texts(["a", "b"])
    for bad, words in [
        (lambda: Prompts.from_texts("abc"), "one text 'abc'"),
        (lambda: Prompts("abc"), "one text 'abc'"),  # type: ignore[arg-type]
        (lambda: Prompts.from_texts([]), "no prompts were given"),
        (lambda: Prompts.from_texts(["a"], ["b", "c"]), "1 texts but 2 answers"),
        (lambda: Prompts.from_texts(["a"], "b"), "answers must be a list"),
        (lambda: Prompts.from_texts(["a", ""]), "text 1: empty prompt"),
        (lambda: Prompts.from_texts(3), "must be a list, got int"),  # type: ignore[arg-type]
        (lambda: Prompts(({"prompt": "a"},)), "records are read by Prompts.from_records"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(PromptError, match=words):
            bad()


def test_from_pairs():
    corrupt = Prompt("Rome is in", spans={"subject": "Rome"})
    prompts = Prompts.from_pairs(["Big Ben is in", "Paris is in"], ["Berlin is in", corrupt], name="other")
    assert [prompt.pairs["other"].text for prompt in prompts] == ["Berlin is in", "Rome is in"]
    assert prompts[1].pairs["other"].spans["subject"] == "Rome"
    assert prompts.pair_names == ("other",)
    twice = Prompts.from_pairs(prompts, ["x", "y"])
    assert twice.pair_names == ("other", "corrupt")
    with pytest.raises(PromptError, match="2 clean texts but 1 corrupted"):
        Prompts.from_pairs(["a", "b"], ["c"])
    with pytest.raises(PromptError, match="corrupted text 1: empty prompt"):
        Prompts.from_pairs(["a", "b"], ["c", ""])


def test_it_is_a_sequence():
    prompts = Prompts(("a", "b", "c"))
    assert [prompt.text for prompt in prompts] == ["a", "b", "c"]
    assert prompts[-1].text == "c"
    assert prompts[::2].texts == ("a", "c")
    assert isinstance(prompts[1:], Prompts)
    assert Prompt("b") in prompts
    with pytest.raises(IndexError):
        prompts[3]


rows = [
    {"prompt": "one", "relation": "P30", "year": 1},
    {"prompt": "two", "relation": "P103"},
    {"prompt": "three", "relation": "P103", "year": 2},
]


def test_filters_keep_count_of_what_they_drop():
    prompts = Prompts.from_records(rows)
    kept = prompts.where(relation="P103").where(lambda prompt: len(prompt.text) > 3, reason="short")
    assert kept.texts == ("three",)
    assert kept.dropped == (
        Dropped("relation is not 'P103'", 1, 3, ("one",)),
        Dropped("short", 1, 2, ("two",)),
    )
    assert prompts.dropped == ()
    assert by_feature(prompts, "relation", {"P30", "P103"}) is prompts
    assert prompts.where(year=[1, 2]).texts == ("one", "three")
    assert prompts.where(year=None).texts == ("two",)
    assert prompts.feature("year") == (1, None, 2)
    assert prompts.take(2).texts == ("one", "two")
    assert prompts.take(9) is prompts
    assert prompts.select(np.array([True, False, False]), "why").dropped[0].count == 2
    assert "dropped: 2" in repr(prompts.take(1))


def test_filters_that_cannot_be_applied():
    prompts = Prompts.from_records(rows)
    with pytest.raises(PromptError, match="did you mean 'P103'"):
        prompts.where(relation="P1O3")
    with pytest.raises(UnknownNameError, match="did you mean 'relation'"):
        prompts.where(relatoin="P103")
    with pytest.raises(PromptError, match="no prompt is left with year = no value at all"):
        prompts.where(year=[])
    with pytest.raises(PromptError, match="no prompt is left: 3 of 3 prompts dropped: not accepted by"):
        prompts.where(lambda prompt: False)
    with pytest.raises(PromptError, match="mask has 2 values for 3 prompts"):
        prompts.select([True, False], "why")
    for count in (0, -1, 1.5, True):
        with pytest.raises(PromptError, match="cannot take"):
            prompts.take(count)  # type: ignore[arg-type]


def test_repr_is_short():
    prompts = Prompts.from_records(rows, name="facts")
    assert repr(prompts) == "Prompts(3 prompts from facts; features: relation, year)"
    assert str(Prompt("a b")) == "a b"
    assert repr(FrozenMap({"a": 1})) == "{'a': 1}"
