"""A compiled model on encoded prompts: what all sweeps of one model share."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from causalnet.expr.positions import Span
from causalnet.prompts import Encoded, Prompts, encode
from causalnet.studies.options import Options, bytes_of, position_of

if TYPE_CHECKING:
    from causalnet.model.mechanism import Mechanisms

__all__ = ["Subject", "subject"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A compiled model on encoded prompts: what all sweeps of one model share.

    Attributes
    ----------
    mechanisms, tokenizer
        The model.
    encoded
        The prompts' tokens, and the spans that positions name.
    targets
        Target token [prompt]: the natural world's most likely one.
    """

    mechanisms: "Mechanisms"
    tokenizer: Any
    encoded: Encoded
    targets: tuple[int, ...]

    @property
    def prompts(self) -> Prompts:
        """The prompts."""
        return self.encoded.prompts

    @cached_property
    def target_texts(self) -> list[str]:
        """Text of each target."""
        return [self.tokenizer.decode([token]) for token in self.targets]


def subject(
    mechanisms: "Mechanisms",
    tokenizer: Any,
    prompts: Prompts,
    options: Options,
    *,
    targets: Sequence[int] | None = None,
) -> Subject:
    """Encode the prompts and find their targets.

    Parameters
    ----------
    mechanisms, tokenizer
        The compiled model and the tokenizer that belongs to it.
    prompts, options
        The prompts; positions that name spans.
    targets
        Those found before, where the work was begun before.

    Raises
    ------
    PromptError
        If a prompt is empty or too long for the model; it is named.
    """
    from causalnet.effects.sweep import find_targets
    from causalnet.engine.inputs import Inputs

    named = [position_of(text) for text in options.positions]
    spans = tuple(dict.fromkeys(one.name for one in named if isinstance(one, Span)))
    encoded = encode(
        prompts, tokenizer, context=mechanisms.context, vocab_size=mechanisms.vocab, spans=spans, answers="ignore"
    )
    if targets is None:
        inputs, memory = Inputs(encoded.ids, seed=options.seed), bytes_of(options.memory) // 2
        targets = tuple(int(one) for one in find_targets(mechanisms, inputs, memory=memory))
    return Subject(mechanisms, tokenizer, encoded, tuple(int(token) for token in targets))
