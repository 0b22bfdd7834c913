"""The record of a family that has none, found by probing a model.

The layers are the list of modules each of which is given what the one before returned; the final norm is
the module between the last of them and the unembedding; each kind of layer is taken apart by
:mod:`causalnet.model.anatomy`.  The result is an ordinary record: it is bound and checked like one, and
can be printed to be kept.
"""

import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from causalnet.errors import UnsupportedModelError
from causalnet.model.anatomy import dissect
from causalnet.model.bind import parts_in
from causalnet.model.layer_probe import Call
from causalnet.model.parts import named, numbers, parts_of
from causalnet.model.probe import hidden_of, hooked
from causalnet.model.readout import read_norm
from causalnet.model.record import Family, Part, Scale, text_config
from causalnet.model.shrink import layer_signatures, small_copy

__all__ = ["discover"]

_SMALL = 3_000_000
"""Up to this many parameters a model is probed itself, beyond it a small random copy."""

_LENGTH = 12


def discover(hf: nn.Module) -> Family:
    """Find the record of a model's family by probing it, or a small random copy of a large one.

    Parameters
    ----------
    hf
        A ``transformers`` causal LM in eval mode.

    Returns
    -------
    Family
        A record that covers the model's type.

    Raises
    ------
    UnsupportedModelError
        If the model is not a stack of layers on one residual stream, with the layer and the reason.

    Examples
    --------
    >>> from causalnet.model.record import source_of
    >>> from causalnet.model.small import small_model
    >>> print(source_of(discover(small_model("nanochat"))))
    Family(("nanochat",), softcap="final_logit_softcapping")
    """
    size = sum(parameter.numel() for parameter in hf.parameters())
    meta = any(parameter.is_meta for parameter in hf.parameters())
    exact = next(hf.parameters()).dtype in (torch.float32, torch.float64)
    if size <= _SMALL and exact and not meta:
        return _discover(_precise(hf))
    record = _discover(_copy_of(hf))
    return record if meta else _refit(hf, record)


def _copy_of(hf: nn.Module) -> nn.Module:
    """Build a small copy in float64, or in float32 where the code does not run in float64."""
    return _precise(small_copy(type(hf), hf.config))


def _precise(hf: nn.Module) -> nn.Module:
    """Turn a float32 model into float64, where its code runs in that."""
    double = copy.deepcopy(hf).double()
    if hasattr(double, "set_experts_implementation"):
        double.set_experts_implementation("eager")  # type: ignore[operator]  # the grouped kernels have no float64
    try:
        with torch.no_grad():
            double(torch.zeros(1, 2, dtype=torch.long, device=next(double.parameters()).device), use_cache=False)
    except (RuntimeError, TypeError, ValueError):
        return hf
    return double


def _refit(hf: nn.Module, record: Family) -> Family:
    """Measure on the model itself the factors that no config field names: they may depend on its sizes."""
    parts = (*record.attn, *record.mlp)
    unnamed = [part for part in parts if _is_unnamed(part.scale) or any(_is_unnamed(scale) for _, scale in part.also)]
    if not unnamed and not _is_unnamed(record.logit_scale):
        return record
    head = hf.get_output_embeddings()  # type: ignore[operator]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, head.weight.shape[0], (2, _LENGTH), generator=generator).to(head.weight.device)
    seen = _Run.of(hf, ids)
    stack = _stack(hf, seen)
    scale, softcap = _readout(hf, seen, stack, record.norm, head)
    changes = {}
    for part in unnamed:
        at = next(index for index, call in enumerate(stack.calls) if part in parts_in(record, call.module))
        changes[part] = _rescaled(record, part, stack, seen, at)
    return replace(
        record,
        attn=tuple(changes.get(part, part) for part in record.attn),
        mlp=tuple(changes.get(part, part) for part in record.mlp),
        logit_scale=scale,
        softcap=softcap,
    )


def _is_unnamed(scale: Scale) -> bool:
    return isinstance(scale, float | int) and scale != 1.0


def _rescaled(record: Family, part: Part, stack: "_Stack", seen: "_Run", at: int) -> Part:
    """Return a part with its factors as they are in layer ``at``: the sources sum to the layer's change."""
    layer = f"{stack.path}.{at}"
    change = (seen.returned[layer] - seen.given[layer]).flatten().cpu().double()
    owners = [other for other in parts_in(record, stack.calls[at].module) if other is not None]
    paths = [[other.source or other.module, *(path for path, _scale in other.also)] for other in owners]
    flat = [seen.returned[f"{layer}.{path}"].flatten().cpu().double() for group in paths for path in group]
    factors = torch.linalg.lstsq(torch.stack(flat, -1), change[:, None]).solution[:, 0].tolist()
    start = sum(len(group) for group in paths[: owners.index(part)])
    own, *more = (float(f"{factor:.7g}") for factor in factors[start : start + 1 + len(part.also)])
    also = tuple((path, factor) for (path, _scale), factor in zip(part.also, more, strict=True))
    return replace(part, scale=own, also=also)


