"""Per-unit findings as plain values that JSON can hold, and back."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from causalnet.errors import CausalnetError, DataError, InputError, explain
from causalnet.expr import Outcome
from causalnet.graph import Node

__all__ = ["plain_units", "units_from"]


def _kinds() -> dict[str, type]:
    """Return what can be stored, by name; a file can name nothing else."""
    from causalnet.effects.causality import Cause, Causes
    from causalnet.effects.decompose import Split
    from causalnet.effects.shapley import Shares

    return {kind.__name__: kind for kind in (Split, Shares, Causes, Cause)}


def plain_units(value: Any) -> Any:
    """Return a finding as plain values.

    Parameters
    ----------
    value
        None, a :class:`~causalnet.effects.decompose.Split`, :class:`~causalnet.effects.shapley.Shares` or
        :class:`~causalnet.effects.causality.Causes`, and what these hold.  NaN becomes None, infinity a text.

    Raises
    ------
    InputError
        If it is something else.

    Examples
    --------
    >>> plain_units(np.array([[0.5, np.nan]]))
    {'array': [0.5, None], 'shape': [1, 2], 'dtype': 'float64'}
    >>> units_from(plain_units((Node("norm"), True)))
    (Node(kind='norm', layer=None, head=None, position=None), True)
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "bif":
        flat = [_plain_number(one) for one in value.ravel().tolist()]
        return {"array": flat, "shape": list(value.shape), "dtype": str(value.dtype)}
    if isinstance(value, Node):
        return {"node": str(value)}
    if isinstance(value, Outcome):
        return {"outcome": str(value)}
    if isinstance(value, tuple | list):
        return [plain_units(one) for one in value]
    if isinstance(value, Mapping):
        return {"pairs": [[plain_units(key), plain_units(one)] for key, one in value.items()]}
    kind, known = type(value).__name__, _kinds()
    if known.get(kind) is type(value):
        names = [one.name for one in fields(known[kind])]
        return {"kind": kind, "fields": {name: plain_units(getattr(value, name)) for name in names}}
    what = f"units of the type {kind} cannot be saved"
    raise InputError(explain(what, legal=known, mend="save Effects(title, results, None, notes)"))


def units_from(stored: Any) -> Any:
    """Return the finding that :func:`plain_units` told; sequences are tuples.

    Raises
    ------
    DataError
        If the values tell none.
    """
    try:
        return _read(stored)
    except (KeyError, TypeError, ValueError, IndexError, CausalnetError) as error:
        raise DataError(f"the units cannot be read: {error}") from None


def _read(stored: Any) -> Any:
    from causalnet.expr import parse

    if stored is None or isinstance(stored, bool | int | str):
        return stored
    if isinstance(stored, list):
        return tuple(_read(one) for one in stored)
    if "array" in stored:
        if np.dtype(stored["dtype"]).kind not in "bif":
            raise DataError(f"an array of {stored['dtype']!r} is not one that is stored here")
        flat = [math.nan if one is None else float(one) for one in stored["array"]]
        return np.array(flat).astype(stored["dtype"]).reshape(stored["shape"])
    if "node" in stored:
        return Node.parse(stored["node"])
    if "outcome" in stored:
        (term,) = parse(f"E[{stored['outcome']}]").terms
        outcome = term.body.outcome  # type: ignore[union-attr]
        if str(outcome) != stored["outcome"]:
            raise DataError(f"{stored['outcome']!r} is not an outcome")
        return outcome
    if "pairs" in stored:
        return {_read(key): _read(one) for key, one in stored["pairs"]}
    kinds = _kinds()
    if stored["kind"] not in kinds:
        raise DataError(explain(f"unknown kind of units {stored['kind']!r}", legal=kinds, got=str(stored["kind"])))
    return kinds[stored["kind"]](**{name: _read(one) for name, one in stored["fields"].items()})


def _plain_number(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
