"""Which prompts the study keeps; what is dropped, and why, is counted."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from causalnet.errors import PromptError, explain
from causalnet.prompts import Prompts, encode
from causalnet.prompts.cuts import next_token_prompts
from causalnet.prompts.filters import by_feature, single_token_answers
from causalnet.studies.options import Arm, Options

if TYPE_CHECKING:
    from causalnet.studies.models import Models

__all__ = ["keep"]


def keep(prompts: Prompts, options: Options, arms: Sequence[Arm], models: "Models") -> Prompts:
    """Cut texts and apply the filters that the options name: relation, one-token and correct answers, the limit.

    Parameters
    ----------
    prompts
        The prompts.
    options
        Which filters.
    arms, models
        The models, all of which must answer as the prompt says where that is asked for.

    Returns
    -------
    Prompts
        Its ``dropped`` says what was left out and why.

    Raises
    ------
    PromptError
        If no prompt is left.
    UnknownNameError
        If relations are named and no prompt has one.
    """
    if options.cuts is not None or options.cut_at:
        first = models.take(arms[0].model, arms[0].name)
        prompts = next_token_prompts(
            prompts,
            first.tokenizer,
            positions=options.cut_at or None,
            per_text=options.cuts or 1,
            longest=first.mechanisms.context,
            seed=options.seed,
        )
    if options.relations:
        prompts = by_feature(prompts, "relation", list(options.relations))
    if options.single_token_answers:
        for arm in arms:
            prompts = single_token_answers(prompts, models.take(arm.model, arm.name).tokenizer)
    if options.correct_only:
        for arm in arms:
            prompts = _correct(prompts, arm, models)
    return prompts if options.limit is None else prompts.take(options.limit)


def _correct(prompts: Prompts, arm: Arm, models: "Models") -> Prompts:
    from causalnet.effects.sweep import find_targets
    from causalnet.engine.inputs import Inputs

    held = models.take(arm.model, arm.name)
    model = held.mechanisms
    encoded = encode(prompts, held.tokenizer, context=model.context, vocab_size=model.vocab, spans=(), answers="read")
    if encoded.without_answer == len(prompts):
        mend = "give each an 'answer', or leave --correct-only out"
        raise PromptError(explain("no prompt has an answer", where=prompts.name, mend=mend))
    top = find_targets(model, Inputs(encoded.ids)).tolist()
    right = [answer == token for answer, token in zip(encoded.answer_ids, top, strict=True)]
    return prompts.select(right, f"{model.name}'s most likely token is not the answer's first")
