"""Sentences packed into rows of tokens, with the masks that keep them apart.

Every sentence in a row sees itself alone: attention is causal inside the sentence and
positions restart at its beginning. So a packed sentence is read in training exactly as a
single prompt is read later, and next to nothing is spent on padding.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from causalnet.demo.facts import Statement

__all__ = ["Batch", "Example", "encode", "epoch_batches"]

_OTHER_WEIGHT = 0.1


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenised sentence.

    Attributes
    ----------
    inputs : tuple of int
        ``<bos>`` and the words.
    targets : tuple of int
        The words and ``<eos>``.
    weights : tuple of float
        The loss weight of each target: 1 for an answer that the subject before it
        determines, little for everything else.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows.

    Attributes
    ----------
    tokens, targets, positions, document : torch.Tensor
        Integers ``[row, position]``: inputs, targets, positions inside the sentence, and
        which sentence of the row a token belongs to (the last number is padding).
    weights : torch.Tensor
        Loss weights ``[row, position]``, zero on padding.
    """

    tokens: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor
    document: torch.Tensor
    weights: torch.Tensor

    def mask(self) -> torch.Tensor:
        """Return who may attend to whom: booleans ``[row, 1, query, key]``."""
        same = self.document[:, :, None] == self.document[:, None, :]
        return (same & torch.ones_like(same).tril()).unsqueeze(1)


def encode(statements: Sequence[Statement], tokenizer: PreTrainedTokenizerFast) -> list[Example]:
    """Tokenise statements and weigh their targets.

    Parameters
    ----------
    statements : sequence of Statement
        What to encode.
    tokenizer : transformers.PreTrainedTokenizerFast
        One token a word, ``<bos>`` first.

    Returns
    -------
    list of Example
        One for each statement, in order.
    """
    eos = tokenizer.convert_tokens_to_ids("<eos>")
    examples = []
    for statement in statements:
        words = statement.phrasing.template.split()
        answer = words.index("{a}") + (words.index("{s}") < words.index("{a}"))
        ids = tokenizer(statement.sentence)["input_ids"]
        targets = [*ids[1:], eos]
        weights = [_OTHER_WEIGHT] * len(targets)
        # An answer in front of its subject is a guess: it is not worth more than a word.
        if answer > words.index("{s}"):
            weights[answer] = 1.0
        examples.append(Example(tuple(ids), tuple(targets), tuple(weights)))
    return examples


def epoch_batches(examples: Sequence[Example], *, rows: int, width: int, seed: int) -> Iterator[Batch]:
    """Shuffle and pack one epoch.

    Parameters
    ----------
    examples : sequence of Example
        None longer than `width`.
    rows, width : int
        The shape of a batch.
    seed : int
        The order of the sentences.

    Yields
    ------
    Batch
        Full batches only: what is left at the end is met in the next epoch's order.
    """
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    packed: list[list[Example]] = []
    row: list[Example] = []
    used = 0
    for i in order:
        example = examples[i]
        if used + len(example.inputs) > width:
            packed.append(row)
            row, used = [], 0
            if len(packed) == rows:
                yield _to_batch(packed, width)
                packed = []
        row.append(example)
        used += len(example.inputs)


def _to_batch(packed: list[list[Example]], width: int) -> Batch:
    """Lay rows of examples out as tensors."""
    shape = (len(packed), width)
    tokens, targets, positions = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    # Padding is a document of its own, so that no token attends to nothing.
    document = torch.full(shape, max(len(row) for row in packed))
    weights = torch.zeros(shape)
    for r, row in enumerate(packed):
        start = 0
        for d, example in enumerate(row):
            span = slice(start, start + len(example.inputs))
            tokens[r, span] = torch.tensor(example.inputs)
            targets[r, span] = torch.tensor(example.targets)
            positions[r, span] = torch.arange(len(example.inputs))
            document[r, span] = d
            weights[r, span] = torch.tensor(example.weights)
            start = span.stop
    return Batch(tokens, targets, positions, document, weights)
