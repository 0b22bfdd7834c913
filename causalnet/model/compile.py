"""From a Hugging Face causal LM, or its config alone, to checked mechanisms and their causal graph."""

from typing import Any

import torch
from torch import nn

from causalnet.errors import CompileError, InputError, UnsupportedModelError, explain
from causalnet.graph import CausalGraph
from causalnet.model.bind import bind, graph_of, layers_of
from causalnet.model.check import CheckReport, check
from causalnet.model.discover import discover
from causalnet.model.families import record_for
from causalnet.model.mechanism import Mechanisms
from causalnet.model.record import Family, text_config
from causalnet.model.shrink import build

__all__ = ["bind", "compile_config", "compile_model"]

_GRANULARITIES = ("layer", "head")


def compile_model(
    hf: nn.Module, *, granularity: str = "layer", name: str = "", record: Family | None = None, verify: bool = True
) -> Mechanisms:
    """Compile a loaded model into checked mechanisms.

    Parameters
    ----------
    hf
        A ``transformers`` causal LM in eval mode.
    granularity
        ``"layer"``, or ``"head"`` for graphs whose attention nodes are split into heads.
    name
        How the model is called in results; default its ``name_or_path`` or type.
    record
        Record to use; default that of the model's family, or one that is discovered where there is none.
    verify
        Hold the compiled form against the real model (residual closure, read points, readout closure).

    Raises
    ------
    UnsupportedModelError
        If the computation cannot be expressed as attention and MLP contributions to one residual stream.
    CompileError
        If the compiled form does not reproduce the model.

    Examples
    --------
    >>> from causalnet.model.small import small_model
    >>> mechanisms = compile_model(small_model("gptj"))
    >>> mechanisms.found, mechanisms.graph.blocks[0].kind
    ('record', 'parallel')
    """
    _check_granularity(granularity)
    _refuse_unfit(hf)
    config = text_config(hf.config)
    known = record or _record(config)
    mechanisms = _bound(hf, known, granularity, name)
    if not verify:
        return mechanisms
    report = check(mechanisms)
    if report.holds or record is not None or mechanisms.found == "discovery":
        report.raise_on_misfit()
        return mechanisms
    return _second_try(hf, report, granularity, name)


def _second_try(hf: nn.Module, report: CheckReport, granularity: str, name: str) -> Mechanisms:
    """Discover a model that its family's record does not describe; where that fails too, say both reasons."""
    try:
        mechanisms = bind(hf, discover(hf), granularity=granularity, name=name, found="discovery")
        other = check(mechanisms)
        why = "" if other.holds else str(other.worst)
    except (UnsupportedModelError, CompileError) as refusal:
        raise CompileError(f"{report.misfit}; discovery found: {refusal}") from refusal
    if why:
        raise CompileError(f"{report.misfit}; what discovery finds misses as well: {why}")
    return mechanisms


def compile_config(config: Any, *, granularity: str = "layer", name: str = "") -> CausalGraph:
    """Return the causal graph of the model that a config describes, without weights.

    Modules are made on the meta device, so a 70B model costs no memory.  Where the family has no record,
    a small random copy with one layer of each kind is probed and the result applied to every layer.

    Parameters
    ----------
    config
        A ``transformers`` config.
    granularity, name
        As in :func:`compile_model`.

    Raises
    ------
    UnsupportedModelError
        If it is not the config of a causal LM that can be expressed.

    Examples
    --------
    >>> from transformers import Gemma2Config
    >>> graph = compile_config(Gemma2Config(num_hidden_layers=2))
    >>> [block.window for block in graph.blocks]
    [4096, None]
    """
    _check_granularity(granularity)
    _refuse_config(config)
    record = _record(text_config(config))
    try:
        hf = build(config, device="meta")
    except (ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        kind = getattr(config, "model_type", type(config).__name__)
        # transformers lists every config class that it knows; the first clause says it all.
        reason = " ".join(str(error).split())[:160]
        raise UnsupportedModelError(f"{kind}: no causal LM can be made from this config: {reason}") from error
    if record is not None:
        try:
            return _graph(hf, record, granularity, name, "record")
        except CompileError:  # a wrapper or a build of the family that the record does not know
            pass
    return _graph(hf, discover(hf), granularity, name, "discovery")


def _graph(hf: nn.Module, record: Family, granularity: str, name: str, found: str) -> CausalGraph:
    return graph_of(hf, record, layers_of(hf, record), granularity=granularity, name=name, found=found)


def _record(config: Any) -> Family | None:
    """Return the record of a config's family, unless it says that such a model cannot be expressed."""
    record = record_for(config)
    why = record.refuse(config) if record is not None else ""
    if why:
        raise UnsupportedModelError(f"{config.model_type}: {why}")
    return record


def _bound(hf: nn.Module, record: Family | None, granularity: str, name: str) -> Mechanisms:
    """Bind the record; discover one where there is none, or where it is of another build of the family."""
    if record is None:
        return bind(hf, discover(hf), granularity=granularity, name=name, found="discovery")
    try:
        return bind(hf, record, granularity=granularity, name=name)
    except CompileError as misfit:
        try:
            found = discover(hf)
        except UnsupportedModelError as refusal:
            raise CompileError(f"{misfit}; and discovery found: {refusal}") from misfit
        return bind(hf, found, granularity=granularity, name=name, found="discovery")


def _check_granularity(granularity: str) -> None:
    if granularity not in _GRANULARITIES:
        what = f"unknown granularity {granularity!r}"
        raise InputError(explain(what, legal=_GRANULARITIES, got=str(granularity)))


def _refuse_config(config: Any) -> None:
    kind = getattr(config, "model_type", "")
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{kind} is an encoder–decoder; causalnet compiles decoder-only causal language models"
        )


def _refuse_unfit(hf: Any) -> None:
    """Refuse what is no causal LM ready to be run."""
    if not isinstance(hf, nn.Module) or not hasattr(hf, "config") or not hasattr(hf, "get_output_embeddings"):
        raise UnsupportedModelError(f"a transformers causal LM is expected, not {type(hf).__name__}")
    _refuse_config(hf.config)
    if any(module.training for module in hf.modules()):
        raise UnsupportedModelError("the model is in training mode, so dropout would make it random; call model.eval()")
    if hf.get_output_embeddings() is None:  # type: ignore[operator]
        raise UnsupportedModelError(f"{type(hf).__name__} has no unembedding; load it with AutoModelForCausalLM")
    if any(isinstance(p, torch.Tensor) and p.is_meta for p in hf.parameters()):
        raise UnsupportedModelError(
            f"{type(hf).__name__} has parameters without values (meta device); compile its config for the graph alone"
        )
