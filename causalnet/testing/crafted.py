"""Real transformers whose weights were written by hand, so that their effects are known.

Each is an unmodified ``transformers`` GPT-2 in float64: no module is replaced, only weights and config are
chosen.  Attention and MLPs write into named directions of a basis that is orthogonal to the all-ones vector,
so that the centring of a LayerNorm does nothing to them.
"""

from typing import Any

import numpy as np

__all__ = ["FLAT", "basis", "blank_gpt2", "compensating_gpt2", "put", "saturating_gpt2", "sharp_norm"]

FLAT = 1e16
"""An eps this large swallows the variance it is added to: a norm then divides by a constant."""


def basis(width: int, count: int, seed: int = 0) -> np.ndarray:
    """Return orthonormal directions [count, width], each of mean zero.

    Examples
    --------
    >>> found = basis(8, 3)
    >>> bool(np.allclose(found @ found.T, np.eye(3))), bool(np.allclose(found.sum(1), 0))
    (True, True)
    """
    random = np.random.default_rng(seed).normal(size=(width, count))
    return np.linalg.qr(np.concatenate([np.ones((width, 1)), random], axis=1))[0][:, 1:].T


def blank_gpt2(layers: int, *, width: int, vocab: int, inner: int | None = None, activation: str = "linear") -> Any:
    """Return a GPT-2 in which every node writes zero, ready to be given weights.

    Queries and keys are zero, so attention averages over the positions before it; values are the stream itself;
    the norms inside the layers and at the end have an eps of 10¹⁶ and a gain of 10⁸, which makes them the
    identity to about 10⁻¹⁵ of what they read.

    Parameters
    ----------
    layers, width, vocab, inner
        Size; ``inner`` is the width inside the MLPs, default ``width``.
    activation
        Activation of the MLPs, as ``transformers`` calls it.

    Returns
    -------
    transformers.GPT2LMHeadModel
        In float64 and eval mode.
    """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocab, n_positions=32, n_embd=width, n_layer=layers, n_head=1, n_inner=inner or width,
        activation_function=activation, layer_norm_epsilon=FLAT, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model: Any = GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name, norm in model.named_modules():
            if name.endswith(("ln_1", "ln_2", "ln_f")):
                norm.weight.fill_(FLAT**0.5)
        for block in model.transformer.h:
            block.attn.c_attn.weight[:, 2 * width :] = torch.eye(width)
    return model


def sharp_norm(model: Any, eps: float = 1e-5) -> None:
    """Give a blank GPT-2 an ordinary final LayerNorm."""
    import torch

    with torch.no_grad():
        model.transformer.ln_f.eps = eps
        model.transformer.ln_f.weight.fill_(1.0)


def put(parameter: Any, values: np.ndarray) -> None:
    """Write an array into a parameter."""
    import torch

    with torch.no_grad():
        parameter.copy_(torch.as_tensor(np.asarray(values)))


def compensating_gpt2(share: float = 0.7, *, layers: int = 3, vocab: int = 24, seed: int = 0) -> Any:
    """Return a GPT-2 in which ``share`` of what ``attn[0]`` loses comes back from ``mlp[0]``, whatever is lost.

    ``attn[0]`` writes into directions that nothing else writes into; ``mlp[0]`` subtracts ``share`` of what it
    finds there.  So its clean direct effect is ``-share`` times that of ``attn[0]``, and an ablation changes it
    by ``share`` of what was lost.  Later layers are random and do not read those directions.  The final norm is
    an ordinary LayerNorm.

    Parameters
    ----------
    share
        The fraction that comes back.
    layers, vocab, seed
        Size, and the seed of everything that is random.

    Returns
    -------
    transformers.GPT2LMHeadModel
        In float64 and eval mode.
    """
    rng = np.random.default_rng(seed)
    width = 16
    directions = basis(width, 12, seed)
    words, own = directions[:6], directions[6:]
    model = blank_gpt2(layers, width=width, vocab=vocab)
    put(model.transformer.wte.weight, rng.normal(size=(vocab, 6)) @ words)
    put(model.lm_head.weight, rng.normal(size=(vocab, 12)) @ directions)
    block = model.transformer.h[0]
    put(block.attn.c_proj.weight, words.T @ rng.normal(size=(6, 6)) @ own)
    put(block.mlp.c_fc.weight, np.eye(width))
    put(block.mlp.c_proj.weight, -share * own.T @ own)
    for block in model.transformer.h[1:]:
        put(block.attn.c_proj.weight, words.T @ rng.normal(size=(6, 12)) @ directions / 3)
        put(block.mlp.c_fc.weight, np.eye(width))
        put(block.mlp.c_proj.weight, words.T @ rng.normal(size=(6, 12)) @ directions / 3)
    sharp_norm(model)
    return model


def saturating_gpt2(*, vocab: int = 16, seed: int = 0) -> Any:
    """Return a GPT-2 in which gradients mislead about three nodes of the first layers.

    Let x be what a node writes along its own direction, between 2 and 4 in every prompt.

    ========= ==================================== ======== ============== ==================================
    node      who answers it                       TE       first order    why
    ========= ==================================== ======== ============== ==================================
    attn[0]   nobody                               −x       −x             its effect is linear
    mlp[0]    ``mlp[1]`` adds 1.5 relu(2 − x)      3 − x    −x             the backup sleeps: false alarm
    attn[1]   ``mlp[2]`` subtracts relu(x − 1)     −1       0              the eraser cancels it: missed
    ========= ==================================== ======== ============== ==================================

    Everything is zero ablation at the last position, in units of the logit of token 0.

    Parameters
    ----------
    vocab, seed
        Size, and the seed of the embeddings.

    Returns
    -------
    transformers.GPT2LMHeadModel
        In float64 and eval mode, with the final norm frozen.
    """
    rng = np.random.default_rng(seed)
    width = 16
    word, backed, erased, plain, answer, one = basis(width, 6, seed)
    model = blank_gpt2(3, width=width, vocab=vocab, inner=2, activation="relu")
    # Of every token: 1 along `one`, and an amount between 2 and 4 along `word`.
    put(model.transformer.wte.weight, rng.uniform(2, 4, size=(vocab, 1)) * word + one)
    head = np.zeros((vocab, width))
    # The logit of token 0 less the mean over the vocabulary is what is written along the read-out directions.
    head[0] = (plain + backed + erased + answer) * vocab / (vocab - 1)
    put(model.lm_head.weight, head)
    first, second, third = model.transformer.h
    put(first.attn.c_proj.weight, np.outer(word, plain))
    put(first.mlp.c_fc.weight, np.stack([word, np.zeros(width)], 1))
    put(first.mlp.c_proj.weight, np.stack([backed, np.zeros(width)]))
    put(second.attn.c_proj.weight, np.outer(word, erased))
    put(second.mlp.c_fc.weight, np.stack([2 * one - backed, np.zeros(width)], 1))
    put(second.mlp.c_proj.weight, np.stack([1.5 * answer, np.zeros(width)]))
    put(third.mlp.c_fc.weight, np.stack([erased - one, np.zeros(width)], 1))
    put(third.mlp.c_proj.weight, np.stack([-answer, np.zeros(width)]))
    return model
