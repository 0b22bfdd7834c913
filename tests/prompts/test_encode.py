import functools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from causalnet.errors import PromptError, UnknownNameError
from causalnet.prompts import Prompt, Prompts, encode, next_token_prompts, single_token_answers

SHARED = Path(__file__).parents[2] / ".." / "shared"

CORPUS = [
    "The Eiffel Tower is in the city of Paris and Big Ben is in London.",
    "Vinson Massif is located in the continent of Antarctica; the men have gone, the man has gone.",
    "Zürich, Kraków, 東京 and naïve café: the year 1352 to the year 1399.",
] * 4


def words(text):
    """Count words by their letters: no special tokens, no offsets."""
    return {"input_ids": [len(word) for word in text.split()]}


@functools.cache
def tokenizer(kind):
    if kind == "byte":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
        )
        made.train_from_iterator(CORPUS, trainer)
        return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")
    if kind == "metaspace":
        made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        made.normalizer = normalizers.NFC()
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
        made.train_from_iterator(CORPUS, trainer)
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", unk_token="<unk>")
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for text in CORPUS:
        for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(text):
            vocabulary.setdefault(word, len(vocabulary))
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    single = "<s> $A </s>" if kind == "both ends" else "<s> $A"
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def without_offsets(fast):
    return lambda text: {"input_ids": fast(text)["input_ids"]}


KINDS = ["byte", "metaspace", "word", "both ends"]
FOLDERS = ["data/gpt2_tokenizer", "models/stories260K"]


def loaded(folder):
    path = SHARED / folder
    if not path.exists():
        pytest.skip(f"{folder} is not there")
    return AutoTokenizer.from_pretrained(path)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_the_tokenizer(kind):
    texts = ["The Eiffel Tower is in", "Zürich is", "in"]
    encoded = encode(Prompts(tuple(texts)), tokenizer(kind), context=100)
    assert encoded.ids == tuple(tuple(tokenizer(kind)(text)["input_ids"]) for text in texts)
    assert encoded.lengths == tuple(len(ids) for ids in encoded.ids)
    assert encoded.answer_ids == (None, None, None)
    assert encoded.without_answer == len(encoded) == 3
    assert encode(texts, tokenizer(kind)).ids == encoded.ids


@pytest.mark.parametrize("kind", KINDS)
def test_spans_cover_their_words(kind):
    fast = tokenizer(kind)
    prompt = Prompt(
        "The Eiffel Tower is in Paris", spans={"subject": "Eiffel Tower", "place": (23, 28), "first": "The"}
    )
    encoded = encode(Prompts((prompt,)), fast)
    for name, expected in [("subject", "EiffelTower"), ("place", "Paris"), ("first", "The")]:
        start, stop = encoded.span(name)[0]
        covered = fast.decode(list(encoded.ids[0][start:stop])).replace(" ", "").replace("▁", "")
        assert covered == expected
    slow = encode(Prompts((prompt,)), without_offsets(fast))
    assert slow.spans == encoded.spans


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(st.lists(st.sampled_from(" ".join(CORPUS[:3]).split()), min_size=2, max_size=8), st.data())
def test_offsets_and_prefixes_give_the_same_token_range(kind, parts, data):
    text = " ".join(parts)
    first = data.draw(st.integers(0, len(parts) - 1))
    last = data.draw(st.integers(first + 1, len(parts)))
    start = len(" ".join(parts[:first])) + (first > 0)
    end = len(" ".join(parts[:last]))
    prompts = Prompts((Prompt(text, spans={"s": (start, end)}),))
    fast = tokenizer(kind)
    encoded = encode(prompts, fast)
    assert encode(prompts, without_offsets(fast)).spans == encoded.spans
    left, right = encoded.span("s")[0]
    assert 0 <= left < right <= len(encoded.ids[0])
    offsets = fast(text, return_offsets_mapping=True)["offset_mapping"]
    inside = {token for token, (a, b) in enumerate(offsets) if set(range(a, b)) & set(range(start, end))}
    assert inside == set(range(left, right))