@dataclass(frozen=True, eq=False)
class _Stack:
    """The list of layers, with one captured call of each and the stream that leaves the last."""

    path: str
    calls: tuple[Call, ...]
    leaves: torch.Tensor


def _discover(hf: nn.Module) -> Family:
    head = hf.get_output_embeddings()  # type: ignore[operator]
    vocab = head.weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocab, (2, _LENGTH), generator=generator).to(head.weight.device)
    try:
        seen = _Run.of(hf, ids)
    except Exception as error:  # whatever a stranger's forward raises
        raise UnsupportedModelError(
            f"{type(hf).__name__} does not run on token ids alone ({type(error).__name__}: {str(error)[:120]}); a "
            "causal language model is expected"
        ) from error
    stack = _stack(hf, seen)
    norm = _final_norm(hf, seen, stack, head)
    scale, softcap = _readout(hf, seen, stack, norm, head)
    config = text_config(hf.config)
    kinds = layer_signatures(hf.get_submodule(stack.path), config)  # type: ignore[arg-type]
    first = {kind: kinds.index(kind) for kind in kinds}
    anatomies = {kind: dissect(stack.calls[at], f"layer {at}") for kind, at in first.items()}
    layers = [anatomies[kind] for kind in kinds]
    cached = _cached(hf, stack, ids, seen.logits)
    parallels = {anatomy.parallel for anatomy in layers if anatomy.attn and anatomy.mlp}
    if len(parallels) > 1:
        raise UnsupportedModelError("some layers are parallel and some sequential; one record says one of them")
    return Family(
        (config.model_type,),
        layers=stack.path,
        norm=norm,
        attn=parts_of(config, stack.calls, [layer.attn for layer in layers], cached, _LENGTH),
        mlp=parts_of(config, stack.calls, [layer.mlp for layer in layers], (set(), set()), _LENGTH),
        parallel=parallels.pop() if parallels else False,
        logit_scale=scale,
        softcap=softcap,
    )


@dataclass(eq=False)
class _Run:
    """One forward pass: what every module was given and returned, in order."""

    logits: torch.Tensor
    given: dict[str, torch.Tensor]
    returned: dict[str, torch.Tensor]
    calls: dict[str, list[Call]]

    @classmethod
    def of(cls, hf: nn.Module, ids: torch.Tensor) -> "_Run":
        run = cls(torch.empty(0), {}, {}, {})
        lists = {f"{path}." for path, module in hf.named_modules() if isinstance(module, nn.ModuleList | nn.Sequential)}

        def looker(path: str, module: nn.Module) -> Any:
            keep = path.rpartition(".")[0] + "." in lists

            def look(args: tuple, kwargs: dict, output: Any) -> None:
                first = output[0] if isinstance(output, tuple | list) and output else output
                if not isinstance(first, torch.Tensor):
                    return
                run.returned[path] = first.detach().clone()
                try:
                    run.given[path] = hidden_of(args, kwargs).detach().clone()
                except TypeError:
                    return
                if keep:
                    run.calls.setdefault(path, []).append(Call(module, args, kwargs))

            return look

        with hooked() as hooks, torch.no_grad():
            for path, module in hf.named_modules():
                if path:
                    hooks.on_any(module, looker(path, module))
            run.logits = hf(ids, use_cache=False).logits
        return run


def _stack(hf: nn.Module, seen: _Run) -> _Stack:
    """Find the longest list of modules that hand one stream on."""
    best: tuple[int, int, str] | None = None
    repeated = 0
    for path, module in hf.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential) or not len(module):
            continue
        names = [f"{path}.{name}" for name, _child in module.named_children()]
        if any(name not in seen.calls for name in names):
            continue
        if any(len(seen.calls[name]) > 1 for name in names):
            repeated = max(repeated, len(names))
            continue
        streams = all(seen.given[name].shape == seen.returned[name].shape for name in names)
        handed = all(
            seen.returned[one].shape == seen.given[two].shape and torch.equal(seen.returned[one], seen.given[two])
            for one, two in pairwise(names)
        )
        whole = seen.given[names[0]].dim() >= 3
        if streams and handed and whole and (best is None or (len(names), -path.count(".")) > best[:2]):
            best = (len(names), -path.count("."), path)
    if best is None or best[0] < repeated:
        why = "each layer runs more than once in a pass" if repeated else "no list of layers hands one stream on"
        raise UnsupportedModelError(
            f"{type(hf).__name__}: {why}, so there is no residual stream with one contribution per module; "
            "causalnet expresses decoder-only stacks of layers"
        )
    path = best[2]
    names = [f"{path}.{name}" for name, _child in hf.get_submodule(path).named_children()]
    calls = tuple(seen.calls[name][0] for name in names)
    leaves = seen.returned[names[-1]]
    width = hf.get_output_embeddings().weight.shape[1]  # type: ignore[operator]
    if leaves.dim() != 3:
        raise UnsupportedModelError(
            f"{type(hf).__name__}: the layers hand on a tensor of shape {list(leaves.shape)}, several residual streams "
            "at once; contributions to one stream are needed"
        )
    if leaves.shape[-1] != width:
        raise UnsupportedModelError(
            f"{type(hf).__name__}: the residual stream has width {leaves.shape[-1]}, the unembedding reads {width}; a "
            "projection between them is not expressed"
        )
    return _Stack(path, calls, leaves)


