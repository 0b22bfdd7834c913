"""The numbers that summaries and comparisons start from: a sweep averaged over its donors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from causalnet.effects.statistics.donors import donor_mean
from causalnet.graph.node import Node

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FRACTIONS", "GROUPS", "PARTS", "cells", "closure", "group", "kind", "prompt_means", "self_repair"]

# What a node's total effect consists of, and what is made of it.
PARTS = ("te", "de", "ce", "ce_attn", "ce_mlp", "norm", "self_repair")
# Those that are given as shares of what an ablation removes directly.
FRACTIONS = ("self_repair", "ce", "ce_attn", "ce_mlp", "norm")
GROUPS = ("all", "attn", "mlp")


def self_repair(ds: "xr.Dataset") -> "xr.DataArray":
    """Self-repair of every cell: TE − DE, computed as CE + NORM.

    Parameters
    ----------
    ds
        A sweep's result.

    Returns
    -------
    xarray.DataArray
        [prompt, node, donor], in logits; positive where the rest of the network gives back logit.

    References
    ----------
    Rushing and Nanda (2024), arXiv 2402.15390.
    """
    return (ds["ce"] + ds["norm"]).rename("self_repair").assign_attrs(units=ds["ce"].attrs["units"])


def kind(name: str) -> str:
    """Return ``attn`` for an attention layer or a part of one, ``mlp`` for an MLP, else the node's own kind.

    Examples
    --------
    >>> kind("attn[3].head[1]"), kind("mlp[0]")
    ('attn', 'mlp')
    """
    own = Node.parse(name).kind
    return "attn" if own in ("attn", "head", "bias") else own


def cells(ds: "xr.Dataset") -> dict[str, np.ndarray]:
    """Every part [prompt, node, donor] in float64; NaN where a prompt has fewer donors."""
    found = {name: ds[name].values.astype(np.float64) for name in ("te", "de", "ce", "norm")}
    kinds = np.array([kind(name) for name in ds["responder"].values.tolist()])
    delta = ds["delta_de"].values
    for one in ("attn", "mlp"):
        found[f"ce_{one}"] = delta[..., kinds == one].sum(-1, dtype=np.float64)
    found["self_repair"] = found["ce"] + found["norm"]
    return {name: found[name] for name in PARTS}


def prompt_means(ds: "xr.Dataset") -> dict[str, np.ndarray]:
    """Every part's donor mean [prompt, node], and ``clean``, the clean direct effect, in float64."""
    means = {name: donor_mean(values) for name, values in cells(ds).items()}
    return {**means, "clean": ds["clean_direct"].values.astype(np.float64)}


def group(nodes: Sequence[str], which: str) -> np.ndarray:
    """Return which nodes belong to a group: ``all``, ``attn`` or ``mlp``."""
    return np.array([which in ("all", kind(name)) for name in nodes])


def closure(ds: "xr.Dataset") -> tuple[float, float]:
    """Largest closure residual, absolute and relative, over prompts, nodes and donors.

    Returns
    -------
    tuple of float
        Logits, and the share of the larger of the clean |logit| and |DE| + Σ|ΔDE| + |NORM| of the same cell.
    """
    residual = np.abs(ds["residual"].values.astype(np.float64))
    parts = np.abs(ds["de"].values.astype(np.float64)) + np.abs(ds["norm"].values.astype(np.float64))
    parts += np.abs(ds["delta_de"].values).sum(-1, dtype=np.float64)
    size = np.fmax(parts, np.abs(ds["clean_logit"].values.astype(np.float64))[:, None, None])
    share = np.divide(residual, size, out=np.zeros_like(residual), where=size > 0)
    return float(np.nanmax(residual)), float(np.nanmax(share))
