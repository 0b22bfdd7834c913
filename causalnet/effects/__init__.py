"""Effects: the result schema, statistics over prompts, summaries and comparisons.

xarray is imported only when a dataset is made or read.
"""

from causalnet.effects.comparison import compare
from causalnet.effects.findings import findings
from causalnet.effects.parts import closure, prompt_means, self_repair
from causalnet.effects.schema import load, save, select, sweep_dataset, to_dataframe, validate
from causalnet.effects.statistics import (
    FewPromptsWarning,
    Interval,
    benjamini_hochberg,
    donor_convergence,
    holm,
    permutation_p,
)
from causalnet.effects.summary import summarise

__all__ = [
    "FewPromptsWarning",
    "Interval",
    "benjamini_hochberg",
    "closure",
    "compare",
    "donor_convergence",
    "findings",
    "holm",
    "load",
    "permutation_p",
    "prompt_means",
    "save",
    "select",
    "self_repair",
    "summarise",
    "sweep_dataset",
    "to_dataframe",
    "validate",
]
