"""Small random copies of a model: the same code, a few thousand parameters.

A family that has no record is found out by probing such a copy, so that nothing of the real model has
to be loaded, and every convention (a gain stored less one, a bias, a multiplier) shows: no weight is
left at a value that would hide it.
"""

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from causalnet.errors import UnsupportedModelError

__all__ = ["build", "depth_of", "layer_signatures", "randomise", "shrink", "small_copy"]

WIDTH, HEADS, HEAD, VOCAB, EXPERTS, CONTEXT, WINDOW = 64, 4, 16, 160, 4, 64, 6
"""Sizes of a small copy: d_model, heads, d_head, vocabulary, experts, positions, sliding window."""

_HEAD_FIELDS = (
    *("num_attention_heads", "n_head", "n_heads", "num_heads"),
    *("decoder_attention_heads", "encoder_attention_heads"),
)
_LARGEST = 20_000_000

_DEPTH = re.compile(r"num_hidden_layers|n_layers?|num_layers|num_decoder_layers|decoder_layers|num_blocks")
_HEADS = re.compile(r"(.*_)?(num_|n_)?(\w+_)?heads?(_per_\w+)?|num_query_groups|(\w+_)?attention_heads|n_head_kv")
_HEAD_SIZE = re.compile(
    r"(.*_)?head_?dim|dim_head|d_head|.*_head_size|kv_channels|rotary_dim|mamba_d_head|.*headdim|rope_dim"
)
_WIDTH = re.compile(
    r"(\w+_)?(hidden_size|d_model|n_embd|n_inner|embed_dim|embedding_dim|embedding_size|intermediate_size\w*|"
    r"ffn_dim|ffn_hidden_size|dim_ff|dff|d_ff|d_inner|lru_width|lora_rank|width|word_embed_proj_dim|emb_dim|"
    r"feed_forward_size|d_ssm|mid_dim|lowrank|moe_dim|dim|rank)"
)
_VOCAB = re.compile(r"(?!type_|segment_)(\w+_)?vocab_size(_\w+)?")
_EXPERTS = re.compile(r"num_experts|n_routed_experts|num_local_experts|moe_num_experts|zero_expert_num|num_experts_\w+")
_CHOSEN = re.compile(
    r"(?!index_)(\w+_)?(num_experts_per_tok\w*|top_?k|top_k_experts|moe_k|moe_top_k|experts_per_tok\w*)"
)
_WINDOW = re.compile(
    r"(\w+_)?(sliding_window|sliding_window_size|window_size|attention_window_size|attention_chunk_size|"
    r"local_attention|local_attention_window_len|chunk_length)"
)
_CONTEXT = re.compile(
    r"(max_position_embeddings|n_positions|n_ctx|max_seq_len|seq_length|context_length|max_target\w+)"
)
_GROUPS = re.compile(r"n_groups?|topk_groups?|num_expert_groups?")
_DROPPED = ("transformers_version", "id2label", "label2id", "architectures", "dtype", "model_type", "_name_or_path")
_STATE = re.compile(r"(ssm_|mamba_)?(d_)?state(_size)?")
_TOKEN = re.compile(r"\w+_token_id|\w+_token_index|(pad|unk|mask|bos|eos)_index")