def test_a_part_of_a_token_belongs_to_the_whole_token():
    prompts = Prompts((Prompt("The Eiffel Tower", spans={"s": "iff", "t": " Tower"}),))
    assert encode(prompts, tokenizer("word")).spans == {"s": ((2, 3),), "t": ((3, 4),)}


@pytest.mark.parametrize("kind", ["byte", "metaspace", "word"])
@pytest.mark.parametrize("answer", ["Paris", " Paris"])
def test_the_answer_is_the_first_token_after_the_prompt(kind, answer):
    fast = tokenizer(kind)
    encoded = encode(Prompts((Prompt("The Eiffel Tower is in", answer),)), fast)
    whole = fast("The Eiffel Tower is in Paris")["input_ids"]
    assert encoded.answers() == (whole[encoded.lengths[0]],)
    assert encoded.notes == ()


def test_join_says_what_stands_between():
    fast = tokenizer("byte")
    texts = "The year 13", "xy"
    with_space, without = (encode(Prompts((Prompt(*texts, join=join),)), fast).answers()[0] for join in (None, ""))
    assert fast.decode([without]).startswith("x")
    assert fast.decode([with_space]).startswith(" ")


def test_answers_that_cannot_be_read_are_noted_or_refused():
    fast = tokenizer("word")
    prompts = Prompts.from_texts(["Big Ben is in", "Paris is in", "London is in"], ["London", "Rome", None])
    encoded = encode(prompts, fast)
    assert encoded.answer_ids == (fast.convert_tokens_to_ids("London"), None, None)
    assert encoded.without_answer == 2
    assert len(encoded.notes) == 1
    assert "1 answer not read: the answer's first token is not in the tokenizer's vocabulary" in encoded.notes[0]
    with pytest.raises(PromptError, match="text 1: 'Paris is in': the answer 'Rome' cannot be read"):
        encode(prompts, fast, answers="require")
    with pytest.raises(PromptError, match=r"text 1: 'Paris is in': has no answer token \(nor have 1 more\)"):
        encoded.answers()
    assert encode(prompts, fast, answers="ignore").answer_ids == (None, None, None)
    with pytest.raises(PromptError, match="text 2: 'London is in': has no answer token"):
        encode(prompts[::2], fast, answers="require")
    with pytest.raises(PromptError, match="did you mean 'require'"):
        encode(prompts, fast, answers="requires")  # type: ignore[arg-type]


def test_a_token_after_each_text_makes_answers_unreadable():
    encoded = encode(Prompts.from_texts(["Big Ben is in"], ["London"]), tokenizer("both ends"))
    assert encoded.answer_ids == (None,)
    assert "puts a token after each text" in encoded.notes[0]


def test_a_space_at_the_end_of_the_prompt_is_named():
    fast = loaded("data/gpt2_tokenizer")
    encoded = encode(Prompts.from_texts(["Big Ben is in "], ["London"]), fast)
    assert encoded.answer_ids == (None,)
    assert "joins the space at the prompt's end with the answer" in encoded.notes[0]


def test_words_outside_the_vocabulary_are_noted():
    encoded = encode(["Big Ben", "Nessie is", "Yeti is"], tokenizer("word"))
    assert encoded.notes == ("2 texts hold words outside the tokenizer's vocabulary",)


def test_empty_prompts_are_those_without_a_token_of_their_own():
    silent = tokenizer("metaspace")
    assert encode(["a"], silent).lengths[0] > 1
    with pytest.raises(PromptError, match="text 1: 'zzz': empty prompt: the tokenizer makes no token of it"):
        encode(["a", "zzz"], lambda text: {"input_ids": [1] + [2] * ("z" not in text and text != "")})
    with pytest.raises(PromptError, match="empty prompt"):
        encode(["a"], lambda text: {"input_ids": []})
    with pytest.raises(PromptError, match="no prompts"):
        encode(Prompts(), words)


