"""Do-expressions: a small language for interventional and counterfactual questions.

>>> from causalnet.expr import E, attn, do, last, logit, parse, resample, target
>>> effect = E[logit(target) | do(attn[5] @ last << resample)] - E[logit(target)]
>>> effect == parse("E[logit(target) | do(attn[5]@last = resample)] - E[logit(target)]")
True
"""

from causalnet.expr.assign import Assignment, Do, Path, Paths, do, under
from causalnet.expr.conditions import AllOf, AnyOf, Compare, Condition, Not, holds, prompt
from causalnet.expr.estimands import CE, DE, IE, NDE, NIE, NORM, PDE, PIE, TDE, TE, TIE, Estimand
from causalnet.expr.outcomes import (
    TARGET,
    Outcome,
    Target,
    Token,
    direct,
    entropy,
    kl,
    logit,
    logit_diff,
    logprob,
    precap_logit,
    prob,
    rank,
    sigma,
    target,
    top1,
)
from causalnet.expr.parser import parse
from causalnet.expr.positions import LAST, At, Position, Range, Span, indices, last, pos, span
from causalnet.expr.query import E, Expectation, Query, Term
from causalnet.expr.refs import (
    Ancestors,
    Between,
    Component,
    Descendants,
    Difference,
    Intersection,
    Located,
    Ref,
    Slice,
    Union,
    anc,
    attn,
    between,
    desc,
    embed,
    logits,
    mlp,
    norm,
    resid,
)
from causalnet.expr.values import (
    MEAN,
    NATURAL,
    RESAMPLE,
    ZERO,
    Add,
    Given,
    InWorld,
    Mean,
    Natural,
    Noise,
    Patch,
    ProjectOut,
    Resample,
    Scale,
    SiteValue,
    Under,
    Value,
    Zero,
    add,
    mean,
    natural,
    noise,
    patch,
    project_out,
    resample,
    scale,
    value,
    zero,
)
from causalnet.expr.world import NATURAL_WORLD, Site, World, ground

__all__ = [name for name in dir() if not name.startswith("_")]