def _final_norm(hf: nn.Module, seen: _Run, stack: _Stack, head: nn.Module) -> str:
    """Find the module between the last layer and the unembedding."""
    inside = f"{stack.path}."
    reads = seen.given[next(path for path, module in hf.named_modules() if module is head)]
    between = [
        path
        for path, value in seen.given.items()
        if not path.startswith(inside) and value.shape == stack.leaves.shape and torch.equal(value, stack.leaves)
    ]
    for path in between:
        if hf.get_submodule(path) is not head and _factor(reads, seen.returned[path]) is not None:
            return path
    name = type(hf).__name__
    if torch.equal(reads, stack.leaves):
        raise UnsupportedModelError(
            f"{name}: the unembedding reads the last layer without a final norm; a post-norm trunk has no residual "
            "stream whose contributions sum to the logits"
        )
    passed = f" (only {', '.join(between)} reads the last layer)" if between else ""
    raise UnsupportedModelError(
        f"{name}: what lies between the last layer and the unembedding is not one norm{passed}; contributions would "
        "not be linear in the logits for a fixed scale"
    )


def _readout(hf: nn.Module, seen: _Run, stack: _Stack, norm: str, head: nn.Module) -> tuple[float | str, str]:
    """Find the factor of the logits and the soft-cap, as config fields where there are such."""
    module = hf.get_submodule(norm)
    weight: torch.Tensor = head.weight  # type: ignore[assignment]
    read_norm(module, weight.shape[1], dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        plain = head(module(stack.leaves)).double()
    logits = seen.logits.double()
    fields = numbers(text_config(hf.config))
    if (factor := _factor(logits, plain)) is not None:
        return named(factor, fields), ""
    for name, cap in fields.items():
        if "cap" in name and cap > 0 and bool((logits.abs() < cap).all()):
            factor = _factor(cap * torch.atanh(logits / cap), plain)
            if factor is not None:
                return named(factor, fields), name
    rest = f"the logits are not a multiple of {type(head).__name__}({type(module).__name__}(z))"
    raise UnsupportedModelError(f"{type(hf).__name__}: {rest}, with or without a soft-cap that the config names")


def _factor(one: torch.Tensor, other: torch.Tensor) -> float | None:
    """Return the number that ``one`` is of ``other``, None where it is no multiple."""
    if one.shape != other.shape:
        return None
    a, b = one.double().flatten(), other.double().flatten()
    factor = float(a @ b) / max(float(b @ b), 1e-300)
    tolerance = 1e-5 * float(a.abs().max())
    return factor if abs(factor) > 1e-9 and float((a - factor * b).abs().max()) <= tolerance else None


def _cached(hf: nn.Module, stack: _Stack, ids: torch.Tensor, logits: torch.Tensor) -> tuple[set[int], set[int]]:
    """Return the layers that hand keys and values to a cache, and those of them that need nothing else of the past."""
    from transformers import DynamicCache

    found: dict[int, int] = {}
    now = [-1]
    try:
        cache: Any = DynamicCache(config=hf.config)  # type: ignore[arg-type]
    except Exception:  # a config that says too little for a cache
        return set(), set()
    update = cache.update

    def spy(keys: torch.Tensor, values: torch.Tensor, layer: int, *args: Any, **kwargs: Any) -> Any:
        found[now[0]] = layer
        return update(keys, values, layer, *args, **kwargs)

    cache.update = spy
    half = ids.shape[1] // 2
    with hooked() as hooks, torch.no_grad():
        for index, call in enumerate(stack.calls):
            hooks.on_call(call.module, lambda _args, _kwargs, index=index: now.__setitem__(0, index))
        try:
            hf(ids[:, :half], past_key_values=cache, use_cache=True)
            rest = hf(ids[:, half:], past_key_values=cache, use_cache=True).logits
        except Exception:  # a cache that the model cannot use is none
            return set(found), set()
    if found and not torch.allclose(rest, logits[:, half:], rtol=0.0, atol=1e-4 * float(logits.abs().max())):
        return set(found), set()
    return set(found), {index for index, layer in found.items() if _only_keys(cache.layers[layer])}


def _only_keys(layer: Any) -> bool:
    """Whether a layer of a cache holds keys and values, and no other state."""
    held = {name for name, value in vars(layer).items() if isinstance(value, torch.Tensor) and value.dim() > 1}
    more = any(value for value in vars(layer).values() if isinstance(value, dict | list))
    return held == {"keys", "values"} and not more