def test_too_long_and_outside_the_vocabulary():
    assert encode(["one two"], words, context=2, vocab_size=4).ids == ((3, 3),)
    with pytest.raises(PromptError, match=r"text 1: 'one two six': has 3 tokens, more than the model's context of 2"):
        encode(["one", "one two six"], words, context=2)
    with pytest.raises(PromptError, match=r"text 1: 'four': token id 4 is outside the model's vocabulary of 4 tokens"):
        encode(["one", "four"], words, vocab_size=4)
    with pytest.raises(PromptError, match="token id 4 is outside"):
        encode(Prompts.from_texts(["one"], ["four"]), words, vocab_size=4)
    with pytest.raises(PromptError, match=r"pair 'corrupt': has 3 tokens"):
        encode(Prompts.from_pairs(["one"], ["one two six"]), words, context=2)


def test_what_is_no_tokenizer():
    with pytest.raises(PromptError, match="cannot be called"):
        encode(["a"], {"input_ids": [1]})  # type: ignore[arg-type]
    for wrong in ({"ids": [1]}, {"input_ids": [[1, 2]]}, {"input_ids": 3}, None):
        with pytest.raises(PromptError, match="no flat list of ids"):
            encode(["a"], lambda text, wrong=wrong: wrong)


def test_spans_that_are_needed_must_be_found():
    prompts = Prompts(
        (
            Prompt("Big Ben is in", spans={"subject": "Big Ben"}),
            Prompt("Paris is in Paris", spans={"subject": "Paris"}),
            Prompt("Rome is in", spans={"subject": "rome"}),
            Prompt("Oslo is in"),
        )
    )
    encoded = encode(prompts, words)
    assert encoded.spans["subject"] == ((0, 2), None, None, None)
    assert "ambiguous" in encoded.notes[0]
    ambiguous = (
        r"prompt 1 'Paris is in Paris': span 'subject' \('Paris'\) is ambiguous: it occurs 2 times, at characters 0, 12"
    )
    with pytest.raises(PromptError, match=ambiguous):
        encoded.span("subject")
    with pytest.raises(PromptError, match=ambiguous):
        encode(prompts, words, spans=["subject"])
    assert encode(prompts, words, spans=()).spans == {}
    with pytest.raises(PromptError, match=r"'rome'.*is not in the prompt; the prompt writes it 'Rome'"):
        encode(prompts[2:], words, spans=["subject"])
    with pytest.raises(PromptError, match="prompt 1 'Oslo is in': has no span 'subject'"):
        encode(prompts[::3], words).span("subject")
    with pytest.raises(UnknownNameError, match="did you mean 'subject'"):
        encode(prompts, words, spans=["subjct"])
    with pytest.raises(UnknownNameError, match="did you mean 'subject'"):
        encoded.span("subjct")


def test_pairs_are_encoded_with_their_spans():
    prompts = Prompts.from_pairs(
        [Prompt("Big Ben is in", spans={"subject": "Big Ben", "verb": "is"}), "one two"],
        [Prompt("The Colosseum is in", "Rome", spans={"subject": "The Colosseum"}), "six ten"],
    )
    encoded = encode(prompts, words)
    pair = encoded.pair("corrupt")
    assert pair.ids == ((3, 9, 2, 2), (3, 3))
    assert pair.answer_ids == (4, None)
    assert pair.spans == {"subject": ((0, 2), None), "verb": ((2, 3), None)}
    assert pair.prompts.texts == ("The Colosseum is in", "six ten")
    some = encode(Prompts((prompts[0], Prompt("one"))), words)
    assert some.pairs["corrupt"].ids == ((3, 9, 2, 2), ())
    with pytest.raises(PromptError, match="prompt 1 'one': has no pair 'corrupt'"):
        some.pair("corrupt")
    with pytest.raises(UnknownNameError, match="did you mean 'corrupt'"):
        some.pair("corrupted")