def small_copy(hf_class: type | None, config: Any, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Build a small random copy of a model, with at least one layer of each kind.

    Parameters
    ----------
    hf_class
        Class of the model; None for the causal LM that belongs to the config.
    config
        Config of the model that is copied; not changed.
    seed, dtype
        Of the random weights.

    Raises
    ------
    UnsupportedModelError
        If no small model can be built from the config.
    """
    try:
        narrow = shrink(config)
        try:
            small = shrink(config, layers=_depth_of_kinds(hf_class, narrow))
            meta = build(small, hf_class, device="meta")
        except Exception:  # some constructors need the depth that they were written for
            small = narrow
            meta = build(small, hf_class, device="meta")
        size = sum(parameter.numel() for parameter in meta.parameters())
        if size > _LARGEST:
            raise UnsupportedModelError(f"its smallest copy would still have {size / 1e6:.0f} million parameters")
        model = randomise(build(small, hf_class, dtype=dtype), seed)
        if dtype == torch.float64 and hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("eager")  # the grouped kernels have no float64
        return model
    except Exception as error:  # whatever a stranger's constructor raises
        raise UnsupportedModelError(
            f"no small copy of a {config.model_type} model could be built to probe: {type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0]}"
        ) from error


def build(config: Any, hf_class: type | None = None, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """Build a causal LM from a config, in eval mode; ``device="meta"`` allocates nothing."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    with torch.device(device):
        if hf_class is None:
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        else:
            model = (
                hf_class._from_config(config, dtype=dtype) if hasattr(hf_class, "_from_config") else hf_class(config)
            )
    return model.eval().to(dtype)


def randomise(model: Any, seed: int = 0) -> Any:
    """Give every parameter a random value of ordinary size, in place, and return the model.

    Matrices get entries of size 1/sqrt(fan-in) and vectors (gains, biases) move by about 0.2, so that a
    gain is never one and a bias never zero.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.dim() >= 2 and "norm" not in name:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_((0.2 * noise).to(parameter))
    return model


def shrink(config: Any, *, layers: int | None = None) -> Any:
    """Return a small copy of a config: the same structure, narrow and, if asked, shallow.

    Sizes are recognised by the names of the fields; ratios between heads, groups of heads, experts and
    widths are kept as far as small numbers can.

    Parameters
    ----------
    config
        A ``transformers`` config; not changed.
    layers
        Number of layers; None keeps it.
    """
    small = _shrunk_fields(config.to_dict(), layers, None)
    built = type(config)(**small)
    implementation = getattr(config, "_attn_implementation", None)
    if implementation is not None:
        built._attn_implementation = implementation
    return built


def _shrunk_fields(fields: Mapping[str, Any], layers: int | None, parent: "_Sizes | None") -> dict[str, Any]:
    """Shrink the fields of a config, and those of the configs inside it."""
    sizes = _Sizes.of(fields, parent)
    depth = next((v for n, v in fields.items() if _DEPTH.fullmatch(n) and isinstance(v, int)), None)
    out: dict[str, Any] = {}
    for name, value in fields.items():
        if name.startswith("_") or name in _DROPPED:
            continue
        if isinstance(value, Mapping) and "model_type" in value:
            out[name] = _shrunk_fields(value, layers, sizes)
        elif isinstance(value, Mapping) and "rope" in name:
            out[name] = _shrunk_rope(value, sizes)
        else:
            small = _shrunk(name, value, sizes)
            out[name] = small if layers is None or depth is None else _shallow(name, small, depth, layers)
    _keep_products(fields, out)
    return out


def _keep_products(fields: Mapping[str, Any], out: dict[str, Any]) -> None:
    """Keep heads · d_head equal to the width that it was equal to (state-space mixers)."""
    expand = next((v for n, v in fields.items() if re.fullmatch(r"(\w+_)?expand", n) and isinstance(v, int)), 0)
    width = next((n for n in ("hidden_size", "d_model") if isinstance(fields.get(n), int)), "")
    wholes = [(fields[width] * expand, out[width] * expand)] if expand and width else []
    wholes += [(v, out[n]) for n, v in fields.items() if n.endswith("d_ssm") and isinstance(v, int)]
    for whole, small in wholes:
        for heads, count in fields.items():
            for size, each in fields.items():
                both = _HEADS.fullmatch(heads) and _HEAD_SIZE.fullmatch(size)
                if both and isinstance(count, int) and isinstance(each, int) and count * each == whole:
                    out[size] = max(1, small // out[heads])


def depth_of(config: Any) -> int | None:
    """Return the number of layers that a config asks for."""
    fields = config.to_dict()
    inner = [value for value in fields.values() if isinstance(value, Mapping) and "model_type" in value]
    for group in (fields, *inner):
        for name, value in group.items():
            if _DEPTH.fullmatch(name) and isinstance(value, int):
                return value
    return None


def layer_signatures(layers: nn.ModuleList, config: Any) -> list[tuple]:
    """Say what each layer is made of; layers of one kind have equal signatures."""
    rows = [_scalars(layer) for layer in layers]
    # What differs in every single layer is its index, or follows from it.
    lists = [value for value in vars(config).values() if isinstance(value, list | tuple) and len(value) == len(layers)]
    lists = [value for value in lists if len(value) <= 2 or len({repr(item) for item in value}) < len(value)]
    indexing = {key for key in rows[0] if len(rows) > 2 and len({row.get(key) for row in rows}) == len(rows)}
    signatures = []
    for index, row in enumerate(rows):
        own = tuple(
            sorted((key, repr(value)) for key, value in row.items() if key not in indexing and "idx" not in key)
        )
        signatures.append((own, tuple(repr(value[index]) for value in lists)))
    return signatures


def _scalars(layer: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, module in layer.named_modules():
        found[path] = type(module).__name__
        for name, value in vars(module).items():
            if not name.startswith("_") and isinstance(value, bool | int | float | str):
                found[f"{path}.{name}"] = value
        for name, parameter in module.named_parameters(recurse=False):
            found[f"{path}.{name}"] = tuple(parameter.shape)
    return found


def _depth_of_kinds(hf_class: type | None, config: Any) -> int | None:
    """Return how many layers from the bottom show every kind of layer twice, or all of them."""
    depth = depth_of(config)
    if depth is None or depth <= 2:
        return depth
    model = build(config, hf_class, device="meta")
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    if not stacks:
        return depth
    signatures = layer_signatures(stacks[0], config.get_text_config())
    needed = 1 + max(signatures.index(kind) for kind in set(signatures))
    return max(2, needed)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What the sizes of a config are measured against."""

    width: float
    heads: float
    head: float

    @classmethod
    def of(cls, fields: Mapping[str, Any], parent: "_Sizes | None") -> "_Sizes":
        def first(names: tuple[str, ...], default: float) -> float:
            found = (fields.get(name) for name in names)
            whole = (v[0] if isinstance(v, list | tuple) and v else v for v in found)
            return next((float(v) for v in whole if isinstance(v, int) and v > 0), default)

        width = first(("hidden_size", "d_model", "n_embd", "dim_model", "emb_dim"), parent.width if parent else WIDTH)
        heads = first(_HEAD_FIELDS, parent.heads if parent else HEADS)
        return cls(width, heads, first(("head_dim", "attention_head_dim", "dim_head"), max(width // heads, 1)))

    def narrow(self, value: int) -> int:
        """Scale a width."""
        return value if value <= 1 else max(16, round(value * WIDTH / self.width / 8) * 8)

    def fewer(self, value: int) -> int:
        """Scale a number of heads."""
        return max(1, round(value * HEADS / self.heads)) if value > 1 else value

    def head_size(self, value: int) -> int:
        """Scale a size within one head."""
        return max(4, round(value * HEAD / self.head / 2) * 2) if value > 4 else value


_RULES: tuple[tuple[re.Pattern, Callable[[_Sizes, int], int]], ...] = (
    (_DEPTH, lambda sizes, value: value),
    (_VOCAB, lambda sizes, value: min(value, VOCAB)),
    (_CHOSEN, lambda sizes, value: min(value, 2)),
    (_GROUPS, lambda sizes, value: min(value, 1)),
    (_EXPERTS, lambda sizes, value: min(value, EXPERTS)),
    (_WINDOW, lambda sizes, value: WINDOW if value > 0 else value),
    (_CONTEXT, lambda sizes, value: min(value, CONTEXT)),
    (re.compile("original_max_position_embeddings"), lambda sizes, value: min(value, CONTEXT // 2)),
    (_HEAD_SIZE, _Sizes.head_size),
    (_HEADS, _Sizes.fewer),
    (_STATE, lambda sizes, value: min(value, 16)),
    (_WIDTH, _Sizes.narrow),
)


def _shrunk(name: str, value: Any, sizes: _Sizes) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if _TOKEN.fullmatch(name):
        return _token(value)
    if isinstance(value, int):
        return next((rule(sizes, value) for pattern, rule in _RULES if pattern.fullmatch(name)), value)
    if isinstance(value, list | tuple) and value and all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        return type(value)(_shrunk(name, v, sizes) for v in value)
    if isinstance(value, Mapping):
        return {key: _shrunk(str(key), v, sizes) for key, v in value.items()}
    return copy.deepcopy(value)


def _token(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_token(v) for v in value)
    return min(value, VOCAB - 1) if isinstance(value, int) else value


def _shrunk_rope(rope: Mapping[str, Any], sizes: _Sizes) -> dict[str, Any]:
    """Scale what in the rotary parameters has the length, or the sum, of the head."""
    out: dict[str, Any] = {}
    for name, value in rope.items():
        if isinstance(value, Mapping):
            out[name] = _shrunk_rope(value, sizes)
        elif name == "mrope_section":
            parts = [max(1, round(v * HEAD / sizes.head)) for v in value]
            parts[-1] += HEAD // 2 - sum(parts) if sum(value) * 2 == sizes.head else 0
            out[name] = parts
        elif name in ("long_factor", "short_factor"):
            out[name] = list(value)[: max(1, round(len(value) * HEAD / sizes.head))]
        else:
            out[name] = value
    return out


def _shallow(name: str, value: Any, depth: int, layers: int) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and _DEPTH.fullmatch(name) and value == depth:
        return layers
    if isinstance(value, Mapping):
        return {key: v for key, v in value.items() if not (str(key).isdigit() and int(key) >= layers)}
    if not isinstance(value, list | tuple):
        return value
    if len(value) == depth:
        return type(value)(value[:layers])
    if value and all(isinstance(v, list | tuple) and len(v) == 2 and isinstance(v[1], int) for v in value):
        return _repeats(value, layers)
    if "layer" in name or "idx" in name:
        return type(value)(v for v in value if not isinstance(v, int) or v < layers)
    return value


def _repeats(value: Any, layers: int) -> list:
    """Shorten a list of ``[pattern, times]`` to a number of layers."""
    flat = [kind for pattern, times in value for kind in list(pattern) * times][:layers]
    return [[[kind], 1] for kind in flat]
