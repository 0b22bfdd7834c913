"""Recall of an embedded model, and the fixed list of evaluation prompts."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from causalnet.demo.facts import Statement, World

__all__ = ["choose_prompts", "recalled", "write_prompts"]

_ROWS = 256


@torch.no_grad()
def recalled(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    statements: Sequence[Statement],
) -> list[bool]:
    """Say which statements a model completes with the answer.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        In evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase
        Its tokenizer.
    statements : sequence of Statement
        Statements that end in their answers.

    Returns
    -------
    list of bool
        For each statement, whether the answer is the most probable next token at the
        last position of its prompt.
    """
    prompts = [tokenizer(s.prompt)["input_ids"] for s in statements]
    answers = [tokenizer.convert_tokens_to_ids(s.fact.answer) for s in statements]
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        by_length[len(prompt)].append(i)
    right = [False] * len(prompts)
    for indices in by_length.values():
        for start in range(0, len(indices), _ROWS):
            chunk = indices[start : start + _ROWS]
            tokens = torch.tensor([prompts[i] for i in chunk], device=model.device)
            top = model(tokens, use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1)
            for i, token in zip(chunk, top.tolist(), strict=True):
                right[i] = token == answers[i]
    return right


def choose_prompts(world: World, right: Sequence[Sequence[bool]], size: int) -> list[Statement]:
    """Choose the fixed evaluation prompts.

    Parameters
    ----------
    world : World
        The world.
    right : sequence of sequence of bool
        For each model, which of ``world.held_out()`` it recalls.
    size : int
        How many prompts to choose at most.

    Returns
    -------
    list of Statement
        Held-out statements that every model recalls, the same number for each relation
        as far as there are enough, in the order of the world.
    """
    known = [s for s, *each in zip(world.held_out(), *right, strict=True) if all(each)]
    by_relation: dict[str, list[Statement]] = defaultdict(list)
    for statement in known:
        by_relation[statement.fact.relation.name].append(statement)
    share = size // max(len(by_relation), 1)
    return [s for statements in by_relation.values() for s in statements[:share]]


def write_prompts(statements: Sequence[Statement], path: Path) -> None:
    """Write prompts as JSON lines.

    Parameters
    ----------
    statements : sequence of Statement
        Statements that end in their answers.
    path : pathlib.Path
        The file; overwritten.
    """
    with path.open("w", encoding="utf-8") as file:
        for s in statements:
            record = {
                "prompt": s.prompt,
                "answer": s.fact.answer,
                "subject": s.fact.subject,
                "relation": s.fact.relation.name,
                "phrasing": s.phrasing.name,
            }
            file.write(json.dumps(record) + "\n")
