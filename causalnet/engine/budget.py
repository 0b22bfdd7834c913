"""How much may be in memory at once: tokens of one batch, bytes of natural runs."""

from dataclasses import dataclass

import torch

from causalnet.model.mechanism import Mechanisms

__all__ = ["Budget", "budget_of"]

_NATURAL_TOKENS = 4096
_ACTIVATIONS = 6
"""Tensors as wide as the widest activation that one token needs on its way through a layer, at most."""


@dataclass(frozen=True)
class Budget:
    """What a run may take at once, beside weights, the values that donors give, and results.

    Attributes
    ----------
    tokens
        Tokens of the rows of one batch.
    natural
        Bytes of all natural runs that are at hand.
    natural_tokens
        Tokens of one natural run.
    """

    tokens: int
    natural: int
    natural_tokens: int

    def prompts(self, length: int, each: int) -> int:
        """Return how many prompts of ``length`` tokens, which keep ``each`` bytes, are run naturally at once."""
        return max(1, min(self.natural_tokens // length, self.natural // max(each, 1)))


def budget_of(mechanisms: Mechanisms, memory: int | None = None) -> Budget:
    """Return what a run may take.

    Parameters
    ----------
    mechanisms
        The compiled model.
    memory
        Bytes for rows and natural runs, half of it each; default: found from the device.

    Notes
    -----
    On a CPU the widest activation of the rows is kept near 16 MiB: larger ones are mapped anew by the allocator
    in every layer, which costs more than the batch gains.  What is free there plays no part, so that the same run
    is cut alike, and gives the same bits, however busy the machine is.  On a GPU a quarter of the free memory is
    for rows and a fifth for natural runs.
    """
    config = mechanisms.config
    inner = [getattr(config, name, None) for name in ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")]
    widest = max([4 * mechanisms.width, *(size for size in inner if isinstance(size, int))])
    token = widest * torch.empty(0, dtype=mechanisms.dtype).element_size()
    if mechanisms.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(mechanisms.device)
        tokens, natural = max(1, free // (4 * _ACTIVATIONS * token)), free // 5
    else:
        tokens, natural = max(64, (1 << 24) // token), 1 << 30
    if memory is None:
        return Budget(tokens, natural, _NATURAL_TOKENS)
    # A natural run's own activations pass before any rows are there.
    most = max(1, memory // 2 // (_ACTIVATIONS * token))
    return Budget(min(tokens, most), min(natural, memory // 2), min(_NATURAL_TOKENS, most))