def test_single_token_answers_says_why():
    fast = tokenizer("word")
    prompts = Prompts.from_texts(
        ["Big Ben is in", "Paris is in", "The man is in", "The men is in"], ["London", "the city", None, "Rome"]
    )
    kept = single_token_answers(prompts, fast)
    assert kept.texts == ("Big Ben is in",)
    assert [(record.reason, record.count) for record in kept.dropped] == [
        ("the answer has more than one token", 1),
        ("there is no answer", 1),
        ("the answer's first token is not in the tokenizer's vocabulary", 1),
    ]
    with pytest.raises(PromptError, match="no prompt is left"):
        single_token_answers(prompts[1:2], fast)


@pytest.mark.parametrize("kind", ["byte", "metaspace"])
def test_next_token_prompts_are_read_as_within_their_text(kind):
    fast = tokenizer(kind)
    texts = Prompts((*CORPUS[:3], "in"))
    cut = next_token_prompts(texts, fast, per_text=5, shortest=3, seed=1)
    assert 10 <= len(cut) <= 15
    assert cut.dropped[0].count == 1
    encoded = encode(cut, fast)
    for prompt, ids, answer in zip(cut, encoded.ids, encoded.answers(), strict=True):
        whole = fast(texts[prompt.features["text_index"]].text)["input_ids"]
        assert list(ids) == whole[: prompt.features["tokens"]]
        assert answer == whole[len(ids)]
        assert len(ids) >= 3
    assert next_token_prompts(texts, fast, per_text=5, shortest=3, seed=1) == cut
    assert next_token_prompts(texts, fast, per_text=5, shortest=3, seed=2) != cut
    alone = next_token_prompts(texts[:1], fast, per_text=5, shortest=3, seed=1)
    assert alone.texts == tuple(p.text for p in cut if p.features["text_index"] == 0)
    chosen = next_token_prompts(texts, fast, positions=[6, 999])
    assert set(chosen.feature("tokens")) == {6}


def test_next_token_prompts_need_offsets():
    with pytest.raises(PromptError, match="cannot tell where its tokens are"):
        next_token_prompts(Prompts((CORPUS[0],)), words)
    with pytest.raises(PromptError, match="at least 1"):
        next_token_prompts(Prompts((CORPUS[0],)), tokenizer("byte"), per_text=0)


@pytest.mark.parametrize("folder", FOLDERS)
def test_real_tokenizers_on_known_1000(folder):
    fast = loaded(folder)
    path = SHARED / "data" / "known_1000" / "known_1000.json"
    if not path.exists():
        pytest.skip("known_1000.json is not there")
    prompts = Prompts.from_file(path)
    encoded = encode(prompts, fast, context=1024, vocab_size=len(fast), spans=["subject"], answers="require")
    slow = encode(prompts, without_offsets(fast), spans=["subject"], answers="require")
    assert (slow.ids, slow.answer_ids, slow.spans) == (encoded.ids, encoded.answer_ids, encoded.spans)
    for prompt, ids, (start, stop), answer in zip(
        prompts, encoded.ids, encoded.span("subject"), encoded.answers(), strict=True
    ):
        subject = prompt.spans["subject"]
        assert subject in fast.decode(list(ids[start:stop]))
        before = start + 1 + (start == 1)  # at the text's beginning there may be a token of the space before it
        assert subject not in fast.decode(list(ids[before:stop]))
        assert subject not in fast.decode(list(ids[start : stop - 1]))
        whole = fast(f"{prompt.text} {prompt.answer}")["input_ids"]
        assert whole[: len(ids) + 1] == [*ids, answer]
    if folder.endswith("gpt2_tokenizer"):
        assert (min(encoded.lengths), max(encoded.lengths)) == (4, 27)
        assert single_token_answers(prompts, fast) is prompts
    else:
        assert "600 answers begin with a token that is only a space" in encoded.notes
