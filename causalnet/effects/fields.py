"""The schema of a sweep's results as data: every coordinate, variable and attribute."""

from dataclasses import dataclass

__all__ = [
    "ATTRIBUTES",
    "COORDINATES",
    "ESTIMAND",
    "POOLS",
    "RUN_KEYS",
    "SCHEMA",
    "SIGN",
    "UNITS",
    "VARIABLES",
    "Variable",
]

SCHEMA = "causalnet-sweep/1"
UNITS = "logits (natural log units)"
"""Of every effect on a logit or a difference of two; where another outcome is read, that outcome's."""

SIGN = "effect = Y(do) - Y: ablating a node that promotes the target gives a negative te"
ESTIMAND = (
    "total effect (te) on the target's centred logit of setting one node, split as te = de + ce + norm + residual "
    "at the natural norm; averages are over prompts, conditional on the donor pool"
)


@dataclass(frozen=True, slots=True)
class Variable:
    """One array of the schema: its name, dimensions in order, kind, units and meaning.

    Parameters
    ----------
    name
        Name in the dataset.
    dims
        Axis words, in order.
    kind
        ``float`` (float32 or float64), ``int`` (any integer type) or ``text`` (str).
    units
        Units of the numbers; ``index`` or ``count`` for integers, ``text`` for texts.
    long_name
        What it is, in one clause.

    Examples
    --------
    >>> VARIABLES["te"].dims
    ('prompt', 'node', 'donor')
    """

    name: str
    dims: tuple[str, ...]
    kind: str
    units: str
    long_name: str


_CELL = ("prompt", "node", "donor")
COORDINATES: dict[str, Variable] = {
    one.name: one
    for one in (
        Variable("prompt", ("prompt",), "int", "index", "number of the prompt"),
        Variable("node", ("node",), "text", "text", "the node that is set"),
        Variable("donor", ("donor",), "int", "index", "number of the draw"),
        Variable("responder", ("responder",), "text", "text", "a node whose direct effect may respond"),
    )
}
VARIABLES: dict[str, Variable] = {
    one.name: one
    for one in (
        Variable("te", _CELL, "float", UNITS, "total effect"),
        Variable("de", _CELL, "float", UNITS, "direct effect of the set node"),
        Variable("ce", _CELL, "float", UNITS, "compensatory effect: sum of delta_de over the responders"),
        Variable("norm", _CELL, "float", UNITS, "effect through the final norm's scale"),
        Variable("residual", _CELL, "float", UNITS, "closure residual: te - de - ce - norm"),
        Variable("delta_de", (*_CELL, "responder"), "float", UNITS, "change of the responder's direct effect"),
        Variable("clean_direct", ("prompt", "node"), "float", UNITS, "direct effect of the node, nothing set"),
        Variable(
            "clean_responder", ("prompt", "responder"), "float", UNITS, "direct effect of the responder, nothing set"
        ),
        Variable("clean_logit", ("prompt",), "float", UNITS, "centred logit of the target, nothing set"),
        Variable("target_id", ("prompt",), "int", "index", "token number of the target"),
        Variable("target", ("prompt",), "text", "text", "text of the target token"),
        Variable("text", ("prompt",), "text", "text", "the prompt"),
        Variable("donor_index", ("prompt", "donor"), "int", "index", "number of the donor prompt, -1 where none"),
        Variable(
            "donors_used", ("prompt",), "int", "count", "donors drawn for the prompt, 0 where the ablation draws none"
        ),
    )
}
ATTRIBUTES: dict[str, str] = {
    "schema": f"name and version of this schema, '{SCHEMA}'",
    "estimand": "what the numbers estimate, in words",
    "expression": "the do-expression of one cell",
    "units": "units of the effects",
    "sign": "the sign convention",
    "ablation": "what the node is set to: resample, zero, mean, …",
    "donor_pool": "where donors come from: prompts (of this dataset), separate, none",
    "position": "the position that is set, as in a do-expression",
    "model": "name of the model",
    "run": "JSON text: how the numbers were made",
}
RUN_KEYS = ("versions", "seed", "dtype", "device", "arguments")
POOLS = ("prompts", "separate", "none")
