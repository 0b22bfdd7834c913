"""Causal-graph modelling of transformer language models: exact do-interventions, effects, compensation.

>>> import causalnet as cn
>>> from causalnet import E, attn, do, last, logit, resample, target
>>> effect = E[logit(target) | do(attn[5] @ last << resample)] - E[logit(target)]
>>> effect == cn.parse("E[logit(target) | do(attn[5]@last = resample)] - E[logit(target)]")
True

Nothing heavy is loaded here: torch and transformers are loaded by :func:`compile`.
"""

from typing import TYPE_CHECKING, Any

from causalnet.api import CausalModel, check, compile, compile_config
from causalnet.expr import (
    CE,
    DE,
    IE,
    NDE,
    NIE,
    NORM,
    PDE,
    PIE,
    TDE,
    TE,
    TIE,
    E,
    add,
    anc,
    attn,
    between,
    desc,
    direct,
    do,
    embed,
    entropy,
    kl,
    last,
    logit,
    logit_diff,
    logits,
    logprob,
    mean,
    mlp,
    natural,
    noise,
    norm,
    parse,
    patch,
    pos,
    precap_logit,
    prob,
    project_out,
    projection,
    prompt,
    rank,
    resample,
    resid,
    scale,
    sigma,
    span,
    target,
    top1,
    under,
    value,
    zero,
)
from causalnet.prompts import Prompt, Prompts

if TYPE_CHECKING:
    from causalnet.effects.causality import Event
    from causalnet.effects.prompted import Prompted
    from causalnet.effects.result import Result
    from causalnet.effects.statistics import FewPromptsWarning
    from causalnet.effects.table import Effects

__all__ = [
    "CE",
    "DE",
    "IE",
    "NDE",
    "NIE",
    "NORM",
    "PDE",
    "PIE",
    "TDE",
    "TE",
    "TIE",
    "CausalModel",
    "E",
    "Effects",
    "Event",
    "FewPromptsWarning",
    "Prompt",
    "Prompted",
    "Prompts",
    "Result",
    "add",
    "anc",
    "attn",
    "between",
    "check",
    "compile",
    "compile_config",
    "desc",
    "direct",
    "do",
    "embed",
    "entropy",
    "kl",
    "last",
    "logit",
    "logit_diff",
    "logits",
    "logprob",
    "mean",
    "mlp",
    "natural",
    "noise",
    "norm",
    "parse",
    "patch",
    "pos",
    "precap_logit",
    "prob",
    "project_out",
    "projection",
    "prompt",
    "rank",
    "resample",
    "resid",
    "scale",
    "sigma",
    "span",
    "target",
    "top1",
    "under",
    "value",
    "zero",
]


# Read when they are first asked for: they bring the statistics along.
_LATER = {
    "Effects": "causalnet.effects.table",
    "Event": "causalnet.effects.causality",
    "FewPromptsWarning": "causalnet.effects.statistics",
    "Prompted": "causalnet.effects.prompted",
    "Result": "causalnet.effects.result",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'causalnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
