"""From a record and a model to mechanisms: every path becomes the real module behind it."""

from typing import Any

import torch
from torch import nn

from causalnet.errors import CompileError, UnsupportedModelError
from causalnet.graph import Block, CausalGraph, Node
from causalnet.model.mechanism import Layer, Mechanism, Mechanisms
from causalnet.model.readout import Readout, read_norm
from causalnet.model.record import Family, Part, default_window, factor_of, field_of, text_config

__all__ = ["bind", "blocks_of", "graph_of", "layers_of", "parts_in"]


_PLAIN = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def bind(
    hf: nn.Module, record: Family, *, granularity: str = "layer", name: str = "", found: str = "record"
) -> Mechanisms:
    """Bind a record's paths to the modules of a model, without checking them.

    Parameters
    ----------
    hf
        A ``transformers`` causal LM.
    record
        The record of its family.
    granularity
        ``"layer"`` or ``"head"``.
    name
        How the model is called in results.
    found
        How the record came about: ``"record"`` or ``"discovery"``.

    Raises
    ------
    CompileError
        If the model lacks a module that the record names.
    UnsupportedModelError
        If heads are asked for where there are none, or no layer has an MLP.
    """
    config = text_config(hf.config)
    layers = layers_of(hf, record)
    head = hf.get_output_embeddings()  # type: ignore[operator]
    norm = _trunk_module(hf, record.norm, record)
    weight = getattr(head, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dtype not in _PLAIN:
        raise UnsupportedModelError(
            f"{config.model_type}: the unembedding ({type(head).__name__}) has no plain weight matrix, so logits "
            "cannot be split into direct effects; load the model without quantisation of its head"
        )
    softcap = field_of(config, record.softcap)
    readout = Readout(
        read_norm(norm, weight.shape[1], dtype=weight.dtype, device=_device_of(norm, weight.device)),
        head,
        scale=factor_of(config, record.logit_scale),
        softcap=float(softcap) if softcap else None,
    )
    graph = graph_of(hf, record, layers, granularity=granularity, name=name, found=found)
    return Mechanisms(hf, graph, layers, readout, found=found, name=graph.name)


def graph_of(
    hf: nn.Module, record: Family, layers: tuple[Layer, ...], *, granularity: str, name: str = "", found: str = "record"
) -> CausalGraph:
    """Return the causal graph of a model whose layers are bound; weights are not looked at."""
    config = text_config(hf.config)
    blocks = blocks_of(config, record, layers)
    kind = config.model_type
    if not any(block.mlp for block in blocks):
        raise UnsupportedModelError(
            f"{kind}: no layer has an MLP contribution of its own, only one that mixes positions (a state-space trunk, "
            "or a whole block in one module), so there are no attention and MLP nodes; compile a transformer, or a "
            "hybrid with separate MLPs"
        )
    if granularity == "head" and not any(block.heads for block in blocks):
        raise UnsupportedModelError(f"{kind}: the heads of no layer can be told apart; use granularity='layer'")
    label = name or getattr(config, "_name_or_path", "") or getattr(hf, "name_or_path", "") or kind
    meta = {"model_type": str(kind), "found": found}
    return CausalGraph.from_blocks(blocks, granularity=granularity, name=str(label), meta=meta)  # type: ignore[arg-type]


def layers_of(hf: nn.Module, record: Family) -> tuple[Layer, ...]:
    """Bind the layers alone."""
    config = text_config(hf.config)
    stack = _trunk_module(hf, record.layers, record)
    parallel = record.is_parallel(config)
    layers = tuple(_layer(config, record, index, module, parallel) for index, module in enumerate(stack.children()))
    for name, parts in (("attn", record.attn), ("mlp", record.mlp)):
        if parts and not any(getattr(layer, name) for layer in layers):
            paths = ", ".join(part.module or part.source for part in parts)
            raise CompileError(f"the record of {record.model_types[0]} expects {paths} in a layer, and none has it")
    return layers


def blocks_of(config: Any, record: Family, layers: tuple[Layer, ...]) -> tuple[Block, ...]:
    """Say of each layer what the graph must know."""
    blocks = []
    for layer in layers:
        attn = layer.attn
        part = None if attn is None else _part(record.attn, layer.module)
        blocks.append(
            Block(
                layer.index,
                attn=attn is not None,
                mlp=layer.mlp is not None,
                parallel=layer.parallel,
                heads=attn.heads if attn is not None and attn.out is not None else None,
                window=None if part is None else _window(config, part, layer.index),
                mixer="attention" if attn is None else attn.mixer,
                heads_sum=attn is None or attn.heads_sum,
            )
        )
    return tuple(blocks)


def _window(config: Any, part: Part, index: int) -> int | None:
    """Return how many positions the mixer of a layer sees, its own included; None for all earlier ones."""
    if part.window is None:
        return default_window(config, index) if part.mixer == "attention" else None
    if not part.window.size:
        return None
    kind = field_of(config, part.window.kinds, index)
    size = field_of(config, part.window.size, index) if str(kind or "") == part.window.kind else None
    return size + part.window.more if isinstance(size, int) and size > 0 else None


def _layer(config: Any, record: Family, index: int, module: nn.Module, parallel: bool) -> Layer:
    first, second = _part(record.attn, module), _part(record.mlp, module)
    if first is None and second is None:
        present = ", ".join(name for name, _child in module.named_children())
        kinds = "/".join(record.model_types)
        raise CompileError(f"layer {index}: the record of {kinds} describes neither part of it; it has {present}")
    shared = first is not None and second is not None and bool(first.norm) and first.norm == second.norm
    attn = None if first is None else _mechanism(config, record, first, Node("attn", index), module, shared)
    mlp = None if second is None else _mechanism(config, record, second, Node("mlp", index), module, shared)
    return Layer(index, module, attn, mlp, parallel and attn is not None and mlp is not None)


def _part(parts: tuple[Part, ...], layer: nn.Module) -> Part | None:
    """Return the first alternative whose modules a layer has."""
    for part in parts:
        paths = [path for path in (part.module, part.source, part.norm, *(path for path, _scale in part.also)) if path]
        found = [_find(layer, path) for path in paths]
        if any(module is None for module in found) or not found:
            continue
        if not part.classes or {type(found[0]).__name__, type(layer).__name__} & set(part.classes):
            return part
    return None


def parts_in(record: Family, layer: nn.Module) -> tuple[Part | None, Part | None]:
    """Return the parts of a record that describe the mixer and the MLP of a layer."""
    return _part(record.attn, layer), _part(record.mlp, layer)


def _mechanism(config: Any, record: Family, part: Part, node: Node, layer: nn.Module, shared: bool) -> Mechanism:
    computes = _module(layer, part.module, record) if part.module else None
    source = _module(layer, part.source, record) if part.source else computes
    if source is None:
        raise CompileError(f"the record of {record.model_types[0]} names neither module nor source for {node}")
    out = _find(computes, part.out) if part.out and computes is not None else None
    heads = _heads(config, part, out, node) if node.kind == "attn" else None
    return Mechanism(
        node,
        computes,
        source,
        norm=_module(layer, part.norm, record) if part.norm else None,
        norm_shared=shared,
        out=out if heads else None,
        heads=heads,
        scale=factor_of(config, part.scale),
        mixer=part.mixer if node.kind == "attn" else "",
        heads_sum=part.source in ("", f"{part.module}.{part.out}") and not part.also,
        cached=part.cached,
        also=tuple((_module(layer, path, record), factor_of(config, scale)) for path, scale in part.also),
    )


def _heads(config: Any, part: Part, out: nn.Module | None, node: Node) -> int | None:
    """Return the number of heads, None where the projection does not join that many."""
    count = field_of(config, part.heads, node.layer)
    weight = getattr(out, "weight", None)
    if not isinstance(count, int) or count < 1 or not isinstance(weight, torch.Tensor) or weight.dim() != 2:
        return None
    if weight.dtype not in _PLAIN:  # quantised: no slices to tell heads apart by
        return None
    # nn.Linear stores [out, in], the Conv1D of GPT-2 [in, out].
    width = weight.shape[1] if isinstance(out, nn.Linear) else weight.shape[0]
    return count if width % count == 0 else None


def _trunk_module(hf: nn.Module, path: str, record: Family) -> nn.Module:
    """Follow a path from a model, or from the text model inside a larger one."""
    found = _find(hf, path)
    if found is None and hasattr(hf, "get_decoder"):
        decoder = hf.get_decoder()  # type: ignore[operator]
        found = _find(decoder, path.partition(".")[2]) if isinstance(decoder, nn.Module) else None
    return found if found is not None else _module(hf, path, record)


def _find(root: nn.Module, path: str) -> nn.Module | None:
    """Follow a dotted path from a module; None where a step is missing."""
    found: nn.Module | None = root
    for step in path.split("."):
        found = None if found is None else dict(found.named_children()).get(step)
    return found


def _module(root: nn.Module, path: str, record: Family) -> nn.Module:
    """Follow a dotted path from a module, naming what is there when a step is missing."""
    found = _find(root, path)
    if found is None:
        raise CompileError(
            f"the record of {record.model_types[0]} expects {path!r} in {type(root).__name__}, "
            f"which has {', '.join(name for name, _child in root.named_children())}"
        )
    return found


def _device_of(module: nn.Module, default: torch.device) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), default)
