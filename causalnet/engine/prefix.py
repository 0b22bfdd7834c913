"""The natural prefix: keys and values that all rows of one prompt share, and attention over them.

A row that intervenes at position ``p`` leaves everything before ``p`` as it was.  Its attention reads the
natural keys and values of the prefix, which are stored once per prompt; only its own suffix is computed.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.cache_utils import CacheLayerMixin

from causalnet.model.mechanism import Mechanisms

__all__ = ["INTERFACE", "Prefix", "Rows", "attending", "prefix_cache"]

INTERFACE = "causalnet_shared_prefix"
_PLAIN_ARGUMENTS = frozenset({"dropout", "scaling", "is_causal", "sliding_window", "position_ids", "use_cache"})


@dataclass(eq=False)
class Prefix:
    """Keys and values [prompt, head, position, head_dim] of one layer, recorded by the natural run."""

    keys: torch.Tensor | None = None
    values: torch.Tensor | None = None


@dataclass(eq=False)
class Rows:
    """Which rows are in the batch: how they map to prompts, and where their suffix starts.

    Attributes
    ----------
    start
        First position of the suffix.
    prompt
        Prompt of each row, within ``block``.
    block
        Which prompts of the cache the rows belong to.
    by_prompt, inverse
        The order that sorts rows by prompt, and back; None where there is one prompt.
    prompts
        Number of prompts.
    shared
        For each layer whether its attention reads the shared prefix without a copy.
    fallback
        The model's own attention function.
    implementation
        Its name in the model's config.
    """

    start: int
    prompt: torch.Tensor
    block: slice = field(default_factory=lambda: slice(None))
    by_prompt: torch.Tensor | None = None
    inverse: torch.Tensor | None = None
    prompts: int = 1
    shared: dict[int, bool] = field(default_factory=dict)
    fallback: Callable[..., Any] | None = None
    implementation: str | None = None


@dataclass(eq=False)
class _Serving:
    """What all layers of a cache look at.

    They do not look at the cache itself: in a circle with its layers, its keys and values would outlive it.

    Attributes
    ----------
    upto
        How many positions of the natural run are recorded: later ones are computed by every row.
    rows
        The rows that are served; None while the natural run is recorded.
    """

    upto: int
    rows: Rows | None = None


class _PrefixLayer(CacheLayerMixin):
    """One layer of the cache: records the natural run, then serves it read-only."""

    def __init__(self, serving: _Serving, index: int, sliding: bool) -> None:
        super().__init__()
        self.serving = serving
        self.index = index
        self.is_sliding = sliding
        self.prefix = Prefix()
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to prepare."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Record the natural keys and values, or put the shared prefix before a row's own."""
        rows = self.serving.rows
        if rows is None:
            # Copies: what the model gives may be a view of queries, keys and values in one.
            upto, dense = self.serving.upto, torch.contiguous_format
            self.prefix.keys = key_states[:, :, :upto].clone(memory_format=dense)
            self.prefix.values = value_states[:, :, :upto].clone(memory_format=dense)
            return key_states, value_states
        if rows.shared.get(self.index):
            return key_states, value_states
        return self.joined(key_states, value_states, rows)

    def joined(
        self, key_states: torch.Tensor, value_states: torch.Tensor, rows: Rows
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return prefix and own keys and values, one after the other, for every row."""
        keys, values = self.shared(rows)
        which = rows.prompt[: key_states.shape[0]].to(keys.device)
        return (
            torch.cat([keys.index_select(0, which), key_states], dim=2),
            torch.cat([values.index_select(0, which), value_states], dim=2),
        )

    @property
    def recorded(self) -> tuple[torch.Tensor, ...]:
        """The recorded keys and values, if any."""
        return tuple(tensor for tensor in (self.prefix.keys, self.prefix.values) if tensor is not None)

    def shared(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the prefix's keys and values [prompt, head, prefix, head_dim], as views."""
        assert self.prefix.keys is not None and self.prefix.values is not None
        return self.prefix.keys[rows.block, :, : rows.start], self.prefix.values[rows.block, :, : rows.start]

    def serves(self, keys: torch.Tensor, values: torch.Tensor, rows: Rows) -> bool:
        """Return whether attention is given what is kept here; latent attention keeps something smaller."""
        which = rows.prompt[: keys.shape[0]].to(keys.device)
        return all(
            got.shape[1::2] == kept.shape[1::2] and torch.equal(got[:, :, : rows.start], kept.index_select(0, which))
            for got, kept in zip((keys, values), self.shared(rows), strict=True)
        )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (length, offset) of the keys that a mask must cover."""
        return self.get_seq_length() + int(query_length), 0

    def get_seq_length(self) -> int:
        """Return the length of the prefix."""
        return 0 if self.serving.rows is None else self.serving.rows.start

    def get_max_length(self) -> int:
        """Return -1: there is no maximum."""
        return -1


class _PrefixCache(Cache):
    """A ``transformers`` cache whose layers all look at the same set of rows."""

    def __init__(self, sliding: list[bool], upto: int) -> None:
        self.serving = serving = _Serving(upto)
        super().__init__(layers=[_PrefixLayer(serving, index, flag) for index, flag in enumerate(sliding)])  # type: ignore[arg-type]

    def recorded(self) -> bool:
        """Return whether every layer of the natural run left keys and values here."""
        return all(layer.prefix.keys is not None for layer in self.layers)  # type: ignore[union-attr]


def prefix_cache(mechanisms: Mechanisms, upto: int) -> _PrefixCache:
    """Return an empty cache for the first ``upto`` positions of one bucket of prompts."""
    kinds = getattr(mechanisms.config, "layer_types", None)
    count = len(mechanisms.layers)
    sliding = [kind == "sliding_attention" for kind in kinds][:count] if kinds else [False] * count
    return _PrefixCache(sliding, upto)


_ACTIVE: ContextVar[_PrefixCache | None] = ContextVar("causalnet_prefix", default=None)


@contextmanager
def attending(mechanisms: Mechanisms, cache: _PrefixCache, rows: Rows) -> Iterator[None]:
    """Serve the prefix to ``rows``; families that use the attention interface share it without a copy.

    The attention implementation named in the configs is put back, whatever is raised.
    """
    configs = _configs(mechanisms)
    before = [config._attn_implementation for config in configs]
    rows.implementation = before[0] if before else None
    rows.fallback = _own_attention(mechanisms, rows.implementation)
    token = _ACTIVE.set(cache)
    cache.serving.rows = rows
    try:
        for config in configs:
            config._attn_implementation_internal = INTERFACE
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name
        cache.serving.rows = None
        _ACTIVE.reset(token)


def _configs(mechanisms: Mechanisms) -> list[Any]:
    """Return the distinct configs that the attention modules look their implementation up in.

    Families with an attention of their own (Falcon, BLOOM) take an unknown name for another kind of mask.
    """
    found: dict[int, Any] = {}
    for layer in mechanisms.layers:
        if layer.attn is not None and layer.attn.module is not None:
            for module in layer.attn.module.modules():
                config = getattr(module, "config", None)
                looks_up = hasattr(sys.modules.get(type(module).__module__), "ALL_ATTENTION_FUNCTIONS")
                if looks_up and config is not None and hasattr(config, "_attn_implementation_internal"):
                    found[id(config)] = config
    return list(found.values())


def _own_attention(mechanisms: Mechanisms, name: str | None) -> Callable[..., Any] | None:
    """Return the attention function that the model itself would have called."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    module = next((layer.attn.module for layer in mechanisms.layers if layer.attn and layer.attn.module), None)
    eager = getattr(sys.modules.get(type(module).__module__, None), "eager_attention_forward", None)
    if name in (None, "eager"):
        return eager
    return ALL_ATTENTION_FUNCTIONS.get(name, eager)


def _shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend over the shared prefix and the rows' own suffix; see :func:`attend`."""
    cache = _ACTIVE.get()
    assert cache is not None and cache.serving.rows is not None, "this attention runs inside attending() only"
    rows, index = cache.serving.rows, int(module.layer_idx)  # type: ignore[arg-type]
    layer: _PrefixLayer = cache.layers[index]  # type: ignore[assignment]
    plain = all(name in _PLAIN_ARGUMENTS or given is None for name, given in kwargs.items() if name != "cache")
    if attention_mask is None:
        # A window that is not in the mask is kept by the model's own attention only.
        plain &= (kwargs.get("sliding_window") or 10**9) >= rows.start + query.shape[2]
    else:
        plain &= attention_mask.shape[1] == 1
    if index not in rows.shared:
        # First call of the layer: keys arrived with the prefix in front.  From now on they need not.
        rows.shared[index] = plain and rows.start > 0 and layer.serves(key, value, rows)
    elif rows.shared[index]:
        scaling = kwargs.get("scaling")
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        return attend(query, key, value, layer.shared(rows), attention_mask, scaling, rows), None
    assert rows.fallback is not None
    return rows.fallback(module, query, key, value, attention_mask, **kwargs)


def _own_mask(*args: Any, **kwargs: Any) -> Any:
    """Make the mask that the model's own attention would be given; without one its windows would be lost."""
    cache = _ACTIVE.get()
    assert cache is not None and cache.serving.rows is not None, "this mask is made inside attending() only"
    make = AttentionMaskInterface().get(cache.serving.rows.implementation)
    return None if make is None else make(*args, **kwargs)


AttentionInterface.register(INTERFACE, _shared_prefix_attention)
AttentionMaskInterface.register(INTERFACE, _own_mask)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefix: tuple[torch.Tensor, torch.Tensor],
    mask: torch.Tensor | None,
    scaling: float,
    rows: Rows,
) -> torch.Tensor:
    """Softmax attention of rows over their prompt's prefix and their own suffix.

    Parameters
    ----------
    query, key, value
        [row, head, suffix, head_dim] of the rows; keys and values may have fewer (grouped) heads.
    prefix
        Keys and values [prompt, kv_head, prefix, head_dim].
    mask
        Boolean or additive mask [1, 1, suffix, prefix + suffix], or None for causal.
    scaling
        Factor on the products of queries and keys.
    rows
        How rows map to prompts.

    Returns
    -------
    torch.Tensor
        [row, suffix, head, head_dim].
    """
    count, heads, suffix, width = query.shape
    kv_heads, group = key.shape[1], heads // key.shape[1]
    prompts, per = rows.prompts, count // rows.prompts
    if rows.by_prompt is not None:
        order = rows.by_prompt.to(query.device)
        query, key, value = (tensor.index_select(0, order) for tensor in (query, key, value))
    # [prompt, kv_head, row · group · suffix, head_dim]: one product per prompt over its prefix.
    queries = query.view(prompts, per, kv_heads, group, suffix, width).permute(0, 2, 1, 3, 4, 5)
    flat = queries.reshape(prompts, kv_heads, per * group * suffix, width)
    before = torch.matmul(flat, prefix[0].transpose(-1, -2)).mul_(scaling)
    keys = key.view(prompts, per, kv_heads, suffix, width).transpose(1, 2).unsqueeze(3)
    values = value.view(prompts, per, kv_heads, suffix, value.shape[-1]).transpose(1, 2).unsqueeze(3)
    if suffix == 1:
        own = (queries * keys).sum(-1, keepdim=True).mul_(scaling)
    else:
        own = torch.matmul(queries, keys.transpose(-1, -2)).mul_(scaling)
    before = before.view(prompts, kv_heads, per, group, suffix, -1)
    before, own = _masked(before, own, mask, rows.start)
    if before.dtype in (torch.bfloat16, torch.float16):
        before, own = before.float(), own.float()
    peak = torch.maximum(before.amax(-1, keepdim=True), own.amax(-1, keepdim=True))
    before.sub_(peak).exp_()
    own = (own - peak).exp_()
    total = before.sum(-1, keepdim=True) + own.sum(-1, keepdim=True)
    weights = before.to(query.dtype).view(prompts, kv_heads, per * group * suffix, -1)
    out = torch.matmul(weights, prefix[1]).view(prompts, kv_heads, per, group, suffix, -1)
    own = own.to(query.dtype)
    out += own * values if suffix == 1 else torch.matmul(own, values)
    out /= total.to(query.dtype)
    out = out.permute(0, 2, 4, 1, 3, 5).reshape(count, suffix, heads, -1).contiguous()
    return out if rows.inverse is None else out.index_select(0, rows.inverse.to(out.device))


def _masked(
    before: torch.Tensor, own: torch.Tensor, mask: torch.Tensor | None, start: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply the model's own mask (boolean or additive), split into its prefix and suffix parts."""
    suffix = own.shape[-1]
    if mask is None:
        if suffix > 1:
            future = torch.ones(suffix, suffix, dtype=torch.bool, device=own.device).triu(1)
            own = own.masked_fill(future, float("-inf"))
        return before, own
    part = mask[:, 0, :, : start + suffix]
    if mask.shape[0] != 1:
        part = part[:1]
    if part.dtype == torch.bool:
        low = torch.finfo(own.dtype).min
        return before.masked_fill(~part[..., :start], low), own.masked_fill(~part[..., start:], low)
    return before + part[..., :start], own + part[..., start:]
