"""Tiny models of every kind of block, prompts for them, and the checkpoint of the stories.

The command of the second opinion is importable as ``second_opinion``.
"""

import importlib.util
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Olmo2Config,
)

import causalnet as cn
from causalnet.model.check import tolerance_of
from causalnet.model.shrink import build, randomise

_FOUND = importlib.util.spec_from_file_location(
    "second_opinion", Path(__file__).resolve().with_name("second_opinion.py")
)
assert _FOUND is not None and _FOUND.loader is not None
_FOUND.loader.exec_module(sys.modules.setdefault("second_opinion", importlib.util.module_from_spec(_FOUND)))

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "models" / "stories260K"
VOCAB = 40
_SMALL = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
_WIDE = {"intermediate_size": 24, "max_position_embeddings": 16}
_ROPE = _SMALL | _WIDE | {"num_key_value_heads": 1}

KINDS = {
    "sequential": lambda: GPT2Config(vocab_size=VOCAB, n_positions=16, n_embd=16, n_layer=3, n_head=2),
    "sequential-rms": lambda: LlamaConfig(**_ROPE),
    "parallel-one-norm": lambda: CohereConfig(**_ROPE, logit_scale=0.5),
    "parallel-two-norms": lambda: GPTNeoXConfig(**_SMALL, **_WIDE, use_parallel_residual=True),
    "post-norm": lambda: Olmo2Config(**_ROPE),
    "sandwich": lambda: Gemma2Config(**_ROPE, head_dim=8, sliding_window=3, final_logit_softcapping=5.0),
    "residual-inside": lambda: BloomConfig(vocab_size=VOCAB, hidden_size=16, n_layer=3, n_head=2),
}

ROWS = [
    ("a bb ccc dd e", "bb"),
    ("ff g hh a iii", "g"),
    ("jj k a bb ccc", "k"),
]


class Words:
    """One token per word, by a table that grows."""

    def __init__(self):
        self.table = {}

    def __call__(self, text, **_):
        ids, spans, at = [], [], 0
        for word in text.split():
            start = text.index(word, at)
            at = start + len(word)
            spans.append((start, at))
            ids.append(self.table.setdefault(word, 3 + len(self.table) % (VOCAB - 3)))
        return {"input_ids": ids, "offset_mapping": spans}

    def decode(self, ids):
        back = {number: word for word, number in self.table.items()}
        return " ".join(back.get(number, f"<{number}>") for number in ids)


@cache
def tiny(kind, dtype=torch.float64):
    return cn.compile(randomise(build(KINDS[kind](), dtype=dtype)), tokenizer=Words())


@cache
def bound(kind, dtype):
    mechanisms = tiny(kind, dtype).mechanisms
    ids = torch.randint(0, VOCAB, (2, 5), generator=torch.Generator().manual_seed(0))
    return tolerance_of(mechanisms, ids)


@pytest.fixture(scope="session", name="tiny")
def tiny_fixture():
    return tiny


@pytest.fixture(scope="session", name="bound")
def bound_fixture():
    return bound


@pytest.fixture(scope="session")
def prompts():
    records = [
        {"prompt": text, "subject": word, "corrupt": text.replace(word, "zz", 1), "relation": f"P{index % 2}"}
        for index, (text, word) in enumerate(ROWS)
    ]
    return cn.Prompts.from_records(records)


@pytest.fixture(scope="session")
def vectors():
    draw = np.random.default_rng(0)
    return {"one": draw.standard_normal(16), "each": draw.standard_normal((len(ROWS), 16))}


@pytest.fixture(scope="session")
def stories():
    if not FOLDER.is_dir():
        pytest.skip("the stories260K checkpoint is not here")
    return cn.compile(FOLDER, dtype="float64")


@pytest.fixture(scope="session", name="misfit")
def misfit_fixture():
    return misfit


def misfit(found, expected):
    """The largest difference of two tables relative to their size, at least 1; NaN must meet NaN."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert (np.isnan(found) == np.isnan(expected)).all()
    assert not np.isnan(expected).all()
    return float(np.nanmax(np.abs(found - expected))) / max(1.0, float(np.nanmax(np.abs(expected))))
