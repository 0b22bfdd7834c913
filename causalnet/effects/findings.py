"""What a summary says, in sentences made from its numbers alone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from causalnet.effects.words import words_of
from causalnet.graph.node import Node

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["findings"]

_ALPHA = 0.05


def findings(result: "Mapping[str, Any] | xr.Dataset") -> list[str]:
    """Say in five sentences what a sweep found.

    The first: at which nodes the layers downstream give back what the ablation removed (their response is above 0
    on average and grows with the node's direct effect, after Holm's correction), and where most.
    The second: which share of all that was lost comes back, from attention, from MLPs and from the final norm
    (from all that is downstream together, where the outcome is no sum over responders).
    The third: at which nodes the total effect is smaller than the direct one (TE − DE above 0), and at which larger.
    The fourth: whether that has the shape of McGrath et al. (2023), where later layers are restored and earlier not.
    The fifth: how often the response repairs rather than breaks, and how well the split closes.

    Parameters
    ----------
    result
        What :func:`~causalnet.effects.summarise` returned, or a sweep's dataset (it is then summarised).

    Returns
    -------
    list of str
        Five sentences.

    Examples
    --------
    >>> node = {"name": "attn[0]", "slope": 0.01, "slope_ci": [-0.04, 0.05], "r2": 0.0, "p_holm": 1.0,
    ...         "ce": 0.1, "ce_ci": [0.0, 0.2], "de_ci": [-2.5, -1.5], "self_repair": 0.1,
    ...         "self_repair_ci": [-0.1, 0.3], "responders": []}
    >>> part = {"nodes": 1, "lost": 2.0, "stable": True, "repaired_pairs": 0.5, "repaired_pairs_ci": [0.4, 0.6]}
    >>> for name in ("self_repair", "ce_attn", "ce_mlp", "norm"):
    ...     part |= {name: 0.0, f"{name}_ci": [-0.1, 0.1]}
    >>> print(findings({"ablation": "zero", "prompts": 100, "donors": 0, "level": 0.95, "nodes": [node],
    ...                 "pooled": {"all": part}, "closure_max_abs": 1e-6, "closure_max_rel": 1e-7})[0])
    No compensation: at none of 1 nodes (zero ablation, 100 prompts) does the summed response of later layers
    grow with the node's direct effect; the largest slope is 0.01 (95 % interval −0.04 to 0.05) at attn[0].
    """
    if "nodes" in result:
        summary = cast("Mapping[str, Any]", result)
    else:
        from causalnet.effects.summary import summarise

        summary = summarise(cast("xr.Dataset", result))
    return [
        _compensated(summary),
        _shares(summary),
        _restored(summary),
        _shape(summary),
        _checks(summary),
    ]


def spread(entry: Mapping[str, Any], key: str, level: float, percent: bool = False) -> str:
    """Write an estimate with its interval, as ``0.42 (95 % interval 0.37 to 0.48)``."""
    low, high = entry[f"{key}_ci"]
    value, low, high = (number(one, percent) for one in (entry[key], low, high))
    return f"{value}{' %' if percent else ''} ({100 * level:g} % interval {low} to {high})"


def number(value: float, percent: bool = False) -> str:
    """Write a number to two decimals, or to one decimal of a percentage, with a true minus sign."""
    text = f"{100 * value:.1f}" if percent else f"{value:.2f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def _compensated(summary: Mapping[str, Any]) -> str:
    nodes, level, few = summary["nodes"], summary["level"], summary["prompts"] < 3
    words = words_of(summary)
    drawn = f", {summary['donors']} donors each" if summary["donors"] else ""
    of = f"{len(nodes)} nodes ({summary['ablation']} ablation, {summary['prompts']} prompts{drawn})"
    if few:
        return f"Compensation cannot be told from {summary['prompts']} prompt{'s' * (summary['prompts'] != 1)}: {of}."
    sure = [node for node in nodes if node["p_holm"] < _ALPHA]
    grows = [node for node in sure if node["slope_ci"][0] > 0]
    falls = [node for node in sure if node["slope_ci"][1] < 0]
    gives = [node for node in grows if node["ce_ci"][0] > 0]
    rest = f"; at {len(falls)} the response falls with it (breakage)" if falls else ""
    response = "the summed response of later layers" if words.by_responder else "the response of later layers"
    if not grows:
        best = max(nodes, key=lambda node: node["slope"])
        return (
            f"No compensation: at none of {of} does {response} grow with the node's direct effect; the largest slope "
            f"is {spread(best, 'slope', level)} at {best['name']}{rest}."
        )
    best = max(gives or grows, key=lambda node: node["slope"])
    same = [one["name"] for one in best["responders"] if one["delta_de"] * best["ce"] > 0]
    source = f", the largest part from {same[0]}" if same else ""
    strongest = (
        f"{best['name']}, slope {spread(best, 'slope', level)}, R² {number(best['r2'])}, mean response "
        f"{spread(best, 'ce', level)} {words.unit}{source}"
    )
    if not gives:
        return (
            f"No net compensation: at {len(grows)} of {of} {response} grows with the node's direct effect, but at none "
            f"of them is it above 0 on average; the steepest is {strongest}{rest}."
        )
    names = ", ".join(node["name"] for node in gives[:6]) + (", …" if len(gives) > 6 else "")
    also = f"; at {len(grows) - len(gives)} it grows without being above 0" if len(grows) > len(gives) else ""
    return (
        f"Compensation at {len(gives)} of {of}: {names}, where {response} is above 0 on average and grows with the "
        f"node's direct effect; the steepest is {strongest}{also}{rest}."
    )


def _shares(summary: Mapping[str, Any]) -> str:
    pooled, level, words = summary["pooled"]["all"], summary["level"], words_of(summary)
    removed = words.amount(number(pooled["lost"]))
    if not pooled["stable"] or pooled["lost"] <= 0:
        doubt = "which cannot be told from 0" if not pooled["stable"] else "so nothing was lost"
        return f"Summed over nodes the ablations remove {removed} directly, {doubt}: no share of it is given."
    total, low, high = pooled["self_repair"], *pooled["self_repair_ci"]
    sense = "comes back" if low > 0 else "is lost on top (breakage)" if high < 0 else "comes back, which may be none"
    givers = {"ce_attn": "attention", "ce_mlp": "MLPs"} if words.by_responder else {"ce": "later layers"}
    given = ", ".join(f"{name} {spread(pooled, part, level, True)}" for part, name in givers.items())
    shown = dict(pooled)
    if high < 0:
        shown |= {"self_repair": -total, "self_repair_ci": [-high, -low]}
    return (
        f"Of the {removed} that the ablations remove directly (summed over nodes, mean over "
        f"prompts) {spread(shown, 'self_repair', level, True)} {sense}: the final norm gives "
        f"{spread(pooled, 'norm', level, True)}, {given}."
    )


def _lossy(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the nodes whose ablation clearly lowers the outcome directly."""
    return [node for node in summary["nodes"] if node["de_ci"][1] < 0]


