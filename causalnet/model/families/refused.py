"""Architectures that cannot be expressed, with the reason, so that it is said in plain words."""

from causalnet.model.record import Family

_STATE = (
    "a pure state-space trunk: every layer is one mixer that carries a state across positions, with no attention and "
    "no MLP contribution of its own, so it has no graph of attention and MLP nodes; compile a transformer, or a hybrid "
    "whose layers have an MLP (Jamba, Qwen3-Next, RecurrentGemma)"
)
_SHIFT = (
    "both of its mechanisms mix every token with the one before (time shift) and carry a state across positions, which "
    "is not attention followed by an MLP; compile a transformer, or a hybrid whose MLPs see one position at a time"
)

RECORDS = (
    Family(("mamba", "mamba2", "falcon_mamba"), refuse=lambda config: _STATE),
    Family(("rwkv",), refuse=lambda config: _SHIFT),
)
