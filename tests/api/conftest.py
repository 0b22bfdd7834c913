"""Small models with a tokenizer of words, prompts with everything a query can name, and the slow reference."""

import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import causalnet as cn
from causalnet.engine.plain import run_plain
from causalnet.engine.plan import Reading, plan
from causalnet.engine.sources import Inputs
from causalnet.expr import compile_query
from causalnet.expr.values import Noise, Patch, Resample
from causalnet.prompts import choose_donors

WORDS = ["<unk>", "Mary", "John", "Ann", "Tom", "gave", "met", "saw", "told", "the", "a", "key", "book", "lamp"]
WORDS += ["to", "and", "in", "at", "when", "of", "stone", "Paris", "Rome"]


def word_tokenizer():
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", clean_up_tokenization_spaces=False)


def tiny_llama(layers=22, heads=10, seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=2 * heads,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        initializer_range=0.25,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).double().eval()


@pytest.fixture(scope="session")
def model():
    """A random Llama deep enough for the sentences of the design as they stand."""
    return cn.compile(tiny_llama(), tokenizer=word_tokenizer())


@pytest.fixture(scope="session")
def small():
    return cn.compile(tiny_llama(layers=4, heads=4, seed=1), tokenizer=word_tokenizer())


@pytest.fixture(scope="session")
def prompts():
    rows = [
        ("when Mary met John in Rome", "Mary", "when Tom met John in Rome", "Paris", "city"),
        ("the stone at Paris saw Tom and Ann", "stone", "the lamp at Paris saw Tom and Ann", "Rome", "city"),
        ("Ann told Tom of a key in the book", "Tom", "Ann told Mary of a key in the book", "Rome", "person"),
        ("John gave the lamp to Mary", "lamp", "John gave the book to Mary", "Tom", "person"),
        ("Tom saw the key at Rome", "key", "Tom saw the book at Rome", "Ann", "city"),
    ]
    records = [
        {"prompt": text, "subject": subject, "corrupt": other, "answer": answer, "relation": relation}
        for text, subject, other, answer, relation in rows
    ]
    return cn.Prompts.from_records(records)


def natural_targets(model, ids):
    """The most likely next token of each prompt, by the model's own forward."""
    with torch.no_grad():
        return [int(model.mechanisms.hf(input_ids=torch.tensor([row])).logits[0, -1].argmax()) for row in ids]


def span_ranges(model, prompts, name):
    """Token ranges of a word-level span."""
    words = [[model.tokenizer.decode([token]) for token in model.tokenizer(one.text)["input_ids"]] for one in prompts]
    starts = [row.index(one.spans[name]) for row, one in zip(words, prompts, strict=True)]
    return [(start, start + 1) for start in starts]


@pytest.fixture(scope="session", name="by_hand")
def by_hand_fixture():
    return by_hand


@pytest.fixture(scope="session", name="close")
def close_fixture():
    return close


def by_hand(model, query, prompts, *, donors=3, seed=0, spans=(), located=None):
    """Answer a query by full forwards and plain sums: [prompt, draw] and their mean of means.

    Nothing of the evaluation is used but the query's worlds: tokens, donors and spans are found here.
    """
    query = cn.parse(query) if isinstance(query, str) else query
    compiled = compile_query(query, model.graph)
    values = [value for world in compiled.worlds for value in world.values]
    ids = tuple(tuple(model.tokenizer(text)["input_ids"]) for text in prompts.texts)
    names = {value.name for value in values if isinstance(value, Patch)}
    ranges = {name: span_ranges(model, prompts, name) for name in spans} if located is None else located
    located = tuple({name: ranges[name][one] for name in ranges} for one in range(len(ids)))
    others = {name: [one.pairs[name].text for one in prompts] for name in names}
    pairs = {
        name: Inputs(tuple(tuple(model.tokenizer(text)["input_ids"]) for text in texts), spans=located)
        for name, texts in others.items()
    }
    drawn = None
    if any(isinstance(value, Resample) for value in values):
        writes = [write for world in compiled.worlds for write in world.writes]
        every = any(site.position is None and isinstance(value, Resample) for site, value in writes)
        lengths = [len(row) for row in ids]
        drawn = choose_donors(
            natural_targets(model, ids), lengths, donors=donors, seed=seed, same_length=every, keys=ids
        )
    noisy = any(isinstance(value, Noise) for value in values)
    inputs = Inputs(ids, spans=located, donors=drawn, pairs=pairs, draws=donors if noisy else 1, seed=seed)
    readings = [Reading(compiled.worlds[one.world], one.outcome, one.nodes) for one in compiled.readings]
    planned = plan(model.graph, compiled.worlds, readings, inputs.shape, draws=inputs.count)
    lookup = model.tokenizer.convert_tokens_to_ids
    values = run_plain(model.mechanisms, planned, inputs, lookup=lambda text: lookup(text.strip()))
    table = sum(w * values[reading] for w, reading in zip(compiled.weights, readings, strict=True))
    return table, float(np.mean(np.nanmean(table, axis=1)))


def close(found, expected, bound=1e-6):
    """Whether two tables agree, NaN where NaN, to a bound relative to their size."""
    found, expected = np.asarray(found), np.asarray(expected)
    size = max(1.0, float(np.nanmax(np.abs(expected))))
    if found.shape[1] < expected.shape[1]:  # columns in which no prompt has a donor
        assert np.isnan(expected[:, found.shape[1] :]).all()
        expected = expected[:, : found.shape[1]]
    assert found.shape == expected.shape
    assert (np.isnan(found) == np.isnan(expected)).all()
    worst = float(np.nanmax(np.abs(found - expected)))
    assert worst < bound * size, f"{worst:.2e} of {size:.2e}"
    assert math.isfinite(worst)
