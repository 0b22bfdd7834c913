"""From a Hugging Face causal LM to checked mechanisms."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from causalnet.errors import CompileError, UnsupportedModelError
from causalnet.graph import Block, CausalGraph, Node
from causalnet.model.check import check
from causalnet.model.families import record_for, records
from causalnet.model.mechanism import Layer, Mechanism, Mechanisms
from causalnet.model.readout import Readout, read_norm
from causalnet.model.record import Family, Part

__all__ = ["bind", "compile_model"]


def compile_model(hf: nn.Module, *, granularity: str = "layer", name: str = "", verify: bool = True) -> Mechanisms:
    """Compile a loaded model into checked mechanisms.

    Parameters
    ----------
    hf
        A ``transformers`` causal LM in eval mode.
    granularity
        ``"layer"``, or ``"head"`` for graphs whose attention nodes are split into heads.
    name
        How the model is called in results; default its ``name_or_path`` or type.
    verify
        Hold the compiled form against the real model (residual closure, read points, readout closure).

    Raises
    ------
    UnsupportedModelError
        If the computation cannot be expressed as attention and MLP contributions to one residual stream.
    CompileError
        If the compiled form does not reproduce the model.
    """
    _refuse_unfit(hf)
    config = hf.config.get_text_config() if hasattr(hf.config, "get_text_config") else hf.config
    record = record_for(config)
    if record is None:
        known = sorted({kind for family in records() for kind in family.model_types})
        raise UnsupportedModelError(f"no family record for model type {config.model_type!r}; known: {', '.join(known)}")
    mechanisms = bind(hf, record, granularity=granularity, name=name)
    if verify:
        check(mechanisms).raise_on_misfit()
    return mechanisms


def bind(hf: nn.Module, record: Family, *, granularity: str = "layer", name: str = "") -> Mechanisms:
    """Bind a record's paths to the modules of a model, without checking them."""
    config = hf.config.get_text_config() if hasattr(hf.config, "get_text_config") else hf.config
    parallel = record.is_parallel(config)
    modules = _module(hf, record.layers, record)
    layers = tuple(_layer(config, record, index, layer, parallel) for index, layer in enumerate(modules))  # type: ignore[arg-type]
    head = hf.get_output_embeddings()  # type: ignore[operator]
    norm = _module(hf, record.norm, record)
    weight = head.weight
    scale = record.logit_scale(config) if callable(record.logit_scale) else record.logit_scale
    softcap = getattr(config, record.softcap, None) if record.softcap else None
    readout = Readout(
        read_norm(norm, weight.shape[1], dtype=weight.dtype, device=_device_of(norm, weight.device)),
        head,
        scale=float(scale),
        softcap=None if softcap is None else float(softcap),
    )
    label = name or getattr(config, "_name_or_path", "") or getattr(hf, "name_or_path", "") or config.model_type
    graph = CausalGraph.from_blocks(
        tuple(_block(config, layer) for layer in layers),
        granularity=granularity,
        name=str(label),
        meta={"model_type": config.model_type},
    )
    return Mechanisms(hf, graph, layers, readout, name=str(label))


def _block(config: Any, layer: Layer) -> Block:
    attn = layer.attn
    return Block(
        layer.index,
        attn=attn is not None,
        mlp=layer.mlp is not None,
        parallel=layer.parallel,
        heads=None if attn is None else attn.heads,
        window=_window(config, layer.index) if attn is not None else None,
        mixer="attention" if attn is None else attn.mixer,
        heads_sum=attn is None or attn.source is attn.module,
    )


def _window(config: Any, index: int) -> int | None:
    """Return the sliding window of a layer, None where it attends to everything before it."""
    window = getattr(config, "sliding_window", None)
    if not isinstance(window, int) or window <= 0 or getattr(config, "use_sliding_window", True) is False:
        return None
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return window if kinds[index] == "sliding_attention" else None
    return window


def _layer(config: Any, record: Family, index: int, module: nn.Module, parallel: bool) -> Layer:
    shared = bool(record.attn.norm) and record.attn.norm == record.mlp.norm
    attn = _mechanism(config, record, record.attn, Node("attn", index), module, shared)
    mlp = _mechanism(config, record, record.mlp, Node("mlp", index), module, shared)
    return Layer(index, module, attn, mlp, parallel)


def _mechanism(
    config: Any, record: Family, part: Part, node: Node, layer: nn.Module, shared: bool
) -> Mechanism | None:
    computes = _module(layer, part.module, record) if part.module else None
    source = _module(layer, part.source, record) if part.source else computes
    if source is None:
        raise CompileError(f"the record of {record.model_types[0]} names neither module nor source for {node}")
    scale = getattr(config, part.scale) if isinstance(part.scale, str) else part.scale
    return Mechanism(
        node,
        computes,
        source,
        norm=_module(layer, part.norm, record) if part.norm else None,
        norm_shared=shared,
        out=_module(computes, part.out, record) if part.out and computes is not None else None,
        heads=getattr(config, "num_attention_heads", None) if node.kind == "attn" else None,
        scale=float(scale),
        adds_residual=part.adds_residual,
        mixer=record.mixers.get(type(computes).__name__, "attention") if node.kind == "attn" else "",
    )


def _module(root: nn.Module, path: str, record: Family) -> nn.Module:
    """Follow a dotted path from a module, naming what is there when a step is missing."""
    found = root
    for step in path.split("."):
        children: Mapping[str, nn.Module] = dict(found.named_children())
        if step not in children:
            raise CompileError(
                f"the record of {record.model_types[0]} expects {path!r} in {type(root).__name__}, "
                f"which has {', '.join(children)}"
            )
        found = children[step]
    return found


def _device_of(module: nn.Module, default: torch.device) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), default)


def _refuse_unfit(hf: nn.Module) -> None:
    if not isinstance(hf, nn.Module) or not hasattr(hf, "config") or not hasattr(hf, "get_output_embeddings"):
        raise UnsupportedModelError(f"a transformers causal LM is expected, not {type(hf).__name__}")
    if getattr(hf.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{hf.config.model_type} is an encoder–decoder; causalnet compiles decoder-only causal language models"
        )
    if hf.training:
        raise UnsupportedModelError("the model is in training mode, so dropout would make it random; call model.eval()")
    if hf.get_output_embeddings() is None:  # type: ignore[operator]
        raise UnsupportedModelError(f"{type(hf).__name__} has no unembedding; load it with AutoModelForCausalLM")