def _restored(summary: Mapping[str, Any]) -> str:
    level, lossy, words = summary["level"], _lossy(summary), words_of(summary)
    if summary["prompts"] < 3 or not lossy:
        return f"At no node can it be told that the ablation {words.removes}, so none can be called restored."
    up = sorted((n for n in lossy if n["self_repair_ci"][0] > 0), key=lambda n: -n["self_repair"])
    down = sorted((n for n in lossy if n["self_repair_ci"][1] < 0), key=lambda n: n["self_repair"])
    said = []
    for found, what in ((up, "above 0 (restored)"), (down, "below 0 (breakage)")):
        named = f", most at {found[0]['name']}: {spread(found[0], 'self_repair', level)} {words.unit}" if found else ""
        names = f" ({_names(found)})" if len(found) > 1 else ""
        said.append(f"{what} at {len(found) or 'none'}{names}{named}")
    rest = len(lossy) - len(up) - len(down)
    return (
        f"Of the {len(lossy)} nodes whose ablation clearly {words.removes}, TE − DE is {said[0]}, and "
        f"{said[1]}; at {rest or 'none'} it cannot be told from 0."
    )


def _names(found: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(str(node["name"]) for node in found[:6]) + (", …" if len(found) > 6 else "")


def _shape(summary: Mapping[str, Any]) -> str:
    """Compare the later half of the layers with the earlier one."""
    layers = 1 + max((Node.parse(node["name"]).layer or 0 for node in summary["nodes"]), default=0)
    halves: tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]] = ([], [])
    for node in _lossy(summary):
        halves[2 * (Node.parse(node["name"]).layer or 0) >= layers].append(node)
    counts = [(sum(n["self_repair_ci"][0] > 0 for n in half), len(half)) for half in halves]
    broken = [sum(n["self_repair_ci"][1] < 0 for n in half) for half in halves]
    (early, of_early), (late, of_late) = counts
    if summary["prompts"] < 3 or not of_late or layers < 2:
        return "Whether later layers are restored and earlier ones not cannot be told here."
    if not late:
        verdict = "does not hold"
    elif 2 * late > of_late and early * of_late < late * max(of_early, 1):
        verdict = "holds"
    else:
        verdict = "holds in part"
    return (
        f"The shape reported by McGrath et al. (2023), |TE| below |DE| in later layers, {verdict}: of the nodes that "
        f"{words_of(summary).lose}, {late} of {of_late} in the later half of the {layers} layers are restored and "
        f"{broken[1]} break further; in the earlier half {early} of {of_early} and {broken[0]}."
    )


def _checks(summary: Mapping[str, Any]) -> str:
    pooled, level, words = summary["pooled"]["all"], summary["level"], words_of(summary)
    closed = "" if words.by_responder else ", each part being a difference of forward passes"
    repaired = (
        f"Where an ablation lowers the direct effect, the total drop is smaller than that (repair) in "
        f"{spread(pooled, 'repaired_pairs', level, True)} of prompt–node pairs and larger or equal (breakage) in the "
        f"others"
    )
    if not words.usual and pooled["repaired_pairs_ci"] == [0.0, 0.0]:  # outcomes such as KL have none to repair
        repaired = f"No ablation lowers {words.outcome} directly on any prompt and then less in total (repair)"
    return (
        f"{repaired}; TE − DE − CE − NORM is at most {summary['closure_max_abs']:.1e} {words.unit}, "
        f"{summary['closure_max_rel']:.1e} relative{closed}."
    )
