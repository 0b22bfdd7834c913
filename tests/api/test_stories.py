"""A trained checkpoint with a SentencePiece-like tokenizer: sentences by value, and what its tokens are called."""

from pathlib import Path

import pytest
import torch

import causalnet as cn
from causalnet.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::causalnet.effects.FewPromptsWarning")

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "models" / "stories260K"
TEXTS = [
    "Once upon a time there was a little girl",
    "The dog ran to the",
    "One day a big cat saw the sun and",
    "Lily liked to play with her",
]


@pytest.fixture(scope="module")
def stories():
    if not FOLDER.is_dir():
        pytest.skip("the stories260K checkpoint is not here")
    return cn.compile(FOLDER, dtype="float64")


@pytest.mark.parametrize(
    "text",
    [
        "TE(attn[3]@last = resample)",
        "DE(mlp[2]@last = resample; logprob(target))",
        "TIE(attn[1]@last = zero; prob(target))",
        "E[logit(target) | do(attn[2].head[0,5]@last = mean)]",
        "E[logit(target) | do(attn[1]@last -> mlp[3] = resample)] - E[logit(target)]",
        "E[direct(attn[4]) | do(attn[2]@last = zero)] - E[direct(attn[4])]",
        "E[kl | do(resid[3]@-2 = resample)]",
        "TE(embed@-3: = noise(2.0))",
    ],
)
def test_sentences(stories, by_hand, close, text):
    prompts = cn.Prompts.from_texts(TEXTS)
    result = stories.evaluate(text, prompts, donors=2, seed=1)
    table, value = by_hand(stories, text, prompts, donors=2, seed=1)
    close(result.units_table, table)
    assert result.value == pytest.approx(value, abs=1e-5)


def test_a_word_after_a_space(stories):
    prompts = cn.Prompts.from_texts(TEXTS)
    with_space, alone, piece = stories.evaluate(['E[logit(" he")]', 'E[logit("he")]', 'E[logit("▁he")]'], prompts)
    ids = torch.tensor([stories.tokenizer(TEXTS[1])["input_ids"]])
    with torch.no_grad():
        logits = stories.mechanisms.hf(input_ids=ids).logits[0, -1]
    token = stories.tokenizer.convert_tokens_to_ids("▁he")
    expected = float(logits[token] - logits.mean())
    for one in (with_space, alone, piece):
        assert one.values[1] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(InputError, match='" Mary" is not one token but 3: "▁M", "ar", "y"'):
        stories.evaluate('E[logit(" Mary")]', prompts)
